"""This module tells when a batch of objects for one destination is due to be sent."""

import math

import attrs

from rebalancer.domain.objects import MantaObject, Shark, StorageNode


@attrs.frozen
class BatchLimits:
    """What closes a batch: a number of tasks or an age in seconds, whichever comes first."""

    max_tasks: int = 50
    max_age_s: float = 600.0


@attrs.define
class Batch:
    """Objects on their way into one assignment.  Its whole mutable state is `items` and `size`."""

    destination: StorageNode
    opened_at: float
    #: Bytes this assignment may claim: half of what the destination could take when it was
    #: opened, because others write there too.
    claim_limit: int
    items: list[tuple[MantaObject, Shark]] = attrs.field(factory=list)
    size: int = 0

    def add(self, obj: MantaObject, source: Shark) -> None:
        """Take `obj`, to be read from `source`, into the batch."""
        self.items.append((obj, source))
        self.size += obj.size

    @property
    def left(self) -> int:
        """Bytes of the claim that are not taken; fewer than none if the last object was larger."""
        return self.claim_limit - self.size

    def fits(self, size: int) -> bool:
        """Tell whether `size` more bytes stay within the claim."""
        return size <= self.left

    def is_full(self, limits: BatchLimits) -> bool:
        """Tell whether it has all the tasks or bytes it may have."""
        return len(self.items) >= limits.max_tasks or self.size >= self.claim_limit

    def due_at(self, limits: BatchLimits) -> float:
        """Return the time, on the clock of `opened_at`, at which it is sent however small."""
        return self.opened_at + limits.max_age_s if self.items else math.inf
