"""This module answers a dry run line by line: how far its search is, and at last the plan."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import trio

from rebalancer.api.plan import PlanError, PlanProgress
from rebalancer.errors import RequestError, Unavailable
from rebalancer.log import get_logger
from rebalancer.manager.actions.action import Plan, PlanLook
from rebalancer.manager.http import render
from rebalancer.manager.http.lines import line_of
from rebalancer.manager.http.requests import NewJob
from rebalancer.manager.jobs.service import Jobs
from rebalancer.serving.app import INTERNAL, cause_of

#: Seconds between two lines of progress.
PROGRESS_S = 1.0

log = get_logger()


async def begin_plan(jobs: Jobs, wanted: NewJob) -> AsyncGenerator[bytes, None]:
    """Return the lines of a dry run, which begins when the first of them is asked for.

    Raises:
      RequestError: such a job could not be created, or a dry run cannot begin now.
    """
    await jobs.plannable(wanted)
    begun_at = trio.current_time()
    look: PlanLook | None = None
    end: Plan | PlanError = _error(Unavailable("the manager is about to stop"))

    def note(seen: PlanLook) -> None:
        nonlocal look
        look = seen

    def progress() -> PlanProgress | None:
        seconds = trio.current_time() - begun_at
        return None if look is None else render.plan_progress(look, seconds)

    async def search() -> None:
        nonlocal end
        try:
            end = await jobs.plan(wanted, note)
        except Exception as exc:
            end = _error(exc)

    async def lines() -> AsyncGenerator[bytes, None]:
        async with aclosing(jobs.followed.follow(search, progress, PROGRESS_S)) as followed:
            async for line in followed:
                yield line  # noqa: ASYNC119 - whoever sends closes it
        yield line_of(render.plan(end) if isinstance(end, Plan) else end)

    return lines()


def _error(exc: Exception) -> PlanError:
    error = cause_of(exc)
    if isinstance(error, RequestError):
        return PlanError(type="error", status=error.status, message=str(error))
    log.error("request failed", path="/jobs", exc_info=exc)
    return PlanError(type="error", status=500, message=INTERNAL)
