"""Pulling objects from other storage nodes: a large one to disk, verified as it flows."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice

import attrs
import trio

from rebalancer import __version__
from rebalancer.agent.bandwidth import Allowance
from rebalancer.agent.connections import Connections, is_quiet, is_short_of_files
from rebalancer.agent.files import Download, LocalFailure, ObjectFiles, Staged
from rebalancer.agent.http1 import Head, ProtocolError, ResponseReader
from rebalancer.agent.patience import Patience, Silence
from rebalancer.config import AgentSource
from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.log import get_logger
from rebalancer.peers.names import locate
from rebalancer.retry import SHORTAGES, pauses
from rebalancer.threads import Work, run_sync
from rebalancer.wire import Task

#: Bytes of a large object received before a thread hashes and writes them.
BLOCK_BYTES = 1 << 20
#: Objects up to so many bytes are handed on in memory.
SMALL_BYTES = 256 << 10
#: Bytes received at once where heads may be among them; much more would be mapped anew each time.
RECEIVE_BYTES = 64 << 10
#: Small objects asked for ahead on a connection that its source keeps: no round trip for each.
AHEAD = 8
#: An address is looked up again after so many seconds, and so many are remembered.
ADDRESS_S, ADDRESSES = 30.0, 4096
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

log = get_logger()


class FetchFailure(Exception):
    """The object could not be pulled; `may_pass` tells whether another try may help.

    `is_short` tells that this process lacks files or memory: it is tried until it has them.
    """

    def __init__(
        self, reason: Reason, detail: str, *, may_pass: bool = False, is_short: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.may_pass = may_pass
        self.is_short = is_short


@attrs.frozen
class Fetched:
    """An object of `size` bytes: in memory and not verified, or staged and verified.

    What is in memory may be in a buffer that the next object overwrites: it is to be written
    at once.
    """

    size: int
    body: bytes | memoryview = b""
    staged: Staged | None = None


def unexpected(exc: Exception) -> FetchFailure:
    """Return the failure of a task that met an unforeseen exception."""
    return FetchFailure(reasons.AGENT_FS_ERROR, f"unexpected: {exc!r}")


#: Told how a task ended.
Settle = Callable[[Task, Fetched | FetchFailure], None]
#: Told of tasks that somebody else had better pull.
GiveBack = Callable[[Iterable[Task]], None]


class _Stale(Exception):
    """The connection ended before the answer began: it is asked for again on another."""


@attrs.define(eq=False)
class _Connection:
    """A connection to a source and what is read from it.

    Mutable state: the reader; whether it was asked, and has answered, before; answers that are
    to come; how long the source has been silent.
    """

    stream: trio.SocketStream
    allowance: Allowance
    silence: Silence
    reader: ResponseReader = attrs.field(factory=ResponseReader)
    is_kept: bool = False
    has_carried: bool = False
    ahead: int = 0

    @property
    def is_stale(self) -> bool:
        """Tell whether the connection was good before, and ended before the next answer began."""
        return self.has_carried and self.reader.head is None

    def owes(self) -> bool:
        """Whether answers are to come that were asked for."""
        return self.ahead > 0

    async def ask(self, tasks: Iterable[Task]) -> None:
        """Send requests, the first of which is answered next."""
        requests = [_request(task) for task in tasks]
        self.reader.expect(len(requests) - (not self.is_kept))
        self.ahead = len(requests)
        self._start_clock()
        self.silence.is_broken()
        await self.stream.send_all(b"".join(requests))

    async def head(self) -> tuple[Head, bytes]:
        """Read up to the end of the next head; returns it, and the bytes of body that came with it.

        Silence is not broken by a part of a head, so a head that never ends is not waited for.
        """
        body = self.reader.next() if self.is_kept else b""
        self.ahead -= 1
        self.is_kept = True
        while self.reader.head is None:
            body = await self.receive()
        self.silence.is_broken()
        return self.reader.head, body

    async def receive(self) -> bytes:
        """The next bytes of the body; what the reader is done with is all there is.

        Raises:
          ProtocolError, trio.BrokenResourceError.
        """
        allowed = await self._leave(RECEIVE_BYTES)
        data = await self.stream.receive_some(allowed)
        self.allowance.give_back(allowed - len(data))
        if not data:
            self.reader.end()
            return b""
        body = self.reader.feed(data)
        if body:
            self.silence.is_broken()
        return body

    async def receive_plain(self, into: memoryview) -> int:
        """Receive bytes that are nothing but body, without a copy; how many.

        Raises:
          ProtocolError, OSError.
        """
        allowed = await self._leave(min(len(into), self.reader.plain_bytes))
        count = await self.stream.socket.recv_into(into[:allowed])
        self.allowance.give_back(allowed - count)
        if count:
            self.silence.is_broken()
            self.reader.took(count)
        else:
            self.reader.end()
        return count

    def _start_clock(self) -> None:
        self.silence.counts = True

    def stop_clock(self) -> None:
        """Count no silence of the source: it is not the source that is waited for."""
        self.silence.counts = False

    async def _leave(self, size: int) -> int:
        """Wait for leave to receive up to `size` bytes; returns how many.  Then the clock runs."""
        if self.allowance.is_limited:
            self.stop_clock()
            size = await self.allowance.take(size)
        self._start_clock()
        return size

    async def block(self, first: bytes, buffer: bytearray) -> memoryview:
        """Read more of the body behind `first`, about as much as `buffer` holds."""
        if not self.reader.plain_bytes:
            pieces, size = [first], len(first)
            while size < len(buffer) and not self.reader.is_done:
                pieces.append(data := await self.receive())
                size += len(data)
            return memoryview(b"".join(pieces))
        view, size = memoryview(buffer), len(first)
        view[:size] = first
        while size < len(view) and not self.reader.is_done:
            size += await self.receive_plain(view[size:])
        return view[:size]


@attrs.define(eq=False)
class Fetcher:
    """Pulls objects.

    Mutable state: its connections; addresses, by source; sources that keep connections;
    buffers that nobody uses, because a new one for each object costs more than receiving it.
    """

    files: ObjectFiles
    source: AgentSource
    hosts: Mapping[str, str]
    allowance: Allowance = attrs.field(factory=Allowance)
    connections: Connections = attrs.field(factory=Connections)
    #: Told what is lacking, and of nothing when that is over.
    on_lack: Callable[[str], None] = lambda _detail: None
    _patience: Patience = attrs.field(factory=Patience)
    _addresses: OrderedDict[str, tuple[float, tuple[str, int]]] = attrs.field(factory=OrderedDict)
    _keeps: OrderedDict[str, None] = attrs.field(factory=OrderedDict)
    _buffers: list[bytearray] = attrs.field(factory=list)

    async def run(self) -> None:
        """Look after connections, and count how long sources are silent, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.connections.run)
            shortest_s = min(self.source.idle_timeout, self.source.connect_timeout)
            nursery.start_soon(self._patience.run, shortest_s)

    async def fetch(self, tasks: deque[Task], settle: Settle, give_back: GiveBack) -> None:
        """Pull `tasks`, which have one source, one after the other.

        A small object comes in memory, a large one verified under a temporary name.  When a
        large one comes, the tasks behind it are given back.  Nothing is left behind by a task
        that fails or is cancelled.
        """
        name = tasks[0].source.manta_storage_id
        if not self._is_allowed(name):
            detail = f"{name} is not below any of the allowed domains"
            for task in tasks:
                settle(task, FetchFailure(reasons.SOURCE_OTHER_ERROR, detail))
            return
        failing: Task | None = None
        while tasks:
            try:
                async with self.connections.turns:
                    await self._converse(name, tasks, settle, give_back)
            except _Stale:
                continue
            except FetchFailure as failure:
                if tasks[0] is not failing:
                    failing, tries = tasks[0], 0
                    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
                if failure.is_short:
                    await self.wait_for_files(str(failure), next(waits))
                elif failure.may_pass and tries < self.source.retries:
                    tries += 1
                    await trio.sleep(next(waits))
                else:
                    settle(tasks.popleft(), failure)
            except Exception as exc:
                log.exception("task failed unexpectedly", task=tasks[0].object_id, source=name)
                settle(tasks.popleft(), unexpected(exc))
            else:
                self.on_lack("")

    async def wait_for_files(self, detail: str, pause_s: float) -> None:
        """Close the connections that can be spared, and wait until files may be free again."""
        self.connections.close()
        self.on_lack(detail)
        await trio.sleep(pause_s)

    def close(self) -> None:
        """Close the connections that are kept."""
        self.connections.close()

    def _is_allowed(self, name: str) -> bool:
        host = name.partition(":")[0]
        allowed = self.source.allowed_domains
        return not allowed or any(host == d or host.endswith(f".{d}") for d in allowed)

    # --- connections -----------------------------------------------------------------------

    async def _open(self, name: str) -> tuple[trio.SocketStream, bool]:
        """A connection, and whether it has carried answers before.

        Raises:
          FetchFailure: the source cannot be reached.
        """
        if (stream := self.connections.take(name)) is not None:
            return stream, True
        self.connections.make_room()
        where: object = name
        try:
            where = at = locate(name, self.hosts, self.source.port)
            with self._patience.limit(self.source.connect_timeout):
                return await self._connect(at.host, at.port), False
            detail, may_pass, is_short = "no connection in time", True, False
        except OSError as exc:
            is_short = exc.errno in SHORTAGES or is_short_of_files()
            detail, may_pass = str(exc), True
        except ValueError as exc:  # a port, or a name that cannot be encoded
            detail, may_pass, is_short = str(exc), False, False
        reason = reasons.SOURCE_OTHER_ERROR
        text = f"{name} at {where}: {detail}"
        raise FetchFailure(reason, text, may_pass=may_pass, is_short=is_short)

    async def _connect(self, host: str, port: int) -> trio.SocketStream:
        """Connect, to where that worked last if it was a moment ago.

        Looking a name up and racing its addresses takes longer than pulling a small object.
        """
        key = f"{host}:{port}"
        until, address = self._addresses.get(key, (0.0, ("", 0)))
        if trio.current_time() >= until:
            stream = await trio.open_tcp_stream(host, port)
            until, address = trio.current_time() + ADDRESS_S, stream.socket.getpeername()[:2]
            self._addresses[key] = until, address
            if len(self._addresses) > ADDRESSES:
                self._addresses.popitem(last=False)
            return stream
        made = trio.socket.socket(
            trio.socket.AF_INET6 if ":" in address[0] else trio.socket.AF_INET
        )
        try:
            await made.connect(address)
        except BaseException:
            self._addresses.pop(key, None)
            made.close()
            raise
        return trio.SocketStream(made)

    async def _converse(
        self, name: str, tasks: deque[Task], settle: Settle, give_back: GiveBack
    ) -> None:
        """Pull `tasks` over one connection, as many as it carries.

        Raises:
          FetchFailure: of the first of what is left of them.
          _Stale: nobody's fault.
        """
        stream, has_carried = await self._open(name)
        may_keep = False
        idle_s = self.source.idle_timeout
        connection: _Connection | None = None
        try:
            with self._patience.limit(idle_s, lambda: not is_quiet(stream)) as silence:
                connection = _Connection(stream, self.allowance, silence)
                connection.has_carried = has_carried
                may_keep = await self._carry(connection, name, tasks, settle, give_back)
            if silence.scope.cancelled_caught:
                raise FetchFailure(reasons.NETWORK_ERROR, f"nothing came for {idle_s} s")
        except (OSError, trio.BrokenResourceError, ProtocolError) as exc:
            if connection is not None and connection.is_stale:
                raise _Stale from exc
            raise FetchFailure(reasons.NETWORK_ERROR, str(exc) or "connection lost") from exc
        except LocalFailure as exc:
            raise FetchFailure(exc.reason, str(exc), is_short=exc.may_pass) from exc
        finally:
            if may_keep:
                self.connections.keep(name, stream)
            else:
                stream.socket.close()

    async def _carry(
        self,
        connection: _Connection,
        name: str,
        tasks: deque[Task],
        settle: Settle,
        give_back: GiveBack,
    ) -> bool:
        """Ask and read answers until all are settled, or the source ends it; whether to keep it."""
        while tasks and not connection.owes():
            is_deep = connection.has_carried or name in self._keeps
            await connection.ask(islice(tasks, AHEAD if is_deep else 1))
            while tasks and connection.owes():
                await self._answer(connection, tasks, settle, give_back)
                connection.has_carried = True
            if not connection.reader.is_reusable:
                self._keeps.pop(name, None)
                return False
            self._keeps[name] = None
            if len(self._keeps) > ADDRESSES:
                self._keeps.popitem(last=False)
        return not connection.owes()

    async def _answer(
        self, connection: _Connection, tasks: deque[Task], settle: Settle, give_back: GiveBack
    ) -> None:
        """Read the answer for the first of `tasks`, and settle it."""
        if connection.is_kept and not connection.reader.is_reusable:
            raise _Stale  # it closes, so it answers none of those asked for ahead
        head, first = await connection.head()
        if head.status == 200:
            fetched = await self._body(connection, head, first, tasks, give_back)
            settle(tasks.popleft(), fetched)
            return
        reason = reasons.http_status_code(head.status)
        failure = FetchFailure(reason, f"status {head.status}", may_pass=head.status >= 500)
        if failure.may_pass or not connection.reader.is_done:
            raise failure
        settle(tasks.popleft(), failure)

    # --- bodies ----------------------------------------------------------------------------

    async def _body(
        self,
        connection: _Connection,
        head: Head,
        first: bytes,
        tasks: deque[Task],
        give_back: GiveBack,
    ) -> Fetched:
        """The body of the answer for the first of `tasks`.

        Raises:
          LocalFailure: it is not what it should be, or the disk failed.
        """
        if connection.reader.is_done:
            return Fetched(len(first), first)
        buffer = self._buffers.pop() if self._buffers else bytearray(BLOCK_BYTES)
        try:
            if head.length is not None and head.length <= SMALL_BYTES:
                block = await connection.block(first, buffer)
                return Fetched(len(block), block)
            others = [tasks.pop() for _ in range(len(tasks) - 1)]
            if others:
                give_back(reversed(others))
            return await self._large_body(connection, tasks[0], head.length, first, buffer)
        finally:
            self._buffers.append(buffer)

    async def _large_body(
        self,
        connection: _Connection,
        task: Task,
        length: int | None,
        first: bytes,
        buffer: bytearray,
    ) -> Fetched:
        download: Download | None = None
        try:
            while True:
                block = await connection.block(first, buffer)
                is_last = connection.reader.is_done
                connection.stop_clock()
                if download is None and is_last and len(block) <= SMALL_BYTES:
                    return Fetched(len(block), block)
                step = partial(self._store, download, task, length, block, is_last)
                begun, staged = await run_sync(Work.OBJECTS, step)
                if staged is not None:
                    return Fetched(begun.size, staged=staged)
                download, first = begun, b""
        except BaseException:
            if download is not None:
                download.discard()
            raise

    def _store(
        self,
        download: Download | None,
        task: Task,
        length: int | None,
        block: memoryview,
        is_last: bool,
    ) -> tuple[Download, Staged | None]:
        """In a thread: hash and write `block`."""
        begun = download or self.files.open(task.owner, task.object_id, length)
        try:
            begun.write(block)
            return begun, begun.finish(task.md5sum) if is_last else None
        except BaseException:
            begun.discard()
            raise


def _request(task: Task) -> bytes:
    return (
        f"GET /{task.owner}/{task.object_id} HTTP/1.1\r\n"
        f"Host: {task.source.manta_storage_id}\r\n"
        f"User-Agent: rebalancer-agent/{__version__}\r\n"
        "Accept-Encoding: identity\r\n\r\n"
    ).encode("ascii")
