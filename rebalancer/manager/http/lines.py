"""This module answers a request line by line: how far some work is, until it ends."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import attrs
import trio

from rebalancer.converter import unstructure
from rebalancer.errors import Unavailable

#: The media type of an answer in lines of JSON.
NDJSON = "application/x-ndjson"


def line_of(body: Any) -> bytes:
    """Return a line with a body of a class of `rebalancer.api`."""
    return json.dumps(unstructure(body)).encode() + b"\n"


@attrs.define(eq=False)
class Followed:
    """This object runs the work of requests whose clients follow how far it is.

    Mutable state: the nursery of all such work while the manager runs.
    """

    _nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Run the work that is asked for, for ever."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def follow(
        self,
        work: Callable[[], Awaitable[None]],
        progress: Callable[[], Any | None],
        period_s: float,
    ) -> AsyncGenerator[bytes, None]:
        """Return lines of the progress of `work`, which begins when the first is asked for.

        Where there is no progress to show, no line is sent.  Whoever closes the generator early
        ends the work; the generator ends with it.

        Raises:
          Unavailable: the manager is about to stop.
        """
        if self._nursery is None:
            raise Unavailable("the manager does not run yet, or not any more")
        return _lines(self._nursery, work, progress, period_s)


async def _lines(
    nursery: trio.Nursery,
    work: Callable[[], Awaitable[None]],
    progress: Callable[[], Any | None],
    period_s: float,
) -> AsyncGenerator[bytes, None]:
    ended, scope = trio.Event(), trio.CancelScope()

    async def run() -> None:
        try:
            with scope:
                await work()
        finally:
            ended.set()

    nursery.start_soon(run)
    try:
        while not ended.is_set():
            with trio.move_on_after(period_s):
                await ended.wait()
            if not ended.is_set() and (body := progress()) is not None:
                yield line_of(body)
    finally:
        scope.cancel()
