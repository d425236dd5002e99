"""The agent's routes: parse, call store and worker, render."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio
from quart import Response, request
from quart_trio import QuartTrio

from rebalancer import __version__, wire
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.store import AssignmentStore, Cursor
from rebalancer.agent.worker import Worker
from rebalancer.config import AgentApi
from rebalancer.daemon import body_json, make_app
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.errors import BadRequest, Conflict, NotFound, StoreError, Unavailable
from rebalancer.log import get_logger
from rebalancer.wire import AssignmentReport, AssignmentStats, Dialect

log = get_logger()

#: Assignments in one answer to GET /assignments.
PAGE, MAX_PAGE = 100, 1000


@attrs.define(eq=False)
class Agent:
    """What the routes work on.

    Mutable state: whether the agent is ending, and when it began.
    """

    config: AgentApi
    store: AssignmentStore
    worker: Worker
    metrics: AgentMetrics
    is_draining: bool = False
    started: float = attrs.field(factory=time.monotonic)

    async def accept(self, body: Any) -> str:
        """Store a posted assignment and queue it; its id.

        Raises:
          BadRequest, Conflict, Unavailable: and nothing has changed.
        """
        if self.is_draining:
            raise Unavailable("the agent is stopping")
        assignment = wire.read_assignment(body)
        name = assignment.id.lower()
        saving = self.worker.backlog.saving
        if name in saving:
            raise Conflict(f"assignment {assignment.id} is being saved")
        saving.add(name)
        try:
            save = partial(self.store.save, assignment, wire.detect_dialect(body))
            stored = await trio.to_thread.run_sync(save)
        except StoreError as exc:
            raise Unavailable(str(exc)) from exc
        else:
            self.worker.add(stored)
        finally:
            saving.discard(name)
        return assignment.id

    async def report(self, assignment_id: str) -> dict[str, Any]:
        """How an assignment stands, in the dialect of whoever posted it.

        Raises:
          NotFound: it is unknown.
        """
        name = assignment_id.lower()
        if (progress := self.worker.progress(name)) is None:
            progress = await trio.to_thread.run_sync(self.stands, name)
        dialect, stats = progress
        fixed = self.config.dialect
        report = AssignmentReport(name, stats)
        return wire.report_to_wire(report, dialect if fixed == "auto" else Dialect(fixed))

    def stands(self, name: str) -> tuple[Dialect, AssignmentStats]:
        """How an assignment stands, from memory or from disk.  Blocking.

        Raises:
          NotFound: it is unknown.
          StoreError: its file cannot be read.
        """
        if (progress := self.worker.progress(name)) is not None:
            return progress
        stored, finished = self.store.load(name)
        return stored.dialect, stored.report(running=False, finished=finished).stats


def make_api(agent: Agent) -> QuartTrio:
    """The application."""
    app = make_app(__name__, f"rebalancer-agent {__version__}", agent.config.max_body_bytes)
    app.config["JSON_ERRORS"] = True

    @app.before_request
    async def count() -> None:
        agent.metrics.request(request.method)

    @app.post("/assignments")
    async def post_assignment() -> Response:
        return _json(await agent.accept(await body_json()))

    @app.get("/assignments/<assignment_id>")
    async def get_assignment(assignment_id: str) -> Response:
        return _json(await agent.report(_checked(assignment_id)))

    @app.delete("/assignments/<assignment_id>")
    async def delete_assignment(assignment_id: str) -> Response:
        name = _checked(assignment_id).lower()
        await trio.to_thread.run_sync(agent.store.delete, name)
        agent.worker.forget(name)
        return Response("", content_type="application/json")

    @app.get("/assignments")
    async def list_assignments() -> Response:
        limit, before = _page(request.args)
        page = await trio.to_thread.run_sync(agent.store.newest, limit, before)
        response = _json(await trio.to_thread.run_sync(_summaries, agent, page))
        if len(page) == limit:
            after = f"/assignments?limit={limit}&before={page[-1]}"
            response.headers["Link"] = f'<{after}>; rel="next"'
        return response

    @app.get("/limits")
    async def get_limits() -> Response:
        return _json(attrs.asdict(agent.worker.limits.values))

    @app.put("/limits")
    async def put_limits() -> Response:
        limits = agent.worker.limits
        await limits.change(limits.values.changed(await body_json()))
        log.info("limits", **attrs.asdict(limits.values))
        return _json(attrs.asdict(limits.values))

    @app.get("/ping")
    async def ping() -> Response:
        return _json({"ping": "pong", "version": __version__})

    @app.get("/status")
    async def status() -> Response:
        free: int | None = None
        with suppress(OSError):  # told as null: /status must answer when the disk does not
            free = await trio.to_thread.run_sync(agent.worker.files.free_bytes)
        return _json(
            {
                "version": __version__,
                "uptime_s": round(time.monotonic() - agent.started, 3),
                "waiting": len(agent.worker.backlog),
                "running": sorted(agent.worker.backlog.running),
                "running_tasks": sum(fetcher.at_work for fetcher in agent.worker.fetchers),
                "limits": attrs.asdict(agent.worker.limits.values),
                "bytes_received": agent.worker.received,
                "bytes_per_s": agent.worker.bytes_per_s(),
                "disk_free_bytes": free,
                "resume_failures": agent.worker.resume_failures,
                "state_write_retries": agent.worker.state_retries,
                "last_errors": list(agent.worker.last_errors),
            }
        )

    return app


def _checked(assignment_id: str) -> str:
    if not is_loose_uuid(assignment_id):
        raise BadRequest(f"{assignment_id!r} is no UUID")
    return assignment_id


def _page(arguments: Mapping[str, str]) -> tuple[int, Cursor | None]:
    """What of all assignments a request wants.

    Raises:
      BadRequest: says which argument cannot be used.
    """
    text = arguments.get("limit", str(PAGE))
    if not (text.isdecimal() and text.isascii() and 1 <= int(text[:9]) <= MAX_PAGE):
        raise BadRequest(f"limit: expected a number from 1 to {MAX_PAGE}, got {text[:80]!r}")
    before = arguments.get("before")
    return int(text), None if before is None else Cursor.parse(before)


def _summaries(agent: Agent, page: Sequence[Cursor]) -> list[dict[str, Any]]:
    """The counts of assignments; those that have gone meanwhile are left out.  Blocking."""
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


def _json(value: Any) -> Response:
    return Response(json.dumps(value), content_type="application/json")
