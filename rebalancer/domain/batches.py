"""This module decides when a batch of tasks for a destination is due, and makes its assignment."""

import math

import attrs

from rebalancer.domain.assignments import Assignment, Task
from rebalancer.domain.objects import MantaObject, Shark


@attrs.frozen
class BatchLimits:
    """The limits close a batch: a number of tasks or an age in seconds, whichever comes first."""

    max_tasks: int = 50
    max_age_s: float = 600.0


@attrs.define
class Batch:
    """A batch has tasks on their way into one assignment.

    Mutable state: `tasks`, and `size` in bytes.
    """

    destination: Shark
    opened_at: float
    #: Bytes that the assignment may claim: half of what the destination could take when the batch
    #: was opened, because others write there too.
    claim_limit: int
    tasks: list[Task] = attrs.field(factory=list)
    size: int = 0

    def add(self, obj: MantaObject, source: Shark) -> None:
        """Add the task to copy `obj` from `source`."""
        self.tasks.append(Task(obj.object_id, obj.account, obj.md5, source))
        self.size += obj.size

    @property
    def left(self) -> int:
        """Return the bytes of the claim that are not taken."""
        return self.claim_limit - self.size

    def fits(self, size: int) -> bool:
        """Tell whether `size` more bytes stay within the claim."""
        return size <= self.left

    def is_full(self, limits: BatchLimits) -> bool:
        """Tell whether the batch has all the tasks or bytes that it may have."""
        return len(self.tasks) >= limits.max_tasks or self.size >= self.claim_limit

    def due_at(self, limits: BatchLimits) -> float:
        """Return the time, on the clock of `opened_at`, at which even a small batch is sent."""
        return self.opened_at + limits.max_age_s if self.tasks else math.inf

    def close(self, assignment_id: str) -> Assignment:
        """Return the assignment of these tasks."""
        ids = tuple([task.object_id for task in self.tasks])
        return Assignment(assignment_id, self.destination, ids, self.size, tuple(self.tasks))
