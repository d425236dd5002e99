"""This module says which part of an assignment a fetcher pulls, and how far it is."""

from collections.abc import Sequence

import attrs
import trio

from rebalancer.agent.state.posted import Row
from rebalancer.agent.transfer.messages import Lot


@attrs.define(eq=False)
class Part:
    """A part of an assignment is pulled by one fetcher, lot by lot.

    Mutable state: whether nothing is left to pull, though not all may be durable yet; and of the
    lot that is at the fetcher: whether it is the last one, how many of its objects are pulled at
    a time, the rows of those that have not finished, by the names of their copies, and whether to
    wait on.
    """

    assignment: str
    rows: Sequence[Row]
    number: int = 0
    parts: int = 1
    pulled: trio.Event = attrs.field(factory=trio.Event)
    is_last: bool = False
    width: int = 0
    left: dict[str, Row] = attrs.field(factory=dict)
    over: trio.Event = attrs.field(factory=trio.Event)

    def widen(self, width: int) -> int:
        """Have `width` objects of the assignment pulled at a time; return how many of this part.

        One is the least of each part.
        """
        self.width = max(1, width // self.parts + (self.number < width % self.parts))
        return self.width

    def lot(self, number: int, rows: Sequence[Row], width: int) -> Lot:
        """Return the lot of these rows, which is under way from now on."""
        self.left = {row[0]: row for row in rows}
        self.over = trio.Event()
        return Lot(number, self.assignment, self.widen(width), tuple(rows))

    def finish(self, name: str) -> None:
        """Note that the transfer of an object of the lot has finished."""
        del self.left[name]
        if not self.left:
            self.over.set()
