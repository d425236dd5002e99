"""What the agent and its fetcher processes say to each other: JSON, a line a message."""

import json
import socket
from collections import deque
from typing import Any

import attrs
import trio

from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.wire import Task

#: The other side takes a message within so many seconds, or is as good as dead.
SEND_S = 10.0
_RECEIVE_BYTES = 64 << 10


@attrs.frozen
class Lot:
    """Tasks for a fetcher, which works on `width` of them at a time; `number` names the lot."""

    number: int
    width: int
    tasks: tuple[Task, ...]

    def encode(self) -> Any:
        """As JSON has it."""
        tasks = [
            (t.owner, t.object_id, t.md5sum, t.source.datacenter, t.source.manta_storage_id)
            for t in self.tasks
        ]
        return {"lot": self.number, "width": self.width, "tasks": tasks}

    @classmethod
    def decode(cls, value: Any) -> "Lot":
        """The reverse."""
        tasks = tuple(
            Task(object_id, owner, md5, Shark(datacenter, name))
            for owner, object_id, md5, datacenter, name in value["tasks"]
        )
        return cls(value["lot"], value["width"], tasks)


@attrs.frozen
class Outcome:
    """How task `index` of lot `lot` ended: durable under its name, or failed for `reason`."""

    lot: int
    index: int
    #: Bytes pulled; None if the object was there already.
    size: int | None = None
    seconds: float = 0.0
    reason: Reason | None = None
    detail: str = ""

    def encode(self) -> Any:
        """As JSON has it."""
        reason = self.reason and (self.reason.name, self.reason.code)
        return self.lot, self.index, self.size, self.seconds, reason, self.detail

    @classmethod
    def decode(cls, value: Any) -> "Outcome":
        """The reverse."""
        lot, index, size, seconds, reason, detail = value
        return cls(lot, index, size, seconds, reason and Reason(*reason), detail)


@attrs.define(eq=False)
class Line:
    """A connection that carries messages.

    Mutable state: messages that came together with the last one, and the start of the next.
    """

    stream: trio.SocketStream
    _ready: deque[bytes] = attrs.field(factory=deque)
    _start: bytes = b""
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    @classmethod
    def over(cls, connection: socket.socket) -> "Line":
        """A line over one end of a socket pair, which stays the caller's to close."""
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(connection)))

    async def send(self, value: Any) -> None:
        """Send one message, whole even if cancelled: half of one would spoil the next.

        Raises:
          trio.BrokenResourceError: the other side is gone, or takes nothing any more.
          trio.ClosedResourceError: that was found by an earlier send.
        """
        data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        async with self._sending:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_S) as scope:
                await self.stream.send_all(data)
            if scope.cancelled_caught:
                self.stream.socket.close()
                raise trio.BrokenResourceError(f"nothing was taken for {SEND_S} s")

    async def receive(self) -> Any:
        """The next message; None when the other side is gone."""
        while not self._ready:
            try:
                data = await self.stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            *lines, self._start = (self._start + data).split(b"\n")
            self._ready.extend(lines)
        return json.loads(self._ready.popleft())
