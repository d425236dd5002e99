"""This module asks the peers that a configuration names, all at once and within bounds."""

import email.utils
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import trio

from rebalancer.config import ManagerConfig
from rebalancer.doctor.judge.region import Answer
from rebalancer.doctor.subject import Subject
from rebalancer.errors import PeerError, PeerMalformed, PeerRefused, PeerUnreachable
from rebalancer.peers.http import HttpClient, open_http
from rebalancer.peers.moray.client import open_moray
from rebalancer.peers.names import locate

if TYPE_CHECKING:
    from rebalancer.peers.buckets.mdapi import MdapiClient
    from rebalancer.peers.postgres import PostgresShard

#: Seconds that a peer has for its answer; a connection to a clone takes a part of them.
ANSWER_S, CONNECT_S = 8.0, 3

#: This machine's clock.
_now = time.time

#: Asks a peer; returns its time in seconds of the epoch, if it tells.
Ask = Callable[[], Awaitable[float | None]]


async def _ask_all(asks: Mapping[str, Ask]) -> list[Answer]:
    answers: dict[str, Answer] = {}

    async def ask_one(name: str, ask: Ask) -> None:
        started = trio.current_time()
        try:
            with trio.fail_after(ANSWER_S):
                told = await ask()
        except trio.TooSlowError:
            answers[name] = Answer(name, None, f"no answer in {ANSWER_S:g} s")
        except (PeerError, OSError, ValueError) as exc:
            answers[name] = Answer(name, None, str(exc).removeprefix(f"{name}: "))
        else:
            ahead = None if told is None else told - _now()
            answers[name] = Answer(name, trio.current_time() - started, "", ahead)

    async with trio.open_nursery() as nursery:
        for name, ask in asks.items():
            nursery.start_soon(ask_one, name, ask)
    return [answers[name] for name in asks]


def shards(subject: Subject) -> list[Answer]:
    """Ask each shard's Moray whether it and its database answer, and for its time."""
    return trio.run(_shards, subject.manager)


async def _shards(config: ManagerConfig) -> list[Answer]:
    names = {shard.number: shard.host for shard in config.shards}
    async with open_moray(names, config.hosts, connections=1) as moray:
        return await _ask_all({client.name: client.ask_time for client in moray.values()})


def clones(subject: Subject) -> list[Answer]:
    """Ask each shard's clone for its time; nobody if objects are not found there."""
    return trio.run(_clones, subject.manager)


async def _clones(config: ManagerConfig) -> list[Answer]:
    if config.discovery != "direct_db":
        return []
    # Not before: there may be no libpq, which another finding says.
    from rebalancer.peers.postgres import open_postgres

    async with open_postgres(config.clones, config.hosts, CONNECT_S) as clients:
        return await _ask_all(
            {client.name: partial(_ask_clone, client, config) for client in clients.values()}
        )


async def _ask_clone(client: "PostgresShard", config: ManagerConfig) -> float | None:
    from rebalancer.peers.postgres import DEFAULT_PORT

    where = locate(client.name, config.hosts, DEFAULT_PORT)
    # libpq, which nobody interrupts, waits longer for a machine that is not there.
    try:
        with trio.fail_after(CONNECT_S):
            await (await trio.open_tcp_stream(where.host, where.port)).aclose()
    except trio.TooSlowError:
        raise PeerUnreachable(f"no connection in {CONNECT_S} s") from None
    statement = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
    (row,) = await client.sql(statement, within_s=CONNECT_S)
    return float(row["now"])


def buckets(subject: Subject) -> list[Answer]:
    """Ask the databases and servers of the buckets tier, as jobs ask them; nobody without any."""
    return trio.run(_buckets, subject.manager)


async def _buckets(config: ManagerConfig) -> list[Answer]:
    if not config.looks_at_buckets:
        return []
    from rebalancer.peers.buckets.database import DATABASE
    from rebalancer.peers.buckets.mdapi import open_mdapi
    from rebalancer.peers.postgres import DEFAULT_PORT, PostgresPrimary, PostgresShard

    # A database that jobs only read may be a standby.
    primary = PostgresPrimary if config.buckets_update == "sql" else PostgresShard
    named = [(primary, name) for name in config.bucket_primaries.values()]
    named += [(PostgresShard, name) for name in config.bucket_clones.values()]
    clients = [
        kind(name, locate(name, config.hosts, DEFAULT_PORT), DATABASE, CONNECT_S)
        for kind, name in named
    ]
    try:
        async with open_mdapi(config.bucket_servers, config.hosts) as servers:
            asks: dict[str, Ask] = {
                client.name: partial(_ask_clone, client, config) for client in clients
            }
            asks |= {server.name: partial(_ask_server, server) for server in servers.values()}
            return await _ask_all(asks)
    finally:
        for client in clients:
            client.close()


async def _ask_server(server: "MdapiClient") -> None:
    await server.check()


def storinfo(subject: Subject) -> list[Answer]:
    """Ask storinfo for a node of its list, and for its time."""
    return trio.run(_storinfo, subject.manager)


async def _storinfo(config: ManagerConfig) -> list[Answer]:
    async with open_http(config.hosts, read_s=ANSWER_S) as http:
        return await _ask_all({config.storinfo: partial(_ask_storinfo, http, config.storinfo)})


async def _ask_storinfo(http: HttpClient, host: str) -> float | None:
    reply = await http.request("GET", host, "/storagenodes?limit=1", within_s=ANSWER_S)
    if reply.status != 200:
        raise PeerRefused(f"{reply.status} {reply.text[:200]}")
    if not isinstance(reply.json(), list):
        raise PeerMalformed("its answer is no list of storage nodes")
    try:
        return email.utils.parsedate_to_datetime(reply.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
