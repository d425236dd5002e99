"""This module looks at a socket without reading from it."""

import select

import trio


def is_quiet(socket: trio.socket.SocketType) -> bool:
    """Tell whether the peer has neither closed the connection nor sent what was not read."""
    waiting = select.poll()
    waiting.register(socket.fileno(), select.POLLIN)
    return not waiting.poll(0)
