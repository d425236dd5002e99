"""This module sends browsers the live part of a page again and again, as server-sent events."""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import attrs
import trio

from rebalancer.errors import RequestError, Unavailable
from rebalancer.manager.page.answers import Answers
from rebalancer.manager.page.shown import Sample
from rebalancer.manager.page.templating import render_live

#: Streams at a time.  Each holds a connection of the API, of which there may be no more than 16.
MOST_STREAMS = 8
#: Seconds between two events, and seconds after which a browser has to ask anew.
PERIOD_S, LONGEST_S = 2.0, 600.0
CONTENT_TYPE = "text/event-stream; charset=utf-8"
_HEARTBEAT = b":\n\n"


@attrs.frozen
class Event:
    """An event is what has become of a page."""

    html: str
    #: How far the job is, for the chart.
    samples: Sequence[Sample] = ()
    #: Nothing will change any more.
    is_last: bool = False


Look = Callable[[], Awaitable[Event]]


@attrs.define(eq=False)
class SharedLook:
    """A look at the same is taken once for all browsers.  Mutable state: the latest, and when.

    So what a manager does for the page does not grow with those who look.
    """

    look: Look
    latest: Event | None = None
    at: float = -PERIOD_S
    _turn: trio.Lock = attrs.field(factory=trio.Lock)

    async def __call__(self) -> Event:
        """Return the latest look, or a new one if that is old.

        Raises:
          RequestError: there is nothing to look at.
        """
        async with self._turn:
            if self.latest is None or trio.current_time() - self.at >= PERIOD_S / 2:
                self.latest = await self.look()
                self.at = trio.current_time()
            return self.latest


@attrs.define(eq=False)
class Streams:
    """This object has the streams of all browsers.

    Mutable state: their number, and what they look at, by its address.
    """

    stopping: trio.Event
    open: int = 0
    looks: dict[str, SharedLook] = attrs.field(factory=dict)

    def check_room(self) -> None:
        """Check that there may be one more.

        Raises:
          Unavailable: there are as many as may be.
        """
        if self.open >= MOST_STREAMS:
            raise Unavailable(f"{MOST_STREAMS} browsers are being sent changes already")

    async def run(self, name: str, look: Look, first: Any = None) -> AsyncGenerator[bytes, None]:
        """Yield events of what `look` returns, until it is the last or the manager stops.

        Streams of the same `name` share their looks; `first` are samples to begin with.  A browser
        that has gone is noticed when the next event cannot be sent.
        """
        if not self.open:
            self.looks.clear()
        self.open += 1
        shared = self.looks.setdefault(name, SharedLook(look))
        try:
            until, shown = trio.current_time() + LONGEST_S, ""
            if first:
                yield _event("look", {"samples": first})
            while trio.current_time() < until and not self.stopping.is_set():
                try:
                    event = await shared()
                except Unavailable:
                    yield _HEARTBEAT  # its file is busy, and may not be at the next look
                except RequestError:
                    yield _event("end", {})  # it was removed
                    return
                else:
                    html = {} if event.html == shown else {"html": event.html}
                    shown = event.html
                    yield _event("look", {**html, "samples": event.samples})
                    if event.is_last:
                        yield _event("end", {})
                        return
                with trio.move_on_after(PERIOD_S):
                    await self.stopping.wait()
        finally:
            self.open -= 1


def look_at_list(answers: Answers, at: int) -> Look:
    """Return how to look at the list of jobs from the one with the number `at` on."""

    async def look() -> Event:
        return Event(render_live("jobs.html", await answers.list_jobs(at)))

    return look


def look_at_job(answers: Answers, job_id: str) -> Look:
    """Return how to look at a job."""

    async def look() -> Event:
        values = await answers.job(job_id)
        page = values["job"]
        sample = (time.time(), page.line.settled, page.line.bytes_complete)
        samples = (sample,) if page.line.is_running else ()
        return Event(render_live("job.html", values), samples, is_last=page.has_ended)

    return look


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
