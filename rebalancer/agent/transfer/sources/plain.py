"""This module is the engine for where libcurl is not to be had: h11, and a connection an object.

A connection of its own for each object is slower, and leaves nothing to go wrong between two.
"""

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import h11
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.connections import is_short_of_files
from rebalancer.agent.transfer.sources.engine import (
    AHEAD_BYTES,
    MAX_HEAD_BYTES,
    USER_AGENT,
    WHOLE_BYTES,
    Source,
    broken,
    read_head,
    unreachable,
)
from rebalancer.agent.transfer.sources.silence import Silences
from rebalancer.config import AgentSource
from rebalancer.peers.quiet import is_quiet
from rebalancer.transient import SHORTAGES

#: Bytes received at once.
RECEIVE_BYTES = 256 << 10
#: Other tasks have their turn after so many pieces of a body, which may be of one byte each.
MANY = 16


@attrs.define(eq=False)
class _Answer:
    """This answer is read as far as somebody wants it, from a connection of its own.

    Mutable state: the connection; the status, the length and the chunks of body that were not
    taken; the lines of heads so far; how long the source has been silent.
    """

    stream: trio.SocketStream
    limits: AgentSource
    allowance: Allowance
    silences: Silences
    parser: h11.Connection = attrs.field(
        factory=lambda: h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    )
    status: int = 0
    length: int | None = None
    is_whole: bool = False
    is_small: bool = False
    _chunks: list[bytes] = attrs.field(factory=list)
    _size: int = 0
    _head: list[bytes] = attrs.field(factory=list)
    _silent_s: float = 0.0

    async def ask(self, source: Source, path: str) -> None:
        """Send the request, and read until the answer is whole, or no small one."""
        fields = [
            ("Host", source.name),
            ("User-Agent", USER_AGENT),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        request = self.parser.send(h11.Request(method="GET", target=path, headers=fields))
        end = self.parser.send(h11.EndOfMessage())
        await self._in_time(self.stream.send_all, (request or b"") + (end or b""))
        await self._read(WHOLE_BYTES + 1)
        self.is_small = self._size <= WHOLE_BYTES

    async def take(self) -> list[bytes]:
        """Wait for about `AHEAD_BYTES` of body; all that is left if `is_whole` is then true.

        Raises:
          PullFailure: the rest does not come.
        """
        await self._read(AHEAD_BYTES)
        chunks, self._chunks, self._size = self._chunks, [], 0
        return chunks

    def close(self) -> None:
        """End the transfer, wherever it is; may be called again."""
        self.stream.socket.close()

    async def _read(self, most: int) -> None:
        try:
            for number in itertools.count(1):
                if self._size >= most or self.is_whole:
                    break
                if number % MANY == 0:
                    await trio.lowlevel.checkpoint()
                event = self.parser.next_event()
                if event is h11.NEED_DATA:
                    await self._receive()
                else:
                    self._take(event)
        except h11.RemoteProtocolError as exc:
            raise broken(str(exc)) from exc
        except (OSError, trio.BrokenResourceError) as exc:
            raise broken(str(exc) or "connection lost") from exc

    def _take(self, event: Any) -> None:
        match event:
            case h11.Data():
                self._silent_s = 0.0
                self._chunks.append(bytes(event.data))
                self._size += len(event.data)
            case h11.InformationalResponse():
                self._keep_head(event)
                read_head(self._head)  # so that there are not too many
            case h11.Response():
                self._silent_s = 0.0
                self._keep_head(event)
                self.status, self.length = event.status_code, read_head(self._head)
                self.is_whole = self.status != 200  # what is not wanted is not read
            case h11.EndOfMessage():
                self.is_whole = True

    def _keep_head(self, event: h11.Response | h11.InformationalResponse) -> None:
        fields = [name + b": " + value + b"\r\n" for name, value in event.headers]
        self._head += [b"HTTP/1.1 %d\r\n" % event.status_code, *fields, b"\r\n"]

    async def _receive(self) -> None:
        await self.allowance.wait()
        at_once = min(RECEIVE_BYTES, self.allowance.at_once)
        self.allowance.spend(at_once)
        data = await self._in_time(self.stream.receive_some, at_once)
        self.allowance.spend(len(data) - at_once)
        self.parser.receive_data(data)

    async def _in_time(self, step: Callable[[Any], Any], argument: Any) -> Any:
        """Do a step, for which the source has the rest of the time that it may keep silent."""
        idle_s = self.limits.idle_timeout
        with self.silences.limit(idle_s, lambda: not is_quiet(self.stream.socket)) as silence:
            silence.lasted_s = self._silent_s
            try:
                return await step(argument)
            finally:
                self._silent_s = silence.lasted_s
        raise broken(f"nothing came for {idle_s} s")


class PlainEngine:
    """This engine makes a connection for each object, by h11.

    Mutable state: the silences that are counted.
    """

    name = "plain"

    def __init__(self, limits: AgentSource, allowance: Allowance, _most: int) -> None:
        self._limits = limits
        self._allowance = allowance
        self._silences = Silences()

    async def run(self) -> None:
        """Count for ever how long sources are silent."""
        await self._silences.run(min(self._limits.idle_timeout, self._limits.connect_timeout))

    async def get(self, source: Source, path: str) -> _Answer:
        """Ask `source` for `path`; return once the answer is whole, or is a large one's beginning.

        Raises:
          PullFailure: there is no answer that could be believed.
        """
        stream = await self._connect(source)
        answer = _Answer(stream, self._limits, self._allowance, self._silences)
        try:
            await answer.ask(source, path)
        except BaseException:
            answer.close()
            raise
        return answer

    def rest(self) -> None:
        """Do nothing: no connection is kept."""

    async def _connect(self, source: Source) -> trio.SocketStream:
        try:
            with self._silences.limit(self._limits.connect_timeout):
                return await trio.open_tcp_stream(source.at.host, source.at.port)
        except OSError as exc:
            is_short = exc.errno in SHORTAGES or is_short_of_files()
            raise unreachable(f"{source}: {exc}", is_short=is_short) from exc
        raise unreachable(f"{source}: no connection in time")
