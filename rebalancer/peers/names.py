"""This module finds the address of a named host: by the configured `hosts`, then by look-up."""

import ipaddress
import re
import socket
from collections.abc import Mapping
from functools import partial

import attrs

from rebalancer.errors import PeerUnreachable
from rebalancer.threads import Work, run_sync

#: A name in the name service has so many characters at most.
MAX_NAME = 253
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)


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
    # At most so many digits: Python reads no more than 4300 of them, and they may be of any script.
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"{text}: expected a port number after the colon")
    return Endpoint(host.strip("[]"), int(port))


def locate(name: str, hosts: Mapping[str, str], default_port: int) -> Endpoint:
    """Return where to connect for `name`.

    An entry of `hosts` may be an address or address:port; without a port, `default_port`
    holds.  A name that is not listed is left to the resolver.
    """
    wanted = split_port(name, default_port)
    if listed := hosts.get(name) or hosts.get(wanted.host):
        return split_port(listed, wanted.port)
    return wanted


def is_address(text: str) -> bool:
    """Tell whether `text` may be the name or address of a host, with or without a port."""
    try:
        host = split_port(text, 1).host
    except ValueError:
        return False
    return is_host(host)


def is_host(host: str) -> bool:
    """Tell whether a resolver can be asked for `host`: an address, or what may be a name."""
    if ":" in host:
        return is_numeric(host)
    return len(host) <= MAX_NAME and all(map(_LABEL.fullmatch, host.split(".")))


def is_numeric(host: str) -> bool:
    """Tell whether `host` is an address, for which nobody need be asked."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(name: str, hosts: Mapping[str, str]) -> frozenset[Endpoint]:
    """Return every address of `name`; the port is 0 unless `hosts` has one.

    Raises:
      PeerUnreachable: there is none.
    """
    try:
        where = locate(name, hosts, 0)
        if is_numeric(where.host):
            return frozenset({where})
        ask = partial(socket.getaddrinfo, where.host, None, type=socket.SOCK_STREAM)
        found = await run_sync(Work.NAMES, ask, abandon_on_cancel=True)
    except OSError as exc:
        raise PeerUnreachable(f"{name}: {exc.strerror or exc}") from exc
    except ValueError as exc:  # no resolver can be asked for such a name
        raise PeerUnreachable(f"{name}: cannot be looked up: {exc}") from exc
    return frozenset(Endpoint(str(address[0]), where.port) for *_, address in found)
