"""This module sends browsers the live part of a page again and again, as server-sent events."""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import attrs
import trio

from rebalancer.errors import RequestError, Unavailable
from rebalancer.manager.page.answers import Answers
from rebalancer.manager.page.templating import render_live

#: Streams at a time: each holds a connection of the API, of which there are few times as many.
MOST_STREAMS = 32
#: Seconds between two events, and seconds after which a browser has to ask anew.
PERIOD_S, LONGEST_S = 2.0, 600.0
CONTENT_TYPE = "text/event-stream; charset=utf-8"
_HEARTBEAT = b":\n\n"


@attrs.frozen
class Event:
    """An event is what has become of a page."""

    html: str
    #: What else a script is told.
    more: dict[str, Any] = attrs.field(factory=dict)
    #: Nothing will change any more.
    is_last: bool = False


@attrs.define(eq=False)
class Streams:
    """This object has the streams of all browsers.  Mutable state: their number."""

    stopping: trio.Event
    open: int = 0

    def check_room(self) -> None:
        """Check that there may be one more.

        Raises:
          Unavailable: there are as many as may be.
        """
        if self.open >= MOST_STREAMS:
            raise Unavailable(f"{MOST_STREAMS} browsers are looking: the page shows more on reload")

    async def run(self, look: Callable[[], Awaitable[Event]]) -> AsyncGenerator[bytes, None]:
        """Yield events of what `look` returns, until it is the last or the manager stops.

        A browser that has gone is noticed when the next event cannot be sent.
        """
        self.open += 1
        try:
            until, shown = trio.current_time() + LONGEST_S, ""
            while trio.current_time() < until and not self.stopping.is_set():
                try:
                    event = await look()
                except Unavailable:
                    yield _HEARTBEAT  # its file is busy, and may not be at the next look
                except RequestError:
                    yield _event("end", {})  # it was removed
                    return
                else:
                    html = {} if event.html == shown else {"html": event.html}
                    shown = event.html
                    yield _event("look", {**html, **event.more})
                    if event.is_last:
                        yield _event("end", {})
                        return
                with trio.move_on_after(PERIOD_S):
                    await self.stopping.wait()
        finally:
            self.open -= 1


def look_at_list(answers: Answers, at: int) -> Callable[[], Awaitable[Event]]:
    """Return how to look at the list of jobs from the one with the number `at` on."""

    async def look() -> Event:
        return Event(render_live("jobs.html", await answers.list_jobs(at)))

    return look


def look_at_job(answers: Answers, job_id: str) -> Callable[[], Awaitable[Event]]:
    """Return how to look at a job; the first look tells of the last hour too."""
    is_first = True

    async def look() -> Event:
        nonlocal is_first
        values = await answers.job(job_id)
        page = values["job"]
        samples = answers.samples(job_id) if is_first else []
        if page.limits is not None:  # else it stands still
            samples.append((time.time(), page.line.settled, page.line.bytes_complete))
        is_first = False
        html = render_live("job.html", values)
        return Event(html, {"samples": samples}, is_last=page.has_ended)

    return look


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
