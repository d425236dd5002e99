"""This module counts how long sources are silent, while this process could listen.

A process that was stopped, or a machine that slept, finds each of its deadlines passed when it
goes on, though what it waits for lies in its sockets.  So silence is counted in ticks, which do
not happen meanwhile; and before it is judged there is a look whether something waits to be read.
"""

from collections.abc import Callable
from types import TracebackType

import attrs
import trio

#: A silence is counted in about so many ticks, none longer than this in seconds.
TICKS, LONGEST_TICK_S = 10, 1.0


def tick_s(shortest_s: float) -> float:
    """Return the seconds between two ticks where no silence is shorter than `shortest_s`."""
    return min(LONGEST_TICK_S, shortest_s / TICKS)


@attrs.define(eq=False)
class Silence:
    """This context is cancelled once the silence within it has lasted `most_s` seconds.

    Mutable state: how long the silence has lasted, and whether the last look found something to
    read.
    """

    most_s: float
    #: Whether something waits to be read.
    has_news: Callable[[], bool]
    #: All silences that are counted; this one is among them within its context.
    _counted: set["Silence"]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    lasted_s: float = 0.0
    _was_looked_at: bool = False

    def __enter__(self) -> "Silence":
        """Begin to count."""
        self._counted.add(self)
        self.scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Stop counting; return whether the silence is what ended the context."""
        self._counted.discard(self)
        return self.scope.__exit__(kind, exc, trace)

    def tick(self, seconds: float) -> None:
        """Add `seconds`, and cancel the context once the silence has lasted for too long."""
        self.lasted_s += seconds
        if self.lasted_s >= self.most_s:
            if not self._was_looked_at and self.has_news():
                self._was_looked_at = True  # whoever reads it has the time until the next tick
            else:
                self.scope.cancel()


@attrs.define(eq=False)
class Silences:
    """This object counts how long silences last.  Mutable state: the silences that last still."""

    _lasting: set[Silence] = attrs.field(factory=set)

    def limit(self, most_s: float, has_news: Callable[[], bool] = lambda: False) -> Silence:
        """Make a context that is cancelled once its silence has lasted `most_s` seconds."""
        return Silence(most_s, has_news, self._lasting)

    async def run(self, shortest_s: float) -> None:
        """Count for ever; no silence is shorter than `shortest_s`."""
        seconds = tick_s(shortest_s)
        while True:
            await trio.sleep(seconds)
            for silence in list(self._lasting):
                silence.tick(seconds)
