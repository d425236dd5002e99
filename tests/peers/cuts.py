"""A server behind a link that a test can cut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from rebalancer_devregion.chaos.links import Link, linked


async def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens at."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port: int = listener.socket.getsockname()[1]
        return port


@asynccontextmanager
async def behind_a_link(host: str, port: int, *, framed: bool = False) -> AsyncIterator[Link]:
    """A link to a server, at a port of its own; `framed` for Moray, which dies of parts."""
    link = Link("link", "127.0.0.1", await free_port(), host, port, framed=framed)
    async with linked([link]):
        yield link


def cut_for_good(link: Link) -> None:
    """End all connections, and let none be made until the link is healed."""
    link.refuses = True
    link.cut()
