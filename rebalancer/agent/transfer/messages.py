"""This module has the messages between the agent and its fetcher processes."""

from typing import Any, ClassVar, Union

import attrs

from rebalancer.agent.state.posted import Row
from rebalancer.domain.reasons import Reason


@attrs.frozen
class Lot:
    """The agent hands a fetcher tasks of an assignment, `width` of them to pull at a time."""

    KIND: ClassVar[str] = "lot"
    number: int
    assignment: str
    width: int
    rows: tuple[Row, ...]

    def encode(self) -> Any:
        """Return the values of this message as marshal takes them."""
        return self.number, self.assignment, self.width, self.rows

    @classmethod
    def decode(cls, value: Any) -> "Lot":
        """Read what `encode` made."""
        return cls(*value)


# Not frozen, because that takes four times as long to make, and there is one for each object.
@attrs.define
class Finished:
    """A transfer has finished: its object is durable under its name, or failed for `reason`."""

    lot: int
    assignment: str
    #: The name of the copy, as by `domain.copies`.
    name: str
    #: The storage node that the object was pulled from.
    source: str
    #: Bytes pulled; None if the object was there already.
    size: int | None = None
    seconds: float = 0.0
    reason: Reason | None = None
    detail: str = ""

    def encode(self) -> Any:
        """Return the values of this event as marshal takes them."""
        reason = self.reason and (self.reason.name, self.reason.code)
        where = self.lot, self.assignment, self.name, self.source
        return (*where, self.size, self.seconds, reason, self.detail)

    @classmethod
    def decode(cls, value: Any) -> "Finished":
        """Read what `encode` made."""
        lot, assignment, name, source, size, seconds, reason, detail = value
        why = Reason(*reason) if reason else None
        return cls(lot, assignment, name, source, size, seconds, why, detail)


@attrs.frozen
class Report:
    """A fetcher reports transfers that have finished, and lots with nothing left to pull."""

    KIND: ClassVar[str] = "report"
    finished: tuple[Finished, ...] = ()
    pulled: tuple[int, ...] = ()
    #: Temporary files that could not be removed since the last report.
    cleanup_failures: int = 0

    def encode(self) -> Any:
        """Return the values of this message as marshal takes them."""
        return [event.encode() for event in self.finished], self.pulled, self.cleanup_failures

    @classmethod
    def decode(cls, value: Any) -> "Report":
        """Read what `encode` made."""
        finished, pulled, failures = value
        made = [Finished.decode(one) if one[6] else Finished(*one) for one in finished]
        return cls(tuple(made), pulled, failures)


@attrs.frozen
class _Plain:
    """A message of plain values is marshalled as they are."""

    KIND: ClassVar[str]

    def encode(self) -> Any:
        """Return the values of this message as marshal takes them."""
        return attrs.astuple(self)

    @classmethod
    def decode(cls, value: Any) -> Any:
        """Read what `encode` made."""
        return cls(*value)


@attrs.frozen
class Begin(_Plain):
    """The agent sends a fetcher its setup first of all, as JSON."""

    KIND = "begin"
    setup: str


@attrs.frozen
class Ready(_Plain):
    """A fetcher says, first of all, that it is up, and by which engine it pulls objects."""

    KIND = "ready"
    engine: str


@attrs.frozen
class Lack(_Plain):
    """A fetcher says why it lacks files or memory; an empty `detail` says that it lacks none."""

    KIND = "lack"
    detail: str


@attrs.frozen
class Width(_Plain):
    """The agent has a fetcher work on so many tasks of a lot at a time from now on."""

    KIND = "width"
    lot: int
    width: int


@attrs.frozen
class Limit(_Plain):
    """The agent says whether to ask before receiving, and how many bytes to receive at once."""

    KIND = "limit"
    is_limited: bool
    at_once: int


@attrs.frozen
class Want(_Plain):
    """A fetcher says that it waits for leave to receive so many bytes."""

    KIND = "want"
    size: int


@attrs.frozen
class Grant(_Plain):
    """The agent gives a fetcher leave to receive so many bytes."""

    KIND = "grant"
    size: int


Message = Union[Lot, Report, Begin, Ready, Lack, Width, Limit, Want, Grant]  # noqa: UP007 - read as a list
KINDS: dict[str, Any] = {
    kind.KIND: kind for kind in (Lot, Report, Begin, Ready, Lack, Width, Limit, Want, Grant)
}
