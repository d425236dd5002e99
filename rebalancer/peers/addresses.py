"""This module finds the addresses of a named host: by the configured `hosts`, then by look-up."""

import socket
from collections.abc import Mapping
from functools import partial

from rebalancer.errors import PeerUnreachable
from rebalancer.peers.names import Endpoint, is_numeric, locate
from rebalancer.threads import Work, run_sync


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
