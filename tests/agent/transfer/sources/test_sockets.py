"""The sockets that libcurl waits for, and those of connections that it keeps."""

import select
import socket

import pytest
import trio
import trio.testing

pytestmark = [
    pytest.mark.native("pycurl"),
    pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll here"),
]


async def test_a_kept_connection_is_looked_at_again_once_the_last_look_is_not_fresh(
    mock_clock: trio.testing.MockClock,
) -> None:
    import pycurl

    from rebalancer.agent.transfer.sources.sockets import FRESH_S, EpollSockets

    ours, theirs = socket.socketpair()
    watched = EpollSockets(lambda _number: False)
    with ours, theirs:
        watched.watch(pycurl.POLL_IN, ours.fileno())
        watched.watch(pycurl.POLL_REMOVE, ours.fileno())  # libcurl keeps its connection
        assert watched.ready() == []
        theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        watched.shut_spoilt()
        had_spoilt = watched.has_spoilt

        mock_clock.jump(FRESH_S)
        watched.shut_spoilt()
        assert (had_spoilt, watched.has_spoilt) == (False, True)
        assert theirs.recv(1) == b""
    watched.close()
