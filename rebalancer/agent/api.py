"""This module has the agent's routes: they parse, call store and worker, and render."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs

from rebalancer import __version__
from rebalancer.agent.limits import LimitValues
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.state.cursor import Cursor
from rebalancer.agent.state.posted import read_posted
from rebalancer.agent.state.statefile import BrokenFile
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent.worker import Worker
from rebalancer.agent_protocol import (
    FEATURES,
    AssignmentReport,
    AssignmentStats,
    Dialect,
    ReportedState,
    report_to_wire,
    server_header,
)
from rebalancer.bodies import whole_number
from rebalancer.config import AgentApi
from rebalancer.daemon import AT_ONCE_BYTES, body_json
from rebalancer.domain.objects import canonical_uuid
from rebalancer.errors import (
    BadRequest,
    Conflict,
    NotFound,
    RequestError,
    StoreError,
    Unavailable,
)
from rebalancer.log import get_logger
from rebalancer.serving.app import Answer, App, Request
from rebalancer.threads import Work, run_sync

log = get_logger()

#: Assignments in one answer to GET /assignments.
PAGE, MAX_PAGE = 100, 1000
#: Causes of waiting that /status names.
MAX_CAUSES = 100


@attrs.define(eq=False)
class Agent:
    """An agent is what the routes work on.

    Mutable state: whether the agent is ending, and when it began.
    """

    config: AgentApi
    store: AssignmentStore
    worker: Worker
    metrics: AgentMetrics
    is_draining: bool = False
    started: float = attrs.field(factory=time.monotonic)

    async def accept(self, body: bytes) -> str:
        """Store a posted assignment and queue it; return its id.

        Raises:
          BadRequest, TooLarge, Conflict, Unavailable: and nothing has changed.
        """
        if self.is_draining:
            raise Unavailable("the agent is stopping")
        if len(body) <= AT_ONCE_BYTES:
            posted = read_posted(body)
        else:
            posted = await run_sync(Work.VIEWS, read_posted, body)
        name, saving = posted.key, self.worker.intake.backlog.saving
        if name in saving:
            raise Conflict(f"assignment {posted.id} is being saved")
        saving.add(name)
        try:
            stored = await run_sync(Work.STORE, self.store.save, posted)
        except StoreError as exc:
            raise Unavailable(str(exc)) from exc
        else:
            self.worker.intake.add(stored)
        finally:
            saving.discard(name)
        return posted.id

    async def report(self, name: str) -> dict[str, Any]:
        """Return how an assignment stands, in the dialect of whoever posted it.

        Raises:
          NotFound: it is unknown, or its file turns out to be none and is set aside.
          StoreError: its file cannot be read, now or by this agent.
        """
        if (progress := self.worker.progress(name)) is None:
            progress = await self._look(name)
        dialect, stats = progress
        fixed = self.config.dialect
        report = AssignmentReport(name, stats)
        return report_to_wire(report, dialect if fixed == "auto" else Dialect(fixed))

    async def _look(self, name: str) -> tuple[Dialect, AssignmentStats]:
        try:
            return await run_sync(Work.VIEWS, self.stands, name)
        except BrokenFile as exc:
            broken = exc
        await self.worker.intake.set_aside(name, broken)
        raise NotFound(f"the file of assignment {name} was broken")

    def stands(self, name: str) -> tuple[Dialect, AssignmentStats]:
        """Return how an assignment stands, from memory or from disk.  Blocking.

        Raises:
          NotFound: it is unknown.
          StoreError: its file cannot be read.
        """
        if (progress := self.worker.progress(name)) is not None:
            return progress
        stored, finished = self.store.load(name)
        state = ReportedState.COMPLETE if finished else ReportedState.SCHEDULED
        return stored.dialect, stored.report(state).stats


def make_api(agent: Agent) -> App:
    """Return the application that has these routes."""
    app = App(server_header(__version__), agent.config.max_body_bytes)
    app.errors_are_json = True
    app.takes_slash = True  # as the deployed agent does, `/assignments/` too
    app.on_request = lambda request: agent.metrics.request(request.method)
    app.meaning = _meaning
    _route_assignments(app, agent)
    _route_limits(app, agent)

    @app.get("/ping")
    async def ping(_request: Request) -> Answer:
        return _json({"ping": "pong", "version": __version__})

    @app.get("/status")
    async def status(_request: Request) -> Answer:
        return _json(_status(agent, await agent.worker.free_bytes()))

    @app.get("/openapi.json")
    async def describe(_request: Request) -> Answer:
        # Agents are rarely asked for it, and start without the modules that it takes.
        from rebalancer.agent.openapi import description

        return _json(description())

    return app


def _route_assignments(app: App, agent: Agent) -> None:
    @app.post("/assignments", brief=True)
    async def post_assignment(request: Request) -> Answer:
        try:
            return _json(await agent.accept(request.body))
        except RequestError as exc:
            agent.metrics.refused(exc.status)
            raise

    @app.get("/assignments/<assignment_id>", brief=True)
    async def get_assignment(_request: Request, assignment_id: str) -> Answer:
        return _json(await agent.report(_key(assignment_id)))

    @app.delete("/assignments/<assignment_id>", brief=True)
    async def delete_assignment(_request: Request, assignment_id: str) -> Answer:
        name = _key(assignment_id)
        await run_sync(Work.STORE, agent.store.delete, name)
        agent.worker.writer.forget(name)
        return Answer()

    @app.get("/assignments")
    async def list_assignments(request: Request) -> Answer:
        limit, before = _page(request.parameters)
        page = await run_sync(Work.VIEWS, agent.store.newest, limit, before)
        found, link = await run_sync(Work.VIEWS, _summaries, agent, page), {}
        if len(page) == limit:
            link["Link"] = f'</assignments?limit={limit}&before={page[-1]}>; rel="next"'
        return _json(found, link)


def _route_limits(app: App, agent: Agent) -> None:
    @app.get("/limits")
    async def get_limits(_request: Request) -> Answer:
        return _json(attrs.asdict(agent.worker.limits.values))

    @app.put("/limits")
    async def put_limits(request: Request) -> Answer:
        return await change(agent.worker.limits.values.changed(await body_json(request.body)))

    @app.delete("/limits/bandwidth_bytes_per_s")
    async def reset_bandwidth(_request: Request) -> Answer:
        limits = agent.worker.limits
        rate = limits.configured.bandwidth_bytes_per_s
        return await change(attrs.evolve(limits.values, bandwidth_bytes_per_s=rate))

    async def change(values: LimitValues) -> Answer:
        await agent.worker.limits.change(values)
        log.info("limits changed", **attrs.asdict(values))
        return _json(attrs.asdict(values))


def _status(agent: Agent, free: int | None) -> dict[str, Any]:
    """Return the answer to GET /status, of an agent whose disk has `free` bytes."""
    worker, backlog = agent.worker, agent.worker.intake.backlog
    return {
        "version": __version__,
        "features": list(FEATURES),
        "uptime_s": round(time.monotonic() - agent.started, 3),
        "waiting": len(backlog),
        "running": sorted(backlog.running),
        "running_tasks": sum(fetcher.at_work for fetcher in worker.fetchers),
        "limits": attrs.asdict(worker.limits.values),
        "bytes_received": worker.received,
        "bytes_per_s": worker.bytes_per_s(),
        "disk_free_bytes": free,
        "resume_failures": worker.intake.unreadable,
        "state_write_retries": worker.writer.retries,
        "waiting_for": [attrs.asdict(wait) for wait in worker.waits.causes[:MAX_CAUSES]],
        "last_errors": list(worker.failures.last),
        "engine": next((one.engine for one in worker.fetchers if one.engine), None),
    }


def _meaning(exc: Exception, request: Request) -> RequestError | None:
    """Return the answer to an exception: state that cannot be used now may be so later."""
    if not isinstance(exc, StoreError):
        return None
    log.warning("request not answered for want of its file", path=request.path, error=str(exc))
    return Unavailable(str(exc))


def _key(assignment_id: str) -> str:
    """Return the key of the assignment that a path names.

    Raises:
      BadRequest: it names none.
    """
    if (key := canonical_uuid(assignment_id)) is None:
        raise BadRequest(f"{assignment_id[:80]!r} is no UUID")
    return key


def _page(arguments: Mapping[str, str]) -> tuple[int, Cursor | None]:
    """Return how many assignments a request wants, and behind which one.

    Raises:
      BadRequest: says which argument cannot be used.
    """
    limit = whole_number("limit", arguments.get("limit", str(PAGE)), 1, MAX_PAGE)
    before = arguments.get("before")
    return limit, None if before is None else Cursor.parse(before)


def _summaries(agent: Agent, page: Sequence[Cursor]) -> list[dict[str, Any]]:
    """Return the counts of assignments but for those that have gone meanwhile.  Blocking."""
    found = []
    for _, name in page:
        with suppress(NotFound, StoreError):
            _, stats = agent.stands(name)
            found.append(
                {
                    "uuid": name,
                    "state": stats.state,
                    "failed": stats.failed,
                    "complete": stats.complete,
                    "total": stats.total,
                }
            )
    return found


def _json(value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(json.dumps(value).encode(), headers=headers or {})
