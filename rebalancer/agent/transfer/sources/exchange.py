"""This module carries one request after the other, with its answer, on a handle of libcurl's."""

from typing import Protocol

import pycurl
import trio

from rebalancer.agent.transfer.sources.engine import (
    ADDRESS_S,
    AGE_S,
    AHEAD_BYTES,
    UNWANTED_BYTES,
    USER_AGENT,
    WHOLE_BYTES,
    PullFailure,
    Source,
    broken,
    read_head,
    read_status,
    unreachable,
)
from rebalancer.config import AgentSource

#: libcurl's own limits count time in which this process was stopped; so they are out of reach.
_NEVER_MS = 1 << 30
#: How an answer fails on a kept connection that its source has closed or spoilt since the last
#: one: libcurl looks only at those that were kept for a second.
_STALE = {
    pycurl.E_UNSUPPORTED_PROTOCOL,
    pycurl.E_FTP_WEIRD_SERVER_REPLY,  # which is its name for all protocols
    pycurl.E_GOT_NOTHING,
    pycurl.E_SEND_ERROR,
    pycurl.E_RECV_ERROR,
}
#: The status by which some sources close a connection that was kept for too long.
_REQUEST_TIMEOUT = 408
#: The answer of a callback that takes nothing for now.
_PAUSE: int = pycurl.WRITEFUNC_PAUSE


class Keeper(Protocol):
    """The engine that keeps exchanges."""

    def spend(self, size: int) -> None:
        """Count `size` bytes that were received against the limit of bandwidth."""

    def kick(self) -> None:
        """Let libcurl do what it wants to do now."""

    def drop(self, exchange: "Exchange") -> None:
        """End an exchange."""


class Exchange:
    """An exchange is a request with its answer, on a handle of libcurl's.

    The handle is used again, so this object carries one request after the other.

    Mutable state: the request; the bytes of the answer that came and were not taken; the failure,
    if it ended with one; the trio task that waits for these; how long the source has been silent;
    and whether receiving is paused, because enough waits to be taken.
    """

    def __init__(self, engine: Keeper) -> None:
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
        self._has_moved = self._had_head = self._has_body = self.is_full = False
        self._silent_s = 0.0
        self._failure: PullFailure | None = None
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
        """Return whether a kept connection may be at fault for how the exchange ended."""
        is_odd = code in _STALE if code else self.status == _REQUEST_TIMEOUT
        is_final = self._is_again or self._has_body
        return is_odd and not is_final and not self.curl.getinfo(pycurl.NUM_CONNECTS)

    # --- what libcurl calls --------------------------------------------------------------------

    def _receive(self, data: bytes) -> int | None:
        """Take bytes of the body; any other number than None ends the exchange, or lets it rest.

        What is not taken then libcurl hands over again.  Some versions of pycurl lose their
        thread if they are made to pause from here in any other way.
        """
        if self._size >= AHEAD_BYTES:
            self.is_full = True
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

    def ended(self, failure: PullFailure | None) -> None:
        """Note that the exchange is over, by libcurl's word or by silence."""
        self.is_under_way = False
        self._failure = failure
        self._wake()

    @property
    def is_whole(self) -> bool:
        """Return whether nothing more is to come, not even a failure from `take`."""
        return not (self.is_under_way or self._chunks or self._failure)

    # --- silence -------------------------------------------------------------------------------

    def tick(self, seconds: float, limits: AgentSource) -> PullFailure | None:
        """Add `seconds` to the silence; return the failure if that lasts for too long.

        Silence is not broken by a part of a head, so a head that never ends is not waited for.
        """
        if not self._had_head and self.head and not self.head[-1].strip():
            self._had_head = read_status(self.head) >= 200
            self._has_moved |= self._had_head
        if self._has_moved or self.is_full:
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
          PullFailure: the source cannot be reached, or its answer cannot be believed.
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
          PullFailure: the rest does not come.
        """
        self._enough = AHEAD_BYTES - 1
        await self._wait()
        if self._failure is not None:
            raise self._failure
        chunks, self._chunks, self._size = self._chunks, [], 0
        if self.is_full:
            self.is_full = False
            await trio.lowlevel.checkpoint_if_cancelled()  # as in `CurlEngine.get`
            if self.is_under_way:
                self.curl.pause(pycurl.PAUSE_CONT)
                self._engine.kick()
        return chunks

    def close(self) -> None:
        """End the exchange, wherever it is; may be called again."""
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
