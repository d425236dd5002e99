"""This module has the messages between the agent and its fetcher processes, by marshal.

Both ends are the same program under the same interpreter, which is all that marshal needs; it
takes a tenth of the time of JSON, and every object pulled is told of here.
"""

import marshal
import socket
import struct
from functools import cached_property
from typing import Any, ClassVar, Union

import attrs
import trio

from rebalancer.agent.state.posted import Row, task_of
from rebalancer.domain.reasons import Reason
from rebalancer.wire import Task

#: The other side takes a message within so many seconds, or is as good as dead.
SEND_S = 10.0
_RECEIVE_BYTES = 64 << 10
_LENGTH = struct.Struct("!I")


@attrs.frozen
class Lot:
    """The agent gives a fetcher tasks, `width` of them at a time; `number` names the lot."""

    KIND: ClassVar[str] = "lot"
    number: int
    width: int
    rows: tuple[Row, ...]

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Return the tasks that the rows are of."""
        return tuple(map(task_of, self.rows))

    def encode(self) -> Any:
        """Return the values of this message as marshal takes them."""
        return self.number, self.width, self.rows

    @classmethod
    def decode(cls, value: Any) -> "Lot":
        """Read what `encode` made."""
        return cls(*value)


# Not frozen, which would take four times as long: there is one for each object.
@attrs.define
class Outcome:
    """Task `index` of lot `lot` has ended: durable under its name, or failed for `reason`."""

    lot: int
    index: int
    #: Bytes pulled; None if the object was there already.
    size: int | None = None
    seconds: float = 0.0
    reason: Reason | None = None
    detail: str = ""

    def encode(self) -> Any:
        """Return the values of this message as marshal takes them."""
        reason = self.reason and (self.reason.name, self.reason.code)
        return self.lot, self.index, self.size, self.seconds, reason, self.detail

    @classmethod
    def decode(cls, value: Any) -> "Outcome":
        """Read what `encode` made."""
        lot, index, size, seconds, reason, detail = value
        return cls(lot, index, size, seconds, Reason(*reason) if reason else None, detail)


@attrs.frozen
class Report:
    """A fetcher tells how tasks ended, and of which lots nothing is left to pull."""

    KIND: ClassVar[str] = "report"
    outcomes: tuple[Outcome, ...] = ()
    pulled: tuple[int, ...] = ()
    #: Temporary files that could not be removed since the last report.
    cleanup_failures: int = 0

    def encode(self) -> Any:
        """Return the values of this message as marshal takes them."""
        return [one.encode() for one in self.outcomes], self.pulled, self.cleanup_failures

    @classmethod
    def decode(cls, value: Any) -> "Report":
        """Read what `encode` made."""
        outcomes, pulled, failures = value
        made = [Outcome.decode(one) if one[4] else Outcome(*one) for one in outcomes]
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
    """The agent tells a fetcher, first of all, its setup, as JSON."""

    KIND = "begin"
    setup: str


@attrs.frozen
class Ready(_Plain):
    """A fetcher says, first of all, that it is up and that tasks may come."""

    KIND = "ready"


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
_KINDS: dict[str, Any] = {
    kind.KIND: kind for kind in (Lot, Report, Begin, Ready, Lack, Width, Limit, Want, Grant)
}


@attrs.define(eq=False)
class Line:
    """A line is a connection that carries messages, each behind its length.

    Mutable state: what was received but not taken yet.
    """

    stream: trio.SocketStream
    _received: bytearray = attrs.field(factory=bytearray)
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    @classmethod
    def over(cls, connection: socket.socket) -> "Line":
        """Make a line over one end of a socket pair, which stays the caller's to close."""
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(connection)))

    async def send(self, message: Message) -> None:
        """Send one message, whole even if cancelled: half of one would spoil the next.

        Raises:
          trio.BrokenResourceError: the other side is gone, or takes nothing any more.
          trio.ClosedResourceError: that was found by an earlier send.
        """
        data = marshal.dumps((message.KIND, message.encode()))
        async with self._sending:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_S) as scope:
                await self.stream.send_all(_LENGTH.pack(len(data)) + data)
            if scope.cancelled_caught:
                self.stream.socket.close()
                raise trio.BrokenResourceError(f"nothing was taken for {SEND_S} s")

    async def receive(self) -> Message | None:
        """Return the next message; None when the other side is gone."""
        while (data := self._take()) is None:
            try:
                more = await self.stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not more:
                return None
            self._received += more
        kind, value = marshal.loads(data)
        message: Message = _KINDS[kind].decode(value)
        return message

    def _take(self) -> bytes | None:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        data = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return data
