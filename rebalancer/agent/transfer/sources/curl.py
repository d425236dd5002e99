"""This module is the engine on libcurl, whose many transfers one trio task drives.

libcurl says which sockets it waits for; they are in an epoll (or kqueue) object, which is itself
a file to wait for.  So one wait of trio's stands for all of them.
"""

import math
from typing import Any

import pycurl
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.connections import is_short_of_files
from rebalancer.agent.transfer.sources.engine import (
    ADDRESS_S,
    AGE_S,
    AHEAD_BYTES,
    UNWANTED_BYTES,
    USER_AGENT,
    WHOLE_BYTES,
    FetchFailure,
    Source,
    broken,
    read_head,
    read_status,
    unreachable,
)
from rebalancer.agent.transfer.sources.patience import tick_s
from rebalancer.agent.transfer.sources.sockets import open_sockets
from rebalancer.config import AgentSource

#: Bytes that libcurl receives at once: as many as stay in a processor's cache, and as few as it
#: can be told to.
BUFFER_BYTES, LEAST_BUFFER_BYTES = 128 << 10, 1 << 10
#: A time that has come whatever the clock says.
_NOW = -math.inf
#: libcurl's own limits count time in which this process was stopped; so they are out of reach.
_NEVER_MS = 1 << 30
#: What libcurl calls failures of a source that could not be connected to.
_UNREACHABLE = {
    pycurl.E_COULDNT_RESOLVE_HOST,
    pycurl.E_COULDNT_CONNECT,
    pycurl.E_OPERATION_TIMEDOUT,
}
#: How an answer fails on a kept connection that its source has closed or spoilt since the last
#: one: libcurl looks only at those that were kept for a second.
_STALE = {
    pycurl.E_UNSUPPORTED_PROTOCOL,
    pycurl.E_FTP_WEIRD_SERVER_REPLY,  # which is its name for all protocols
    pycurl.E_GOT_NOTHING,
    pycurl.E_SEND_ERROR,
    pycurl.E_RECV_ERROR,
}
#: What some sources say before they close a connection that was kept for too long.
_REQUEST_TIMEOUT = 408
#: Failures of libcurl for want of memory.
_SHORT = {pycurl.E_OUT_OF_MEMORY, pycurl.E_FAILED_INIT}
#: What a callback returns that takes nothing for now.
_PAUSE: int = pycurl.WRITEFUNC_PAUSE
#: The versions of pycurl, libcurl and its libraries.
VERSION: str = pycurl.version
#: The newest of the options that are used here.
if not hasattr(pycurl, "MAXAGE_CONN"):
    raise ImportError(f"{VERSION}: expected libcurl 7.65 or newer")


class _Transfer:
    """A transfer is a request with its answer, on a handle of libcurl's.

    The handle is used again, so this object carries one request after the other.

    Mutable state: the request; what has come of the answer and was not taken; how it ended, if it
    did; the task that waits for one of these; how long the source has been silent, and whether
    libcurl was told to receive no more for now, because enough waits to be taken.
    """

    def __init__(self, engine: "CurlEngine") -> None:
        self._engine = engine
        self.curl = pycurl.Curl()
        self.source: Source | None = None
        self.head: list[bytes] = []
        self._chunks: list[bytes] = []
        self._waiter: trio.lowlevel.Task | None = None
        self._is_again = False
        self._buffer_bytes = 0
        self._begin()
        for option, value in (
            (pycurl.NOSIGNAL, 1),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PROXY, ""),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.TCP_NODELAY, 1),
            (pycurl.CONNECTTIMEOUT_MS, _NEVER_MS),
            (pycurl.DNS_CACHE_TIMEOUT, ADDRESS_S),
            (pycurl.MAXAGE_CONN, AGE_S),
            (pycurl.USERAGENT, USER_AGENT),
            (pycurl.HEADERFUNCTION, self.head.append),
            (pycurl.WRITEFUNCTION, self._receive),
        ):
            self.curl.setopt(option, value)

    def _begin(self) -> None:
        self.head.clear()
        self._chunks = []
        self._size = self._unwanted = 0
        self._enough = WHOLE_BYTES
        self._has_moved = self._had_head = self._has_body = self._is_full = False
        self._silent_s = 0.0
        self._failure: FetchFailure | None = None
        self.status = 0
        self.length: int | None = None
        self.is_small = False
        self.is_under_way = self.is_taken = False

    def ask(self, source: Source, path: str, buffer_bytes: int) -> None:
        """Prepare a request; the handle is then to be added to those under way."""
        self._begin()
        setopt = self.curl.setopt
        setopt(pycurl.URL, source.url + path)
        if source is not self.source:
            fields = [f"Host: {source.name}", "Accept:", "Accept-Encoding: identity"]
            setopt(pycurl.HTTPHEADER, fields)
            self.source = source
        if buffer_bytes != self._buffer_bytes:
            setopt(pycurl.BUFFERSIZE, buffer_bytes)
            self._buffer_bytes = buffer_bytes
        if self._is_again:
            self._is_again = False
            setopt(pycurl.FRESH_CONNECT, 0)
        self.is_under_way = self.is_taken = True

    def ask_again(self) -> None:
        """Prepare the same request, for a new connection."""
        self._begin()
        self._is_again = self.is_under_way = self.is_taken = True
        self.curl.setopt(pycurl.FRESH_CONNECT, 1)

    def is_stale(self, code: int) -> bool:
        """Tell whether it may be the fault of a kept connection how the transfer ended."""
        is_odd = code in _STALE if code else self.status == _REQUEST_TIMEOUT
        is_settled = self._is_again or self._has_body
        return is_odd and not is_settled and not self.curl.getinfo(pycurl.NUM_CONNECTS)

    # --- what libcurl tells --------------------------------------------------------------------

    def _receive(self, data: bytes) -> int | None:
        """Take bytes of the body; any other number than None ends the transfer, or lets it rest.

        What is not taken then libcurl hands over again.  Some versions of pycurl lose their
        thread if they are told to pause from here in any other way.
        """
        if self._size >= AHEAD_BYTES:
            self._is_full = True
            return _PAUSE
        size = len(data)
        self._has_moved = self._has_body = True
        if not self.status:
            self.status = read_status(self.head)
        self._engine.spend(size)
        if self.status != 200:
            self._unwanted += size
            return None if self._unwanted <= UNWANTED_BYTES else -1
        self._chunks.append(data)
        self._size += size
        if self._size > self._enough:
            self._wake()
        return None

    def ended(self, failure: FetchFailure | None) -> None:
        """Note that the transfer is over, as libcurl tells or as silence made it."""
        self.is_under_way = False
        self._failure = failure
        self._wake()

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing more is to come, not even a failure that `take` has yet to tell."""
        return not (self.is_under_way or self._chunks or self._failure)

    # --- silence -------------------------------------------------------------------------------

    def tick(self, seconds: float, limits: AgentSource) -> FetchFailure | None:
        """Add `seconds` to the silence; returns the failure if that lasts for too long.

        Silence is not broken by a part of a head, so a head that never ends is not waited for.
        """
        if not self._had_head and self.head and not self.head[-1].strip():
            self._had_head = read_status(self.head) >= 200
            self._has_moved |= self._had_head
        if self._has_moved or self._is_full:
            self._has_moved, self._silent_s = False, 0.0
            return None
        self._silent_s += seconds
        if self.head or self.curl.getinfo(pycurl.PRETRANSFER_TIME):
            if self._silent_s >= limits.idle_timeout:
                return broken(f"nothing came for {limits.idle_timeout} s")
        elif self._silent_s >= limits.connect_timeout:
            return unreachable(f"{self.source}: no connection in time")
        return None

    # --- what tasks do -------------------------------------------------------------------------

    async def begun(self) -> None:
        """Wait until the answer is whole, or is the beginning of a large one.

        Raises:
          FetchFailure: the source cannot be reached, or its answer cannot be believed.
        """
        await self._wait()
        if self._failure is not None:
            raise self._failure
        if self.status < 200:
            raise broken(f"status {self.status}")
        self.length = read_head(self.head)
        self.is_small = not self.is_under_way and self._size <= WHOLE_BYTES

    async def take(self) -> list[bytes]:
        """Wait for about `AHEAD_BYTES` of body; all that is left if `is_whole` is then true.

        Raises:
          FetchFailure: the rest does not come.
        """
        self._enough = AHEAD_BYTES - 1
        await self._wait()
        if self._failure is not None:
            raise self._failure
        chunks, self._chunks, self._size = self._chunks, [], 0
        if self._is_full:
            self._is_full = False
            await trio.lowlevel.checkpoint_if_cancelled()  # as in `CurlEngine.get`
            if self.is_under_way:
                self.curl.pause(pycurl.PAUSE_CONT)
                self._engine.kick()
        return chunks

    def close(self) -> None:
        """End the transfer, wherever it is; may be called again."""
        self._engine.drop(self)

    async def _wait(self) -> None:
        # It may be there before anybody waits: one turn of libcurl's is enough for a megabyte.
        if self.is_under_way and self._size <= self._enough:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
            self._waiter = None


class CurlEngine:
    """This engine has libcurl do many transfers at a time, and drives them by one task.

    Mutable state: libcurl's own; the transfers under way, by handle, and those at rest; when
    libcurl wants to be asked whatever happens; for how long nothing has been under way, and
    whether the connections are closed when nothing is.
    """

    def __init__(self, limits: AgentSource, allowance: Allowance, most: int) -> None:
        self._limits = limits
        self._allowance = allowance
        self._most = most
        self._under_way: dict[Any, _Transfer] = {}
        self._at_rest: list[_Transfer] = []
        self._due = math.inf
        self._sleep = trio.CancelScope()
        self._idle_s = 0.0
        self._sockets = open_sockets()
        self._multi: Any = None
        self._is_closing = False

    def _open(self, where: str) -> Any:
        """Start libcurl.

        Raises:
          FetchFailure: this process lacks files or memory for it.
        """
        try:
            multi = pycurl.CurlMulti()
        except (pycurl.error, MemoryError) as exc:
            raise unreachable(f"{where}: {exc}", is_short=True) from exc
        multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, self._most)
        multi.setopt(pycurl.M_MAXCONNECTS, self._most)
        multi.setopt(pycurl.M_PIPELINING, 0)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_due)
        self._is_closing = False
        return multi

    # --- asking --------------------------------------------------------------------------------

    async def get(self, source: Source, path: str) -> _Transfer:
        """Ask `source` for `path`; returns once the answer is whole, or is a large one's beginning.

        Raises:
          FetchFailure: there is no answer that could be believed.
        """
        # This one may be cancelled together with `run`, which has then closed all.
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._allowance.is_open:
            await self._allowance.wait()
        if self._is_closing:
            self.rest()
        if self._multi is None:
            self._multi = self._open(str(source))
        transfer = self._at_rest.pop() if self._at_rest else _Transfer(self)
        transfer.ask(source, path, self._buffer_bytes())
        try:
            self._add(transfer)
            self.kick()
            await transfer.begun()
        except BaseException:
            transfer.close()
            raise
        return transfer

    def _buffer_bytes(self) -> int:
        """Return how many bytes libcurl receives at once, some ten times in a turn."""
        if not self._allowance.is_limited:
            return BUFFER_BYTES
        return max(LEAST_BUFFER_BYTES, min(BUFFER_BYTES, self._allowance.at_once // 8))

    def spend(self, size: int) -> None:
        """Count `size` bytes that were received against the limit of bandwidth."""
        self._allowance.spend(size)

    def drop(self, transfer: _Transfer) -> None:
        """End a transfer; its handle carries another one if this one is over."""
        if not transfer.is_taken:
            return
        transfer.is_taken = False
        if transfer.is_under_way:
            transfer.is_under_way = False
            self._remove(transfer)
            transfer.curl.close()
        else:
            self._at_rest.append(transfer)

    def rest(self) -> None:
        """Close the connections that nobody uses; all of them as soon as nothing is under way."""
        if self._under_way:
            self._is_closing = True
            self._multi.setopt(pycurl.M_MAXCONNECTS, 1)
        else:
            self._close()  # the next request opens another, for which files may lack now
            self._sockets.has_spoilt = False

    # --- libcurl's turns -----------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the transfers for ever."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drive)
                nursery.start_soon(self._count_silence)
        finally:
            for transfer in list(self._under_way.values()):
                self._remove(transfer)
            self._close()
            self._sockets.close()

    def _close(self) -> None:
        if self._multi is not None:
            self._multi.close()
            self._multi = None

    async def _drive(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._due) as self._sleep:
                await trio.lowlevel.wait_readable(self._sockets.fileno())
            for number, events in self._sockets.ready():
                if not self._allowance.is_open:
                    await self._allowance.wait()
                self._act(number, events)
            if not self._allowance.is_open:
                await self._allowance.wait()
            self.kick()

    def _act(self, number: int, events: int) -> None:
        if self._multi is not None:
            self._multi.socket_action(number, events)

    def kick(self) -> None:
        """Let libcurl do what it wants to do now, whatever its sockets say."""
        if self._multi is None:
            return
        is_due = self._due == _NOW or self._due <= trio.current_time()
        if is_due and self._allowance.is_open:
            self._due = math.inf
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        left = 1
        while left:
            left, whole, failed = self._multi.info_read()
            for curl in whole:
                self._ended(curl, 0, "")
            for curl, code, text in failed:
                self._ended(curl, code, text)
        if self._due < self._sleep.deadline:
            self._sleep.deadline = self._due

    async def _count_silence(self) -> None:
        """Count in ticks, which do not happen while this process is stopped, or the machine."""
        seconds = tick_s(min(self._limits.idle_timeout, self._limits.connect_timeout))
        while True:
            await trio.sleep(seconds)
            self._idle_s = 0.0 if self._under_way else self._idle_s + seconds
            if self._idle_s >= AGE_S or (self._idle_s and self._sockets.has_spoilt):
                self.rest()
                self._idle_s = -math.inf  # there is nothing more to close
            if self._allowance.is_open:  # else it is not the sources that are waited for
                self._judge(seconds)

    def _judge(self, seconds: float) -> None:
        """Fail transfers whose sources have been silent for too long; what came is read before."""
        for number, events in self._sockets.ready():
            self._act(number, events)
        self.kick()
        for transfer in list(self._under_way.values()):
            if (failure := transfer.tick(seconds, self._limits)) is not None:
                self._remove(transfer)
                transfer.ended(failure)

    def _watch(self, what: int, number: int, _multi: object, _data: object) -> None:
        self._sockets.watch(what, number)

    def _set_due(self, milliseconds: int) -> None:
        if milliseconds <= 0:
            self._due = math.inf if milliseconds else _NOW
        else:
            self._due = trio.current_time() + milliseconds / 1000

    def _ended(self, curl: Any, code: int, text: str) -> None:
        transfer = self._under_way[curl]
        self._remove(transfer)
        transfer.status = transfer.status or read_status(transfer.head)
        if transfer.is_stale(code):
            transfer.ask_again()
            self._add(transfer)
            return
        transfer.ended(_failure(transfer, code, text) if code else None)

    def _add(self, transfer: _Transfer) -> None:
        self._multi.add_handle(transfer.curl)
        self._under_way[transfer.curl] = transfer

    def _remove(self, transfer: _Transfer) -> None:
        if self._under_way.pop(transfer.curl, None) is not None:
            self._multi.remove_handle(transfer.curl)


def _failure(transfer: _Transfer, code: int, text: str) -> FetchFailure | None:
    """Return what a transfer failed of, in libcurl's words; None if its status tells enough."""
    if transfer.status not in (0, 200):
        return None  # its body was too long to read it for nothing
    if code in _SHORT:
        return unreachable(f"{transfer.source}: {text}", is_short=True)
    if code in _UNREACHABLE:
        return unreachable(f"{transfer.source}: {text}", is_short=is_short_of_files())
    if code == pycurl.E_URL_MALFORMAT:
        return unreachable(f"{transfer.source}: {text}", may_pass=False)
    return broken(text or f"libcurl's error {code}")  # of some it says nothing more
