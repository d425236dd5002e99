"""Pulling one object from another storage node: a large one to disk, verified as it flows."""

import select
from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import attrs
import trio

from rebalancer import __version__
from rebalancer.agent.files import Download, LocalFailure, ObjectFiles, Staged
from rebalancer.agent.http1 import Incomplete, ProtocolError, ResponseReader
from rebalancer.config import AgentSource
from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.peers.names import locate
from rebalancer.retry import pauses
from rebalancer.wire import Task

#: Bytes received before a thread hashes and writes them.
BLOCK_BYTES = 1 << 20
#: Objects up to so many bytes are handed on in memory, and many of them written in one step.
SMALL_BYTES = 256 << 10
#: Bytes asked for at once: as many as a small object has with its head, then more.  A buffer of
#: more than 128 KiB is mapped anew by the system for each call.
_FIRST_BYTES, _RECEIVE_BYTES = 16 << 10, 128 << 10
#: Idle connections kept to one source.
MAX_IDLE = 16
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class FetchFailure(Exception):
    """The object could not be pulled; `may_pass` tells whether another try may help."""

    def __init__(self, reason: Reason, detail: str, *, may_pass: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.may_pass = may_pass


@attrs.frozen
class Fetched:
    """An object of `size` bytes: in memory and not verified, or staged and verified."""

    size: int
    body: bytes = b""
    staged: Staged | None = None

    def stage(self, files: ObjectFiles, task: Task) -> Staged:
        """The object verified under a temporary name.  Blocking.

        Raises:
          LocalFailure: it is not what it should be, or the disk failed.
        """
        if self.staged is not None:
            return self.staged
        return files.stage(task.owner, task.object_id, self.body, task.md5sum)


class _Stale(Exception):
    """The source had closed a kept connection before our request reached it."""


@attrs.define(eq=False)
class Fetcher:
    """Pulls objects.  Mutable state: idle connections by source."""

    files: ObjectFiles
    source: AgentSource
    hosts: Mapping[str, str]
    _idle: defaultdict[str, list[trio.SocketStream]] = attrs.field(
        factory=lambda: defaultdict(list)
    )

    async def fetch(self, task: Task) -> Fetched:
        """The whole object: a small one in memory, a large one verified under a temporary name.

        Nothing is left behind when this fails or is cancelled.

        Raises:
          FetchFailure: with the reason that the manager is told.
        """
        if not self._is_allowed(task.source.manta_storage_id):
            raise FetchFailure(
                reasons.SOURCE_OTHER_ERROR,
                f"{task.source.manta_storage_id} is not below any of the allowed domains",
            )
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        for _ in range(self.source.retries):
            try:
                return await self._try(task)
            except FetchFailure as failure:
                if not failure.may_pass:
                    raise
            await trio.sleep(next(waits))
        return await self._try(task)

    def close(self) -> None:
        """Close the idle connections."""
        for streams in self._idle.values():
            for stream in streams:
                stream.socket.close()
        self._idle.clear()

    def _is_allowed(self, name: str) -> bool:
        host = name.partition(":")[0]
        allowed = self.source.allowed_domains
        return not allowed or any(host == d or host.endswith(f".{d}") for d in allowed)

    async def _try(self, task: Task) -> Fetched:
        name = task.source.manta_storage_id
        while self._idle[name]:
            stream = self._idle[name].pop()
            if not _is_quiet(stream):
                stream.socket.close()
                continue
            try:
                return await self._exchange(task, stream, kept=True)
            except _Stale:
                continue
        return await self._exchange(task, await self._connect(name), kept=False)

    async def _connect(self, name: str) -> trio.SocketStream:
        where = locate(name, self.hosts, self.source.port)
        try:
            with trio.fail_after(self.source.connect_timeout):
                return await trio.open_tcp_stream(where.host, where.port)
        except (OSError, trio.TooSlowError, UnicodeError) as exc:
            detail = f"{name} at {where}: {str(exc) or 'no connection in time'}"
            raise FetchFailure(reasons.SOURCE_OTHER_ERROR, detail, may_pass=True) from exc

    async def _exchange(self, task: Task, stream: trio.SocketStream, *, kept: bool) -> Fetched:
        reader, reusable = ResponseReader(), False
        try:
            await self._send(stream, task)
            first = await self._head(stream, reader)
            fetched = await self._body(stream, reader, first, task)
            reusable = reader.is_reusable
            return fetched
        except (Incomplete, trio.BrokenResourceError) as exc:
            if kept and not reader.has_begun:
                raise _Stale from exc
            raise FetchFailure(reasons.NETWORK_ERROR, str(exc) or "connection lost") from exc
        except ProtocolError as exc:
            raise FetchFailure(reasons.NETWORK_ERROR, str(exc)) from exc
        except trio.TooSlowError as exc:
            detail = f"nothing came for {self.source.idle_timeout} s"
            raise FetchFailure(reasons.NETWORK_ERROR, detail) from exc
        except LocalFailure as exc:
            raise FetchFailure(exc.reason, str(exc)) from exc
        finally:
            idle = self._idle[task.source.manta_storage_id]
            if reusable and len(idle) < MAX_IDLE:
                idle.append(stream)
            else:
                stream.socket.close()

    async def _send(self, stream: trio.SocketStream, task: Task) -> None:
        request = (
            f"GET /{task.owner}/{task.object_id} HTTP/1.1\r\n"
            f"Host: {task.source.manta_storage_id}\r\n"
            f"User-Agent: rebalancer-agent/{__version__}\r\n"
            "Accept-Encoding: identity\r\n\r\n"
        )
        with trio.fail_after(self.source.idle_timeout):
            await stream.send_all(request.encode("ascii"))

    async def _receive(self, stream: trio.SocketStream, reader: ResponseReader) -> bytes:
        """The next bytes of the body; what the reader is done with is all there is.

        Raises:
          ProtocolError, trio.BrokenResourceError, trio.TooSlowError.
        """
        with trio.fail_after(self.source.idle_timeout):
            data = await stream.receive_some(_RECEIVE_BYTES if reader.head else _FIRST_BYTES)
        if not data:
            reader.end()
            return b""
        return reader.feed(data)

    async def _head(self, stream: trio.SocketStream, reader: ResponseReader) -> bytes:
        """Read up to the end of the head; the bytes of body that came with it."""
        body = b""
        while reader.head is None:
            body = await self._receive(stream, reader)
        status = reader.head.status
        if status != 200:
            raise FetchFailure(
                reasons.http_status_code(status), f"status {status}", may_pass=status >= 500
            )
        return body

    async def _body(
        self, stream: trio.SocketStream, reader: ResponseReader, first: bytes, task: Task
    ) -> Fetched:
        length = reader.head.length if reader.head else None
        download: Download | None = None
        blocks, size = [first], len(first)
        try:
            while True:
                while not reader.is_done and size < BLOCK_BYTES:
                    blocks.append(data := await self._receive(stream, reader))
                    size += len(data)
                if download is None and reader.is_done and size <= SMALL_BYTES:
                    return Fetched(size, b"".join(blocks))
                step = partial(self._store, download, task, length, blocks, reader.is_done)
                begun, staged = await trio.to_thread.run_sync(step)
                if staged is not None:
                    return Fetched(begun.size, staged=staged)
                download = begun
                blocks, size = [], 0
        except BaseException:
            if download is not None:
                download.discard()
            raise

    def _store(
        self,
        download: Download | None,
        task: Task,
        length: int | None,
        blocks: list[bytes],
        is_last: bool,
    ) -> tuple[Download, Staged | None]:
        """In a thread: hash and write `blocks`."""
        begun = download or self.files.open(task.owner, task.object_id, length)
        try:
            begun.write(b"".join(blocks))
            return begun, begun.finish(task.md5sum) if is_last else None
        except BaseException:
            begun.discard()
            raise


def _is_quiet(stream: trio.SocketStream) -> bool:
    """Whether the source has neither closed a kept connection nor sent what nobody asked for."""
    waiting = select.poll()
    waiting.register(stream.socket.fileno(), select.POLLIN)
    return not waiting.poll(0)
