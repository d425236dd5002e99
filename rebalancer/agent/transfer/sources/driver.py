"""This module gives libcurl its turns, for many exchanges at a time, by one trio task.

libcurl says which sockets it waits for; they are in an epoll (or kqueue) object, which is itself
a file to wait for.  So one wait of trio's stands for all of them.
"""

import math
from collections.abc import Callable
from typing import Any

import pycurl
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.sources.engine import Source, unreachable
from rebalancer.agent.transfer.sources.exchange import Exchange
from rebalancer.agent.transfer.sources.sockets import open_sockets

#: A time that has come whatever the clock says.
_NOW = -math.inf


class Driver:
    """A driver has libcurl do exchanges, and keeps its connections.

    Mutable state: libcurl's own; the exchanges under way, by handle; the watched sockets; when
    libcurl wants a turn whatever they say, and the sleep until then.
    """

    def __init__(
        self, allowance: Allowance, most: int, on_ended: Callable[[Exchange, int, str], None]
    ) -> None:
        self.under_way: dict[Any, Exchange] = {}
        self.sockets = open_sockets(self._is_paused)
        self._allowance = allowance
        self._most = most
        #: Called with an exchange that libcurl has ended, its code, and its words.
        self._on_ended = on_ended
        self._due = math.inf
        self._sleep = trio.CancelScope()
        self._multi: Any = None

    def open(self, source: Source) -> None:
        """Start libcurl, unless it is started.

        Raises:
          PullFailure: this process lacks files or memory for it.
        """
        if self._multi is not None:
            return
        try:
            multi = pycurl.CurlMulti()
        except (pycurl.error, MemoryError) as exc:
            raise unreachable(f"{source}: {exc}", is_short=True) from exc
        multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, self._most)
        multi.setopt(pycurl.M_MAXCONNECTS, self._most)
        multi.setopt(pycurl.M_PIPELINING, 0)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_due)
        self._multi = multi

    def close(self) -> None:
        """End all exchanges, and close all connections."""
        for exchange in list(self.under_way.values()):
            self.remove(exchange)
        if self._multi is not None:
            self._multi.close()
            self._multi = None

    def keep_none(self) -> None:
        """Close connections that come to rest, from now on until `close`."""
        self._multi.setopt(pycurl.M_MAXCONNECTS, 1)

    def add(self, exchange: Exchange) -> None:
        """Begin an exchange, at the next turn."""
        self._multi.add_handle(exchange.curl)
        self.under_way[exchange.curl] = exchange

    def remove(self, exchange: Exchange) -> None:
        """Stop an exchange, wherever it is."""
        if self.under_way.pop(exchange.curl, None) is not None:
            self._multi.remove_handle(exchange.curl)

    async def run(self) -> None:
        """Give turns for ever."""
        try:
            while True:
                with trio.CancelScope(deadline=self._due) as self._sleep:
                    await trio.lowlevel.wait_readable(self.sockets.fileno())
                for number, events in self.sockets.ready():
                    if not self._allowance.is_open:
                        await self._allowance.wait()
                    self._act(number, events)
                if not self._allowance.is_open:
                    await self._allowance.wait()
                self.kick()
        finally:
            self.close()
            self.sockets.close()

    def look(self) -> None:
        """Read what waits to be read."""
        for number, events in self.sockets.ready():
            self._act(number, events)
        self.kick()

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

    def _act(self, number: int, events: int) -> None:
        if self._multi is not None:
            self._multi.socket_action(number, events)

    def _ended(self, curl: Any, code: int, text: str) -> None:
        exchange = self.under_way[curl]
        self.remove(exchange)
        self._on_ended(exchange, code, text)

    def _is_paused(self, number: int) -> bool:
        """Return whether a socket is that of an exchange of which nothing is received for now."""
        paused = [one.curl for one in self.under_way.values() if one.is_full]
        return any(curl.getinfo(pycurl.ACTIVESOCKET) == number for curl in paused)

    def _watch(self, what: int, number: int, _multi: object, _data: object) -> None:
        self.sockets.watch(what, number)

    def _set_due(self, milliseconds: int) -> None:
        if milliseconds <= 0:
            self._due = math.inf if milliseconds else _NOW
        else:
            self._due = trio.current_time() + milliseconds / 1000
