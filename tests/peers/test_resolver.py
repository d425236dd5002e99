"""Finding shards: against a real name server on loopback, and the pure choices."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import dns.rcode
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.errors import PeerUnreachable
from rebalancer.peers.names import Endpoint
from rebalancer.peers.resolver import MAX_TTL_S, MIN_TTL_S, Cache, Resolver, Target, best, crowded
from tests.peers.nameserver import NameServer, serving

SHARD = "1.moray.lab"
SRV = f"_moray._tcp.{SHARD}"
ZONES = {
    (SRV, "SRV"): [
        "0 10 2021 a.1.moray.lab.",
        "0 10 2022 a.1.moray.lab.",
        "5 1 2021 b.1.moray.lab.",
    ],
    ("a.1.moray.lab", "A"): ["10.0.0.1"],
    ("b.1.moray.lab", "A"): ["10.0.0.2"],
    (SHARD, "A"): ["10.0.0.1", "10.0.0.2"],
}  # fmt: skip


@attrs.frozen
class Rig:
    server: NameServer
    resolver: Resolver


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with serving() as (server, where):
        server.records = dict(ZONES)
        yield Rig(server, Resolver({}, where, question_s=0.5))


def endpoints(targets: list[Target]) -> list[str]:
    return [str(target.endpoint) for target in targets]


@pytest.mark.row("N4")
async def test_a_shard_is_where_its_srv_records_say(rig: Rig) -> None:
    """Target, port, priority and weight; a zone's address is asked for once for its processes."""
    assert await rig.resolver.targets(SHARD) == [
        Target(Endpoint("10.0.0.1", 2021), 0, 10),
        Target(Endpoint("10.0.0.1", 2022), 0, 10),
        Target(Endpoint("10.0.0.2", 2021), 5, 1),
    ]
    assert rig.server.asked == [(SRV, "SRV"), ("a.1.moray.lab", "A"), ("b.1.moray.lab", "A")]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("127.0.0.1:7", ["127.0.0.1:7"]),
        ("127.0.0.1", ["127.0.0.1:2020", "127.0.0.1:2021"]),
        ("[::1]:7", ["[::1]:7"]),
        ("localhost:7", ["localhost:7"]),
    ],
)
async def test_a_listed_shard_is_never_asked_for(
    listed: str, expected: list[str], rig: Rig
) -> None:
    """`hosts` comes before every name service, with the port it gives or the two usual ones."""
    resolver = Resolver({SHARD: listed}, rig.resolver.nameserver)

    assert endpoints(await resolver.targets(SHARD)) == expected
    assert rig.server.asked == []


async def test_an_address_is_never_asked_for(rig: Rig) -> None:
    """Not even for services."""
    assert endpoints(await rig.resolver.targets("10.9.9.9:5")) == ["10.9.9.9:5"]
    assert endpoints(await rig.resolver.targets("10.9.9.9")) == ["10.9.9.9:2020", "10.9.9.9:2021"]
    assert rig.server.asked == []


async def test_a_listed_zone_is_not_asked_for(rig: Rig) -> None:
    """A zone that the SRV records name may be listed too."""
    resolver = Resolver({"a.1.moray.lab": "127.0.0.9"}, rig.resolver.nameserver)

    assert endpoints(await resolver.targets(SHARD))[0] == "127.0.0.9:2021"
    assert ("a.1.moray.lab", "A") not in rig.server.asked


async def test_a_port_in_the_name_is_the_port(rig: Rig) -> None:
    """Whoever writes one knows which process is meant: no services are asked for."""
    assert endpoints(await rig.resolver.targets(f"{SHARD}:77")) == ["10.0.0.1:77", "10.0.0.2:77"]
    assert rig.server.asked == [(SHARD, "A")]


@pytest.mark.row("N4")
@pytest.mark.parametrize("unknown", [dns.rcode.NXDOMAIN, dns.rcode.REFUSED])
async def test_without_services_the_usual_ports_are_tried(
    unknown: dns.rcode.Rcode, rig: Rig
) -> None:
    """2020 of every address first, then 2021; the deployed name server refuses what it lacks."""
    del rig.server.records[SRV, "SRV"]
    rig.server.unknown = unknown

    targets = await rig.resolver.targets(SHARD)
    assert [(str(t.endpoint), t.priority) for t in targets] == [
        ("10.0.0.1:2020", 0),
        ("10.0.0.2:2020", 0),
        ("10.0.0.1:2021", 1),
        ("10.0.0.2:2021", 1),
    ]


async def test_a_name_without_services_of_that_kind(rig: Rig) -> None:
    """An answer without data is as good as none."""
    rig.server.records[SRV, "TXT"] = ["x"]
    del rig.server.records[SRV, "SRV"]

    assert endpoints(await rig.resolver.targets(SHARD))[0] == "10.0.0.1:2020"


async def test_an_answer_too_long_for_udp_comes_over_tcp(rig: Rig) -> None:
    """Four processes in each of twenty zones do not fit into 512 bytes."""
    rig.server.truncates = True
    rig.server.records[SRV, "SRV"] = [
        f"0 1 {port} zone-{zone}.1.moray.lab." for zone in range(20) for port in range(2021, 2025)
    ]
    for zone in range(20):
        rig.server.records[f"zone-{zone}.1.moray.lab", "A"] = [f"10.0.1.{zone}"]

    assert len(await rig.resolver.targets(SHARD)) == 80
    assert rig.server.asked_over_tcp == 21


async def test_a_zone_without_an_address_is_left_out(rig: Rig) -> None:
    """The others will do; when there are none, the failure says which name it was."""
    del rig.server.records["a.1.moray.lab", "A"]
    assert endpoints(await rig.resolver.targets(SHARD)) == ["10.0.0.2:2021"]
    del rig.server.records["b.1.moray.lab", "A"]
    fresh = Resolver({}, rig.resolver.nameserver)
    with pytest.raises(PeerUnreachable, match=r"b\.1\.moray\.lab.* \(A\)"):
        await fresh.targets(SHARD)


async def test_a_look_up_that_fails_may_be_tried_again(rig: Rig) -> None:
    """It names the question; and the next try asks anew."""
    rig.server.rcode = dns.rcode.SERVFAIL
    with pytest.raises(PeerUnreachable, match=r"_moray\._tcp\.1\.moray\.lab.*\(SRV\)") as caught:
        await rig.resolver.targets(SHARD)
    assert caught.value.is_transient
    rig.server.rcode = None
    assert len(await rig.resolver.targets(SHARD)) == 3


async def test_a_silent_name_server_is_not_waited_for_long(rig: Rig) -> None:
    """Each question has its deadline."""
    rig.server.is_silent = True
    with trio.fail_after(5), pytest.raises(PeerUnreachable, match="SRV"):
        await rig.resolver.targets(SHARD)


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(60, 60), (0, MIN_TTL_S), (86_400, MAX_TTL_S)])
async def test_answers_are_kept_as_long_as_they_say(
    ttl_s: int, kept_s: float, mock_clock: trio.testing.MockClock, rig: Rig
) -> None:
    """Within bounds; then the change is seen."""
    rig.server.ttl_s = ttl_s
    before = await rig.resolver.targets(SHARD)
    asked = len(rig.server.asked)
    rig.server.records["a.1.moray.lab", "A"] = ["10.0.0.77"]

    mock_clock.jump(kept_s - 0.01)
    assert await rig.resolver.targets(SHARD) == before
    assert len(rig.server.asked) == asked
    mock_clock.jump(0.02)
    assert endpoints(await rig.resolver.targets(SHARD))[0] == "10.0.0.77:2021"


async def test_an_old_answer_is_better_than_none(
    mock_clock: trio.testing.MockClock, rig: Rig
) -> None:
    """A name service that fails stops nobody who has an answer; it is asked again soon."""
    before = await rig.resolver.targets(SHARD)
    mock_clock.jump(MAX_TTL_S)
    rig.server.rcode = dns.rcode.SERVFAIL
    assert await rig.resolver.targets(SHARD) == before
    rig.server.rcode = None
    rig.server.records["a.1.moray.lab", "A"] = ["10.0.0.77"]
    mock_clock.jump(MIN_TTL_S)
    assert endpoints(await rig.resolver.targets(SHARD))[0] == "10.0.0.77:2021"


async def test_a_changed_list_of_name_servers_is_seen(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    """The file is rewritten or replaced while the program runs, and may be away for a moment."""
    file = tmp_path / "resolv.conf"
    async with serving() as (one, at_one), serving() as (two, at_two):
        one.records, two.records = {("a.lab", "A"): ["10.0.0.1"]}, {("a.lab", "A"): ["10.0.0.2"]}
        resolver = Resolver({}, file=str(file), question_s=2.0)
        monkey = {"10.9.0.1": at_one, "10.9.0.2": at_two}

        async def asked() -> str:
            server = await resolver._server()
            (name,) = server.nameservers
            where = monkey[str(name)]
            server.nameservers, server.port = [where.host], where.port
            found = endpoints(await resolver.targets("a.lab:1"))
            server.nameservers = [name]
            mock_clock.jump(MAX_TTL_S)
            return found[0]

        file.write_text("nameserver 10.9.0.1\n")
        assert await asked() == "10.0.0.1:1"
        file.write_text("# now another\nnameserver 10.9.0.2\n")
        assert await asked() == "10.0.0.2:1"
        file.unlink()
        assert endpoints(await resolver.targets("a.lab:1")) == ["10.0.0.2:1"]  # the old answer
        (tmp_path / "new").write_text("nameserver 10.9.0.1\n")
        (tmp_path / "new").rename(file)
        mock_clock.jump(MIN_TTL_S)
        assert await asked() == "10.0.0.1:1"


# --- pure ------------------------------------------------------------------------------------

WEIGHTS = st.lists(st.integers(1, 100), min_size=1, max_size=6)


@given(WEIGHTS, st.integers(0, 200), st.integers())
def test_connections_are_spread_by_weight(weights: list[int], count: int, seed: int) -> None:
    """No target ever has fewer than its share, rounded down."""
    rng = random.Random(seed)
    targets = [Target(Endpoint(f"h{i}", 1), 0, weight) for i, weight in enumerate(weights)]
    used: Counter[Endpoint] = Counter()
    for _ in range(count):
        used[best(targets, used, (), rng).endpoint] += 1

    assert used.total() == count
    for target in targets:
        assert used[target.endpoint] >= count * target.weight // sum(weights)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), min_size=1))
def test_the_best_priority_that_is_not_shunned(rows: list[tuple[int, int, bool]]) -> None:
    """A worse priority or a shunned target is taken only for want of another."""
    targets = [Target(Endpoint(f"h{i}", 1), p, w) for i, (p, w, _) in enumerate(rows)]
    shunned = {t.endpoint for t, (_, _, bad) in zip(targets, rows, strict=True) if bad}
    chosen = best(targets, {}, shunned, random.Random(1))

    good = [target for target in targets if target.endpoint not in shunned] or targets
    assert chosen in good
    assert chosen.priority == min(target.priority for target in good)


def test_equal_targets_are_chosen_by_chance() -> None:
    """Many clients that start together do not all begin with the first."""
    targets = [Target(Endpoint(name, 1)) for name in "ab"]
    chosen = {best(targets, {}, (), random.Random(seed)).endpoint for seed in range(20)}
    assert len(chosen) == 2


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_an_answer_holds_for_its_time_within_bounds(now: float, ttl_s: float, later: float) -> None:
    """Never shorter than the floor, never longer than the ceiling, and always the last one."""
    cache = Cache[str]()
    question = ("name", "A")
    assert cache.fresh(question, now) is None
    cache.keep(question, "old", 1, now)
    cache.keep(question, "answer", ttl_s, now)
    kept = cache.fresh(question, now + later)
    if later < min(max(ttl_s, MIN_TTL_S), MAX_TTL_S) - 1:
        assert kept == "answer"
    if later > min(max(ttl_s, MIN_TTL_S), MAX_TTL_S) + 1:
        assert kept is None
    assert cache.last(question) == "answer"


@given(WEIGHTS, st.lists(st.integers(0, 20), min_size=6, max_size=6), st.integers())
def test_moving_one_at_a_time_comes_to_the_best_spread(
    weights: list[int], counts: list[int], seed: int
) -> None:
    """As if all had been opened anew, whatever the spread was; and there it stays."""
    targets = [Target(Endpoint(f"h{i}", 1), 0, weight) for i, weight in enumerate(weights)]
    used = Counter(dict(zip([Endpoint(f"h{i}", 1) for i in range(6)], counts, strict=True)))
    for _ in range(sum(counts) + 1):
        found = crowded(targets, used, ())
        if found is None:
            break
        used[found[0].endpoint] += 1
        used[found[1]] -= 1
    assert crowded(targets, used, ()) is None
    assert used.total() == sum(counts)
    fresh: Counter[Endpoint] = Counter()
    for _ in range(sum(counts)):
        fresh[best(targets, fresh, (), random.Random(seed)).endpoint] += 1

    def loads(spread: Counter[Endpoint]) -> float:
        return max(spread[target.endpoint] / target.weight for target in targets)

    assert loads(used) == pytest.approx(loads(fresh))


def test_connections_are_not_moved_to_servers_that_are_shunned_or_second_choice() -> None:
    """They are moved away from those, and from servers that are not listed any more."""
    one, two, spare = (
        Target(Endpoint(name, 1), rank) for name, rank in [("a", 0), ("b", 0), ("c", 1)]
    )
    targets = [one, two, spare]
    assert crowded(targets, {one.endpoint: 4}, ()) == (two, one.endpoint)
    assert crowded(targets, {one.endpoint: 4}, {two.endpoint}) is None
    assert crowded(targets, {one.endpoint: 2, two.endpoint: 2, spare.endpoint: 1}, ()) is not None
    assert crowded([spare], {spare.endpoint: 3}, ()) is None
    assert crowded([one], {Endpoint("gone", 1): 1, one.endpoint: 1}, ()) == (
        one,
        Endpoint("gone", 1),
    )
    assert crowded([], {one.endpoint: 1}, ()) is None
