"""This module reads names of hosts, and finds those that the configured `hosts` list.  Pure."""

import ipaddress
import re
from collections.abc import Mapping

import attrs

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
