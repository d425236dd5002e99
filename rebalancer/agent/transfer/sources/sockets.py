"""This module watches libcurl's sockets, in an object that is itself a file to wait for."""

import select
import selectors
from contextlib import suppress

import pycurl


class SelectedSockets:
    """This object watches the sockets that libcurl waits for, by what the standard library has.

    What libcurl does not wait for is not watched, so a spoilt connection is never known of.
    """

    def __init__(self) -> None:
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
    connection carries the next request at once.  One that was closed is not, whatever else has
    its number now.

    Mutable state: the sockets that libcurl waits for, and whether another one became ready, whose
    connection its source must have closed or spoilt.
    """

    def __init__(self) -> None:
        self.has_spoilt = False
        self._epoll = select.epoll()
        self._wanted: set[int] = set()

    def fileno(self) -> int:
        """Return the descriptor that is readable while a socket is ready."""
        return self._epoll.fileno()

    def watch(self, what: int, number: int) -> None:
        """Watch a socket for what libcurl waits for, or no longer if that is nothing."""
        if what == pycurl.POLL_REMOVE:
            self._wanted.discard(number)
            return
        self._wanted.add(number)
        try:
            self._epoll.modify(number, _EPOLL[what])
        except FileNotFoundError:
            self._epoll.register(number, _EPOLL[what])

    def ready(self) -> list[tuple[int, int]]:
        """Return the sockets that are ready, and for what, in libcurl's words."""
        found = []
        for number, events in self._epoll.poll(0):
            if number in self._wanted:
                into = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
                out = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
                found.append((number, into | out))
            else:
                self._epoll.unregister(number)
                self.has_spoilt = True
        return found

    def close(self) -> None:
        """Stop watching."""
        self._epoll.close()


def open_sockets() -> SelectedSockets | EpollSockets:
    """Return what the platform has: epoll, or what the standard library chooses, as kqueue."""
    return EpollSockets() if hasattr(select, "epoll") else SelectedSockets()
