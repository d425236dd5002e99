"""This module watches libcurl's sockets, in an object that is itself a file to wait for."""

import math
import select
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress

import pycurl
import trio

#: A connection on which nothing had come so many seconds ago is used again without another look: a
#: look lets other threads run, and with small objects there would be one for each.
FRESH_S = 0.001


class SelectedSockets:
    """This object watches the sockets that libcurl waits for, by what the standard library has.

    What libcurl does not wait for is not watched, so a spoilt connection is never known of.
    """

    def __init__(self, _is_paused: Callable[[int], bool]) -> None:
        self.has_spoilt = False
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """Return the descriptor that is readable while a socket is ready."""
        return self._selector.fileno()

    def watch(self, what: int, number: int) -> None:
        """Watch a socket for what libcurl waits for, or no longer if that is nothing."""
        with suppress(KeyError):
            self._selector.unregister(number)
        if what != pycurl.POLL_REMOVE:
            events = selectors.EVENT_READ if what & pycurl.POLL_IN else 0
            events |= selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
            self._selector.register(number, events)

    def ready(self) -> list[tuple[int, int]]:
        """Return the sockets that are ready, and for what, in libcurl's words."""
        found = self._selector.select(0)
        return [(key.fd, _selected(events)) for key, events in found]

    def shut_spoilt(self) -> None:
        """Do nothing: of a kept connection nothing is known."""

    def close(self) -> None:
        """Stop watching."""
        self._selector.close()


def _selected(events: int) -> int:
    into = pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0
    return into | (pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0)


_EPOLL = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class EpollSockets:
    """This object watches the same sockets straight on epoll, at a fifth of the cost.

    The cost counts, because two changes come with each object.

    A socket that libcurl does not wait for stays registered until it is ready, for mostly its
    connection carries the next request at once.  A closed socket is not, even if another has
    its number now.

    Mutable state: what libcurl waits for, by socket; whether another one became readable, whose
    connection its source must have closed or spoilt; and the time of the last look at all.
    """

    def __init__(self, is_paused: Callable[[int], bool]) -> None:
        self.has_spoilt = False
        #: Tells whether a socket is that of an exchange that rests, so that much may come on it.
        self._is_paused = is_paused
        self._epoll = select.epoll()
        self._wanted: dict[int, int] = {}
        self._looked_at = -math.inf

    def fileno(self) -> int:
        """Return the descriptor that is readable while a socket is ready."""
        return self._epoll.fileno()

    def watch(self, what: int, number: int) -> None:
        """Watch a socket for what libcurl waits for, or no longer if that is nothing."""
        if what == pycurl.POLL_REMOVE:
            if self._wanted.pop(number, 0) & select.EPOLLOUT:  # it may be always ready for that
                with suppress(OSError):
                    self._epoll.modify(number, select.EPOLLIN)
            return
        events = self._wanted[number] = _EPOLL[what]
        try:
            self._epoll.modify(number, events)
        except FileNotFoundError:
            self._epoll.register(number, events)

    def ready(self) -> list[tuple[int, int]]:
        """Return the sockets that are ready, and for what, in libcurl's words."""
        found = []
        self._looked_at = trio.current_time()
        for number, events in self._epoll.poll(0):
            if number in self._wanted:
                into = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
                out = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
                found.append((number, into | out))
            else:
                self._check(number)
        return found

    def shut_spoilt(self) -> None:
        """Shut the kept connections that have become readable: the next request must not use them.

        A whole answer that nobody asked for would be taken for that of the next request.
        """
        if trio.current_time() < self._looked_at + FRESH_S:
            return
        for number, _ in self._epoll.poll(0):
            if number not in self._wanted:
                self._check(number)

    def _check(self, number: int) -> None:
        """Shut a connection on which something came, and which is kept; libcurl learns by sending.

        One whose exchange is paused is watched again when libcurl says so.
        """
        self._epoll.unregister(number)
        if self._is_paused(number):
            return
        self.has_spoilt = True
        with suppress(OSError):
            kept = socket.socket(fileno=number)
            try:
                kept.shutdown(socket.SHUT_RDWR)
            finally:
                kept.detach()

    def close(self) -> None:
        """Stop watching."""
        self._epoll.close()


def open_sockets(is_paused: Callable[[int], bool]) -> SelectedSockets | EpollSockets:
    """Return what the platform has: epoll, or what the standard library chooses, as kqueue."""
    made = EpollSockets if hasattr(select, "epoll") else SelectedSockets
    return made(is_paused)
