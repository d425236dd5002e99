"""This module is the engine on libcurl."""

import math

import pycurl
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.connections import is_short_of_files
from rebalancer.agent.transfer.sources.driver import Driver
from rebalancer.agent.transfer.sources.engine import (
    AGE_S,
    PullFailure,
    Source,
    broken,
    read_status,
    unreachable,
)
from rebalancer.agent.transfer.sources.exchange import Exchange
from rebalancer.agent.transfer.sources.silence import tick_s
from rebalancer.config import AgentSource

#: Bytes that libcurl receives at once: as many as stay in a processor's cache, and the fewest
#: that it accepts as a setting.
BUFFER_BYTES, LEAST_BUFFER_BYTES = 128 << 10, 1 << 10
#: Libcurl's errors of a source that could not be connected to.
_UNREACHABLE = {
    pycurl.E_COULDNT_RESOLVE_HOST,
    pycurl.E_COULDNT_CONNECT,
    pycurl.E_OPERATION_TIMEDOUT,
}
#: Failures of libcurl for want of memory.
_SHORT = {pycurl.E_OUT_OF_MEMORY, pycurl.E_FAILED_INIT}
#: The versions of pycurl, libcurl and its libraries.
VERSION: str = pycurl.version
#: The newest of the options that are used here.
if not hasattr(pycurl, "MAXAGE_CONN"):
    raise ImportError(f"{VERSION}: expected libcurl 7.65 or newer")


class CurlEngine:
    """This engine has libcurl do many exchanges at a time.

    Mutable state: the driver with the exchanges under way, and those at rest; for how long nothing
    has been under way, and whether the connections are closed when nothing is.
    """

    name = "libcurl"

    def __init__(self, limits: AgentSource, allowance: Allowance, most: int) -> None:
        self._limits = limits
        self._allowance = allowance
        self._driver = Driver(allowance, most, self._ended)
        self._at_rest: list[Exchange] = []
        self._idle_s = 0.0
        self._is_closing = False
        self.spend = allowance.spend
        self.kick = self._driver.kick

    async def run(self) -> None:
        """Drive the exchanges for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._driver.run)
            nursery.start_soon(self._count_silence)

    async def get(self, source: Source, path: str) -> Exchange:
        """Ask `source` for `path`; return once the answer is whole, or is a large one's beginning.

        Raises:
          PullFailure: there is no answer that could be believed.
        """
        # This one may be cancelled together with `run`, which has then closed all.
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._allowance.is_open:
            await self._allowance.wait()
        if self._is_closing:
            self.rest()
        self._driver.open(source)
        exchange = self._at_rest.pop() if self._at_rest else Exchange(self)
        exchange.ask(source, path, self._buffer_bytes())
        try:
            self._driver.sockets.shut_spoilt()
            self._driver.add(exchange)
            self.kick()
            await exchange.begun()
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _buffer_bytes(self) -> int:
        """Return how many bytes libcurl receives at once, some ten times in a turn."""
        if not self._allowance.is_limited:
            return BUFFER_BYTES
        return max(LEAST_BUFFER_BYTES, min(BUFFER_BYTES, self._allowance.at_once // 8))

    def drop(self, exchange: Exchange) -> None:
        """End an exchange; its handle carries another one if this one is over."""
        if not exchange.is_taken:
            return
        exchange.is_taken = False
        if exchange.is_under_way:
            exchange.is_under_way = False
            self._driver.remove(exchange)
            exchange.curl.close()
        else:
            self._at_rest.append(exchange)

    def rest(self) -> None:
        """Close the connections that nobody uses; all of them as soon as nothing is under way."""
        self._is_closing = bool(self._driver.under_way)
        if self._is_closing:
            self._driver.keep_none()
        else:
            self._driver.close()  # the next request starts it anew, for which files may lack now
            self._driver.sockets.has_spoilt = False

    def _ended(self, exchange: Exchange, code: int, text: str) -> None:
        """Take an exchange that libcurl has ended with a code of its own."""
        exchange.status = exchange.status or read_status(exchange.head)
        if exchange.is_stale(code):
            exchange.ask_again()
            self._driver.add(exchange)
            return
        exchange.ended(_failure(exchange, code, text) if code else None)

    async def _count_silence(self) -> None:
        """Count in ticks, which do not happen while this process is stopped, or the machine."""
        seconds = tick_s(min(self._limits.idle_timeout, self._limits.connect_timeout))
        while True:
            await trio.sleep(seconds)
            self._idle_s = 0.0 if self._driver.under_way else self._idle_s + seconds
            if self._idle_s >= AGE_S or (self._idle_s and self._driver.sockets.has_spoilt):
                self.rest()
                self._idle_s = -math.inf  # there is nothing more to close
            if self._allowance.is_open:  # else it is not the sources that are waited for
                self._judge(seconds)

    def _judge(self, seconds: float) -> None:
        """Fail exchanges whose sources have been silent for too long; what came is read before."""
        self._driver.look()
        for exchange in list(self._driver.under_way.values()):
            if (failure := exchange.tick(seconds, self._limits)) is not None:
                self._driver.remove(exchange)
                exchange.ended(failure)


def _failure(exchange: Exchange, code: int, text: str) -> PullFailure | None:
    """Return what an exchange failed of, in libcurl's words; None if its status tells enough."""
    if exchange.status not in (0, 200):
        return None  # its body was too long to read it for nothing
    if code in _SHORT:
        return unreachable(f"{exchange.source}: {text}", is_short=True)
    if code in _UNREACHABLE:
        return unreachable(f"{exchange.source}: {text}", is_short=is_short_of_files())
    if code == pycurl.E_URL_MALFORMAT:
        return unreachable(f"{exchange.source}: {text}", is_transient=False)
    return broken(text or f"libcurl's error {code}")  # of some it says nothing more
