"""This module says what a transfer is: one object on its way through a fetcher."""

import attrs

from rebalancer.agent.state.posted import Row
from rebalancer.agent.transfer.disk.objects import Staged, Whole
from rebalancer.agent.transfer.messages import Finished, Lot
from rebalancer.domain.reasons import Reason


# Not frozen, because that takes four times as long to make, and there is one for each object.
@attrs.define(eq=False)
class Transfer:
    """A transfer is one object on its way through a fetcher, from its source to its final name.

    Mutable state: the pulled object, which waits to be committed; the bytes pulled, None where
    the object was there already; the seconds that it took; and why it failed, if it did.
    """

    lot: int
    assignment: str
    #: The name of the copy, as by `domain.copies`.
    name: str
    owner: str
    md5: str
    source: str
    pulled: Whole | Staged | None = None
    size: int | None = None
    seconds: float = 0.0
    reason: Reason | None = None
    detail: str = ""

    @classmethod
    def of(cls, lot: Lot, row: Row) -> "Transfer":
        """Return the transfer of the object that a row of `lot` names."""
        name, owner, md5, _datacenter, source = row
        return cls(lot.number, lot.assignment, name, owner, md5, source)

    def fail(self, reason: Reason, detail: str) -> None:
        """Note why the object cannot be had."""
        self.reason, self.detail = reason, detail

    def finished(self) -> Finished:
        """Return the event that the agent is sent."""
        return Finished(
            self.lot,
            self.assignment,
            self.name,
            self.source,
            self.size,
            self.seconds,
            self.reason,
            self.detail,
        )
