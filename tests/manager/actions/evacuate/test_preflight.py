"""The pre-flight: each check finds what it is there for, and nothing on a sound region."""

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.config import ManagerConfig, Shard
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.placement import Rules
from rebalancer.errors import PeerRefused, PeerUnreachable
from rebalancer.manager.actions.evacuate.preflight import (
    DEADLINE_S,
    Heartbeat,
    judge_clone,
    judge_heartbeats,
    judge_listing,
    judge_room,
    preflight,
)
from rebalancer.manager.store.records import Finding
from rebalancer.peers.addresses import resolve
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import open_http
from rebalancer.peers.names import Endpoint
from rebalancer.peers.postgres import open_postgres
from rebalancer_devregion import postgres
from rebalancer_devregion.buckets.methods import Behaviour
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.devregion.buckets.servers import an_mdapi, client_of
from tests.manager.http.test_api import open_rig, rows
from tests.manager.world import NODES

SHARK = "1.stor.lab"
NOW_MS = 1_700_000_000_000


def checks(findings: Sequence[Finding]) -> list[str]:
    return [finding.check for finding in findings]


# --- judging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ages_s", "found"),
    [
        ([3600], []),
        ([60], []),
        ([59], ["heartbeat"]),
        ([-5], ["heartbeat"]),  # its clock is ahead
        ([], ["storage_record"]),
        ([3600, 7200], ["storage_record"]),
        ([5, 7200], ["storage_record", "heartbeat"]),
    ],
)
def test_heartbeats(ages_s: list[int], found: list[str]) -> None:
    """One record, which is old; a zone that was replaced leaves another."""
    beats = [Heartbeat(NOW_MS - 1000 * age, NOW_MS) for age in ages_s]
    assert checks(judge_heartbeats(SHARK, beats, NOW_MS)) == found


def test_a_listed_node_takes_writes() -> None:
    """storinfo leaves out what is read-only."""
    assert judge_listing(SHARK, NODES) == []
    assert checks(judge_listing(SHARK, [*NODES, StorageNode(SHARK, "dc1", 1, 1)])) == ["storinfo"]


@pytest.mark.parametrize(
    ("full", "rules", "detail"),
    [
        ([], Rules(), None),
        (["dc1"], Rules(), "only dc2 has storage nodes with room"),
        ([], Rules(blacklist_datacenters=frozenset({"dc2"})), "only dc1 has"),
        ([], Rules(max_fill_percentage=10), "full: max_fill_percentage is 10 ("),
        ([], Rules(min_avail_mb=1_000_000), "less than min_avail_mb (1,000,000) is free ("),
        ([], Rules(blacklist_datacenters=frozenset({"dc1", "dc2"})), "in blacklist_datacenters ("),
    ],
)
def test_room(full: list[str], rules: Rules, detail: str | None) -> None:
    """In two datacenters, by the operator's limits."""
    nodes = [
        attrs.evolve(node, percent_used=100) if node.datacenter in full else node for node in NODES
    ]
    found = judge_room(rules, SHARK, nodes)
    assert (found == []) if detail is None else (detail in found[0].detail and len(found) == 1)


def test_an_only_node_has_nowhere_to_go() -> None:
    (found,) = judge_room(Rules(), SHARK, [StorageNode(SHARK, "dc1", 1, 1)])
    assert found.detail == "no storage node can take objects: storinfo lists no other"


def test_one_datacenter_is_enough_where_there_is_no_other() -> None:
    """A region of one."""
    assert judge_room(Rules(), SHARK, [n for n in NODES if n.datacenter == "dc1"]) == []


@pytest.mark.parametrize(
    ("newest_ms", "is_standby", "followers", "words"),
    [
        (NOW_MS, False, 0, []),
        (NOW_MS - 1, False, 0, ["older than"]),
        (NOW_MS, True, 0, ["is a standby"]),
        (NOW_MS, False, 2, ["has 2 standbys"]),
        (0, False, 1, ["has 1", "older than"]),
    ],
)
def test_clones(newest_ms: int, is_standby: bool, followers: int, words: list[str]) -> None:
    """Newer than the last heartbeat, and alone."""
    found = judge_clone(
        "c", newest_ms=newest_ms, last_beat_ms=NOW_MS, is_standby=is_standby, followers=followers
    )
    assert len(found) == len(words)
    assert all(word in finding.detail for word, finding in zip(words, found, strict=True))


# --- asking ----------------------------------------------------------------------------------


class FakeShard:
    """Answers the questions of the pre-flight.  Mutable state: how long it takes for each."""

    name = "1.rebalancer-postgres.lab"

    def __init__(
        self,
        takes_s: float = 0.0,
        failure: Exception | None = None,
        record: str = '{"timestamp": 1356998400000}',
    ) -> None:
        self.takes_s = takes_s
        self.record = record
        self.failure = failure

    async def sql(
        self, statement: str, _values: Sequence[Any] = (), *, within_s: float = 0.0
    ) -> list[dict[str, Any]]:
        await trio.sleep(self.takes_s)
        if self.failure is not None:
            raise self.failure
        if "manta_storage" in statement:
            return [{"_mtime": "5", "_value": self.record}]
        if "max(" in statement:
            return [{"newest": 5}]
        return [{"is_standby": False, "followers": 0}]


class FakeAgents:
    """Mutable state: whom it has pinged, and how many at a time."""

    def __init__(self, silent: Sequence[str] = (), able: Sequence[str] = ()) -> None:
        self.silent = silent
        self.able = able
        self.pinged: list[str] = []
        self.now = self.most = 0

    async def ping(self, shark: str) -> frozenset[str]:
        self.pinged.append(shark)
        self.now += 1
        self.most = max(self.most, self.now)
        await trio.sleep(1)
        self.now -= 1
        if shark in self.silent:
            raise PeerUnreachable(f"{shark} is away")
        return frozenset({"v2"} if shark in self.able else ())


def config_of(clone: str = "127.0.0.2:5432", **changes: Any) -> ManagerConfig:
    hosts = {"1.moray.lab": "127.0.0.1:2020", FakeShard.name: clone}
    return ManagerConfig("lab", (Shard("1.moray.lab"),), hosts=hosts, **changes)


async def ask(
    *,
    config: ManagerConfig | None = None,
    nodes: Sequence[StorageNode] = NODES,
    agents: FakeAgents | None = None,
    shard: FakeShard | None = None,
    clone: FakeShard | None = None,
    buckets: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
) -> list[Finding]:
    return await preflight(
        config or config_of(),
        SHARK,
        nodes,
        agents or FakeAgents(),
        {1: shard or FakeShard()},
        {1: clone or FakeShard()},
        buckets,
    )


async def test_a_sound_region(autojump_clock: object) -> None:
    """Nothing to warn of."""
    assert await ask() == []


async def test_whatever_does_not_answer_is_a_finding(autojump_clock: object) -> None:
    """In the order of the checks, each by its name, and the pre-flight raises nothing."""
    found = await ask(
        config=config_of(final_scans=0),
        agents=FakeAgents(silent=["3.stor.lab"]),
        shard=FakeShard(failure=PeerUnreachable("moray is away")),
        clone=FakeShard(failure=PeerUnreachable("clone is away")),
    )
    assert checks(found) == ["heartbeat", "clone", "agent", "final_scans"]
    assert [finding.detail for finding in found][:3] == [
        "moray is away",
        "clone is away",
        "3.stor.lab is away",
    ]


@pytest.mark.parametrize(
    "value",
    [
        *("{}", '{"timestamp": null}', "[]", "nonsense", "[" * 100_000),
        *(f'{{"timestamp": {time}}}' for time in ("1e999", "-1", "NaN", "1" + "0" * 400)),
    ],
    ids=lambda value: value[:24],
)
async def test_a_record_that_says_nothing(value: str, autojump_clock: object) -> None:
    """It is a finding too."""
    assert checks(await ask(shard=FakeShard(record=value))) == ["heartbeat"]


async def test_it_does_not_wait_for_ever(autojump_clock: object) -> None:
    """Each question has a deadline."""
    begun = trio.current_time()
    found = await ask(shard=FakeShard(takes_s=1e6), clone=FakeShard(takes_s=1e6))
    assert checks(found) == ["heartbeat", "clone"]
    assert trio.current_time() - begun <= 2 * DEADLINE_S + 1


async def test_of_a_thousand_agents_a_few_are_asked(autojump_clock: object) -> None:
    """Those with most space: the likeliest destinations."""
    nodes = [StorageNode(f"{n}.stor.lab", f"dc{n % 2}", 100_000 + n, 10) for n in range(2, 1002)]
    agents = FakeAgents()
    config = config_of()
    options = attrs.evolve(config.options, max_sharks=20)
    assert await ask(nodes=nodes, agents=agents, config=attrs.evolve(config, options=options)) == []
    assert sorted(agents.pinged) == sorted(f"{n}.stor.lab" for n in range(962, 1002))
    assert 1 < agents.most <= 10


@pytest.mark.parametrize(
    ("update", "able", "found"),
    [
        ("sql", 4, "1 of 5 agents (6.stor.lab)"),
        ("sql", 0, "5 of 5 agents (2.stor.lab, 3.stor.lab, 4.stor.lab, ...)"),
        ("sql", 5, None),
        ("off", 4, "buckets_update is off"),
    ],
)
async def test_agents_that_take_no_bucket_objects_are_counted(
    update: str, able: int, found: str | None, autojump_clock: object
) -> None:
    """If the job is going to move some, in one line for all."""
    agents = FakeAgents(able=[node.manta_storage_id for node in NODES[:able]])
    config = config_of(
        buckets_shards=(Shard("1.buckets-mdapi.lab"),),
        buckets_primary="{shard}.buckets.lab",
        buckets_update=update,
    )
    details = [one.detail for one in await ask(config=config, agents=agents, buckets={"1": fine})]
    assert len(details) == (found is not None)
    assert found is None or found in details[0]
    assert await ask(config=config, agents=agents) == []


async def fine() -> None:
    await trio.lowlevel.checkpoint()


async def test_peers_of_the_buckets_tier_are_asked(autojump_clock: object) -> None:
    """Whatever stands in the way of one is a finding, and none of them is waited for long."""

    async def refuse() -> None:
        raise PeerRefused("a standby")

    asks = {"buckets shard 1": fine, "buckets shard 2": refuse, "its clone": trio.sleep_forever}
    begun = trio.current_time()
    found = await ask(config=config_of(has_bucket_objects=True), buckets=asks)
    assert [(one.check, one.detail) for one in found] == [
        ("buckets", "buckets shard 2: a standby"),
        ("buckets", f"its clone: no answer within {DEADLINE_S:.0f} s"),
        ("agent", found[2].detail),
        ("buckets", found[3].detail),
    ]
    assert "for want of buckets_primary" in found[3].detail
    assert trio.current_time() - begun <= DEADLINE_S + 1


@pytest.mark.parametrize(
    ("clone", "found"),
    [
        ("127.0.0.1", ["clone"]),
        ("127.0.0.1:2020", ["clone"]),
        ("127.0.0.1:5432", []),
        ("127.0.0.2", []),
    ],
)
async def test_a_clone_at_the_address_of_the_live_shard(
    clone: str, found: list[str], autojump_clock: object
) -> None:
    """Whatever its name; two ports of one address may be two servers."""
    assert checks(await ask(config=config_of(clone))) == found


async def test_names_are_resolved() -> None:
    """By the table, then by the system."""
    assert await resolve("a.lab", {"a.lab": "127.0.0.9:17"}) == {Endpoint("127.0.0.9", 17)}
    assert Endpoint("127.0.0.1", 0) in await resolve("localhost", {})
    with pytest.raises(PeerUnreachable, match="nowhere"):
        await resolve("nowhere.invalid", {})


# --- real peers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        yield made


@pytest.mark.parametrize(("age_ms", "words"), [(0, []), (5000, ["5 s older"])])
async def test_a_real_clone(cluster: Cluster, age_ms: int, words: list[str]) -> None:
    """PostgreSQL answers what is asked; the deployed agents' 404 is an answer too."""
    cluster.create()
    cluster.fill(("_key", "_value", "_etag", "_mtime"), [("k", "{}", "X", 5 - age_ms)])
    config = config_of(cluster.address)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        one = StorageNode("localhost", "dc1", 100_000, 10)
        async with (
            open_postgres({1: FakeShard.name}, config.hosts) as clones,
            open_http({}) as http,
            trio.open_nursery() as nursery,
        ):
            listener = trio.socket.from_stdlib_socket(server.dup())
            nursery.start_soon(answer_404, listener)
            found = await preflight(
                config, SHARK, [one], Agents(http, port), {1: FakeShard()}, clones, {}
            )
            nursery.cancel_scope.cancel()
    assert len(found) == len(words)
    assert all(word in finding.detail for word, finding in zip(words, found, strict=True))


@pytest.mark.parametrize(("is_old", "count"), [(False, 0), (True, 1)])
async def test_a_real_server_of_buckets(cluster: Cluster, is_old: bool, count: int) -> None:
    """An old one would answer success, and change no sharks."""
    cluster.create_buckets((7,))
    async with an_mdapi(cluster, Behaviour(is_old=is_old)) as mdapi, client_of(mdapi) as client:
        found = await ask(
            nodes=NODES[:2],
            agents=FakeAgents(able=[node.manta_storage_id for node in NODES]),
            buckets={"buckets shard 1": client.check},
        )

    assert checks(found) == ["buckets"] * count
    assert all("too old to move objects: use SQL" in finding.detail for finding in found)


async def answer_404(listener: trio.socket.SocketType) -> None:
    with listener:
        while True:
            connection, _ = await listener.accept()
            with connection:
                await connection.recv(4096)
                await connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def test_findings_are_recorded_and_shown(tmp_path: Path) -> None:
    """The job goes on, for they are warnings."""
    async with open_rig(tmp_path) as rig:
        job_id = await rig.create()
        view = await rig.reach(job_id, "Complete")

    shown = [(one["check"], one["detail"]) for one in view["warnings"]]
    assert {check for check, _ in shown} == {"agent"}
    assert len(shown) == len(NODES)
    found = rows(tmp_path / "db" / f"{job_id}.sqlite", 'SELECT "check", detail FROM warnings')
    assert found == shown


async def test_a_strict_job_is_refused(tmp_path: Path) -> None:
    """With the causes, and before it has looked for any object; its creation is as quick."""
    async with open_rig(tmp_path, objects=3, final_scans=0) as rig:
        job_id = await rig.create(strict=True)
        view = await rig.reach(job_id, "Failed")

    assert "final_scans is 0" in view["error"]
    assert view["error"].startswith("pre-flight: ")
    assert view["results"]["Total"] == 0
    assert view["scans"] == []
