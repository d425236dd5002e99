"""Where a named host is: the configured `hosts` table first, then the system's resolver."""

import socket
from collections.abc import Mapping

import attrs
import trio

from rebalancer.errors import PeerUnreachable


@attrs.frozen
class Endpoint:
    """An address (or a name for the resolver) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def split_port(text: str, default_port: int) -> Endpoint:
    """Read `name`, `name:port`, an IPv4 or a bracketed IPv6 address, with or without a port.

    Raises:
      ValueError: what follows the colon is no port.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        return Endpoint(text.strip("[]"), default_port)
    if not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text}: expected a port number after the colon")
    return Endpoint(host.strip("[]"), int(port))


def locate(name: str, hosts: Mapping[str, str], default_port: int) -> Endpoint:
    """Where to connect for `name`.

    An entry of `hosts` may be an address or address:port; without a port, `default_port`
    holds.  A name that is not listed is left to the resolver.
    """
    wanted = split_port(name, default_port)
    if listed := hosts.get(name) or hosts.get(wanted.host):
        return split_port(listed, wanted.port)
    return wanted


async def resolve(name: str, hosts: Mapping[str, str]) -> frozenset[Endpoint]:
    """Every address of `name`; the port is 0 unless `hosts` has one.

    Raises:
      PeerUnreachable: there is none.
    """
    where = locate(name, hosts, 0)
    try:
        found = await trio.socket.getaddrinfo(where.host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise PeerUnreachable(f"{name}: {exc.strerror or exc}") from exc
    return frozenset(Endpoint(str(address[0]), where.port) for *_, address in found)
