"""This module finds a shard's Moray: the `hosts` table, else its SRV records and their addresses.

A name that `hosts` lists is never asked for.  Answers are kept as long as they say, within
bounds, and longer while no name server answers: a name service that is away stops no job.
"""

import os
import random
from collections.abc import Collection, Iterable, Mapping
from typing import Generic, TypeVar

import attrs
import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
import trio

from rebalancer.errors import PeerUnreachable
from rebalancer.log import get_logger
from rebalancer.peers.names import Endpoint, is_numeric, locate, split_port
from rebalancer.threads import Work, run_sync

#: The service of a shard's servers in the directory tier, and their ports without SRV records:
#: the balancer in front of a zone's processes, then the first of these.
SERVICE, PORTS = "_moray._tcp", (2020, 2021)
#: An answer is kept for at least and at most so many seconds, whatever it says.
MIN_TTL_S, MAX_TTL_S = 5.0, 300.0
#: Seconds for one question, all its repetitions and name servers together.
QUESTION_S = 5.0

log = get_logger()
T = TypeVar("T")


@attrs.frozen
class Target:
    """A server that may be connected to; a smaller `priority` comes first."""

    endpoint: Endpoint
    priority: int = 0
    weight: int = 1


def best(
    targets: Iterable[Target],
    used: Mapping[Endpoint, int],
    shunned: Collection[Endpoint],
    rng: random.Random,
) -> Target:
    """Choose the target of the next connection.

    Of the best priority, the one with the fewest connections for its weight; one that is
    shunned only if all are.  `rng` decides between equals, or all clients would choose alike.
    """

    return min(
        targets,
        key=lambda target: (
            *_rank(target, used.get(target.endpoint, 0) + 1, shunned),
            rng.random(),
        ),
    )


def crowded(
    targets: Collection[Target], used: Mapping[Endpoint, int], shunned: Collection[Endpoint]
) -> tuple[Target, Endpoint] | None:
    """Find a target where a connection would be better, and the server that it should leave.

    None if the connections are spread as well as can be.
    """
    listed = {target.endpoint: target for target in targets}
    strayed = [where for where, count in used.items() if count and where not in listed]
    there = [where for where, count in used.items() if count and where in listed]
    if not targets or not (strayed or there):
        return None

    def after_one_more(target: Target) -> tuple[bool, int, float]:
        return _rank(target, used.get(target.endpoint, 0) + 1, shunned)

    def as_it_is(where: Endpoint) -> tuple[bool, int, float]:
        return _rank(listed[where], used[where], shunned)

    better = min(targets, key=after_one_more)
    if better.endpoint in shunned:
        return None
    if strayed:
        return better, strayed[0]
    worst = max(there, key=as_it_is)
    return (better, worst) if after_one_more(better) < as_it_is(worst) else None


def _rank(
    target: Target, connections: int, shunned: Collection[Endpoint]
) -> tuple[bool, int, float]:
    """Rate a target that has so many connections; the least is the best."""
    # A weight of 0 means hardly ever, if others have more.
    load = connections / max(target.weight, 0.01)
    return target.endpoint in shunned, target.priority, load


class Cache(Generic[T]):
    """Answers by question.  Pure: the time in seconds is passed in.

    Mutable state: each answer with the time until which it holds.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[T, float]] = {}

    def fresh(self, question: tuple[str, str], now: float) -> T | None:
        """Return the answer, if it still holds."""
        answer, until = self._kept.get(question, (None, now))
        return answer if now < until else None

    def last(self, question: tuple[str, str]) -> T | None:
        """Return the last answer, however old."""
        return self._kept.get(question, (None, 0.0))[0]

    def keep(self, question: tuple[str, str], answer: T, ttl_s: float, now: float) -> None:
        """Let `answer` hold for `ttl_s`, cut to the bounds."""
        self._kept[question] = answer, now + min(max(ttl_s, MIN_TTL_S), MAX_TTL_S)


#: The records of one answer as text, empty if there are none of this kind.
_Records = tuple[str, ...]


@attrs.define(eq=False)
class Resolver:
    """Look-ups of shards.  Mutable state: the answers so far, and whom it asks."""

    hosts: Mapping[str, str]
    #: None: the name servers of `file`.
    nameserver: Endpoint | None = None
    file: str = "/etc/resolv.conf"
    question_s: float = QUESTION_S
    service: str = SERVICE
    ports: tuple[int, ...] = PORTS
    _cache: Cache[_Records] = attrs.field(factory=Cache)
    _dns: dns.asyncresolver.Resolver | None = None
    _version: tuple[int, int, int] | None = None

    async def targets(self, name: str) -> list[Target]:
        """Look up the servers of shard `name`; a port in the name or in `hosts` is the only one.

        Raises:
          PeerUnreachable: a look-up failed: says which.
        """
        try:
            where = locate(name, self.hosts, 0)
        except ValueError as exc:
            raise PeerUnreachable(f"{name}: cannot be looked up: {exc}") from exc
        is_listed = where != split_port(name, 0)
        if where.port:
            services = [Target(where)]
        elif is_listed or not (services := await self._services(where.host)):
            services = [
                Target(Endpoint(where.host, port), rank) for rank, port in enumerate(self.ports)
            ]
        if is_listed:
            return services
        found, failure = list[Target](), None
        for service in services:
            try:
                addresses = await self._addresses(service.endpoint.host)
            except PeerUnreachable as exc:
                failure = exc
                continue
            found += [
                attrs.evolve(service, endpoint=Endpoint(address, service.endpoint.port))
                for address in addresses
            ]
        if failure is not None and not found:
            raise failure
        return found

    async def _services(self, host: str) -> list[Target]:
        if is_numeric(host):
            return []
        services = []
        for record in await self._ask(f"{self.service}.{host}", "SRV"):
            priority, weight, port, target = record.split()
            endpoint = Endpoint(target.rstrip("."), int(port))
            services.append(Target(endpoint, int(priority), int(weight)))
        return services

    async def _addresses(self, host: str) -> _Records:
        if is_numeric(host):
            return (host,)
        if (listed := self.hosts.get(host)) is not None:
            return (split_port(listed, 0).host,)
        found = await self._ask(host, "A")
        if not found:
            raise PeerUnreachable(f"{host}: the name service has no address (A) of that name")
        return found

    async def _ask(self, name: str, kind: str) -> _Records:
        question = name, kind
        if (fresh := self._cache.fresh(question, trio.current_time())) is not None:
            return fresh
        ttl_s = MIN_TTL_S  # what is not there, or not answered, may come at any moment
        try:
            server = await self._server()
            answer = await server.resolve(
                name,
                kind,
                lifetime=self.question_s,
                search=False,
                backend=dns.asyncbackend.get_backend("trio"),
            )
            records = tuple(sorted(record.to_text() for record in answer))
            ttl_s = 0.0 if answer.rrset is None else float(answer.rrset.ttl)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            records = ()
        # UnicodeError: nobody can be asked for a name like that.
        except (dns.exception.DNSException, OSError, UnicodeError) as exc:
            if _is_refusal(exc):
                records = ()
            elif (last := self._cache.last(question)) is not None:
                log.warning(
                    "name servers do not answer: an old answer is used",
                    name=name,
                    kind=kind,
                    error=str(exc),
                )
                records = last
            else:
                raise PeerUnreachable(f"{name}: no answer to the look-up ({kind}): {exc}") from exc
        self._cache.keep(question, records, ttl_s, trio.current_time())
        return records

    async def _server(self) -> dns.asyncresolver.Resolver:
        """Return the name servers to ask, read again when the system's file of them has changed.

        Raises:
          OSError, dns.exception.DNSException: the file cannot be read or names none.
        """
        if self.nameserver is not None:
            if self._dns is None:
                self._dns = dns.asyncresolver.Resolver(configure=False)
                self._dns.nameservers = [self.nameserver.host]
                self._dns.port = self.nameserver.port
            return self._dns
        version = await run_sync(Work.NAMES, _version, self.file)
        if self._dns is None or version != self._version:
            made = await run_sync(Work.NAMES, dns.asyncresolver.Resolver, self.file)
            if self._dns is not None:
                log.info("name servers changed", file=self.file, servers=str(made.nameservers))
            self._dns, self._version = made, version
        return self._dns


def _version(file: str) -> tuple[int, int, int]:
    """Return what differs once a file was written or replaced."""
    found = os.stat(file)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _is_refusal(exc: Exception) -> bool:
    """Tell whether all name servers refused: Triton's does so for a name that it does not know."""
    if not isinstance(exc, dns.resolver.NoNameservers):
        return False
    errors = exc.kwargs.get("errors", ())
    return bool(errors) and all(str(error[3]) == "REFUSED" for error in errors)
