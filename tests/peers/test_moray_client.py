"""The client's connections: bounded, spread, given up when dead, and never rude to a server."""

import itertools
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from rebalancer.domain.completeness import Reached
from rebalancer.errors import PeerRefused, PeerUnreachable
from rebalancer.peers import scan
from rebalancer.peers.metadata import Kind
from rebalancer.peers.moray import fast, pool
from rebalancer.peers.moray.client import CALL_S, MorayClient, open_moray
from rebalancer.peers.moray.connection import Connection
from rebalancer.peers.moray.errors import read_error
from rebalancer.peers.moray.pool import SHUN_S, SPREAD_S, Pool
from rebalancer.peers.names import Endpoint
from rebalancer.peers.resolver import Resolver, Target
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore
from tests.peers.nameserver import serving

SHARD = "1.moray.lab"


@attrs.define(eq=False)
class Server:
    """Answers any request with END, as far as it may.

    Mutable state: the connections it has and ever had, the ids it was sent, and whether and on
    which keys it answers.
    """

    answers: Callable[[fast.Message], bool] = lambda _message: True
    ids: list[int] = attrs.field(factory=list)
    connections: int = 0
    accepted: int = 0
    peak: int = 0
    ends: list[str] = attrs.field(factory=list)
    asked: trio.Event = attrs.field(factory=trio.Event)

    async def talk(self, stream: trio.SocketStream) -> None:
        decoder = fast.Decoder()
        self.accepted += 1
        self.connections += 1
        self.peak = max(self.peak, self.connections)
        try:
            while data := await stream.receive_some(1 << 16):
                for message in decoder.feed(data):
                    self.ids.append(message.id)
                    self.asked.set()
                    if self.answers(message):
                        end = fast.Message(message.id, fast.Status.END, message.method, [])
                        await stream.send_all(fast.encode(end))
            self.ends.append("whole" if decoder.is_between_messages else "within a message")
        except trio.BrokenResourceError:
            self.ends.append("reset")
        finally:
            self.connections -= 1


@asynccontextmanager
async def listening(server: Server, port: int = 0) -> AsyncIterator[int]:
    """Serve; its port."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.talk, port, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(
    server: Server, connections: int = 1
) -> AsyncIterator[tuple[MorayClient, list[Connection]]]:
    """A client of the server, and a view of its connections."""
    async with listening(server) as port:
        hosts = {SHARD: f"127.0.0.1:{port}"}
        async with open_moray({1: SHARD}, hosts, connections=connections) as clients:
            yield clients[1], ConnectionsOf(clients[1])


class ConnectionsOf(list[Connection]):
    """The connections of a client as they are whenever one looks."""

    def __init__(self, client: MorayClient) -> None:
        super().__init__()
        self._client = client

    def __iter__(self) -> Any:
        return iter(self._client._pool._open)


async def many(count: int, call: Callable[[], Any]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(call)


@pytest.mark.row("CRIT-3")
async def test_a_shard_has_no_more_connections_than_allowed() -> None:
    """However many calls there are at once; they share what there is."""
    server = Server()
    async with connected(server, connections=3) as (client, _):
        for _ in range(5):
            await many(40, client.ping)

    assert (server.peak, server.accepted, len(server.ids)) == (3, 3, 200)


async def test_a_connection_that_is_free_is_used_again() -> None:
    """One call at a time needs one connection."""
    server = Server()
    async with connected(server, connections=10) as (client, _):
        for _ in range(20):
            await client.ping()

    assert server.accepted == 1


async def test_fewer_connections_at_once() -> None:
    """What is too many is closed as soon as it is idle; more come when more are allowed."""
    server = Server()
    async with connected(server, connections=6) as (client, _):
        await many(30, client.ping)
        assert server.connections == 6
        client.resize(2)
        await client.ping()
        with trio.fail_after(5):
            while server.connections > 2:  # noqa: ASYNC110 - deadline above
                await trio.sleep(0.001)
        client.resize(4)
        await many(30, client.ping)
        assert server.connections == 4

    assert server.ends == ["whole"] * len(server.ends)


async def test_connections_that_nobody_needs_any_more_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What many calls at once have opened does not stay for ever; one does, for the next call."""
    monkeypatch.setattr(pool, "UNUSED_S", 0.05)
    server = Server()
    async with connected(server, connections=6) as (client, _):
        await many(30, client.ping)
        assert server.connections == 6
        with trio.fail_after(5):
            while server.connections > 1:
                await client.ping()
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        await client.ping()
        assert (server.connections, server.accepted) == (1, 6)

    assert server.ends == ["whole"] * len(server.ends)


async def test_an_id_is_never_used_twice() -> None:
    """A server frees an id only after END is on the wire: reuse would race with it."""
    server = Server()
    async with connected(server) as (client, _):
        for _ in range(50):
            await client.ping()
        await many(50, client.ping)

    assert sorted(server.ids) == list(range(1, 101))


async def test_a_connection_ends_with_its_ids() -> None:
    """The greatest id is used, the next would kill the server: there is another connection."""
    server = Server()
    async with connected(server) as (client, connections):
        await client.ping()
        (first,) = connections
        first._ids = itertools.count(fast.MAX_ID)
        await client.ping()
        with pytest.raises(PeerUnreachable, match="used up its message ids"):
            await client.ping()
        await client.ping()

    assert server.ids == [1, fast.MAX_ID, 1]
    assert server.accepted == 2


async def test_every_answer_is_acknowledged_at_once() -> None:
    """After each read the kernel is told again: otherwise END waits 40 ms for our ACK."""
    if not hasattr(socket, "TCP_QUICKACK"):
        pytest.skip("this system has no such option")
    server = Server()
    async with connected(server) as (client, connections):
        for _ in range(20):
            await client.ping()
        (connection,) = connections
        option = connection._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)

    assert option == 1


async def test_what_json_cannot_say_is_not_sent() -> None:
    """Python writes Infinity, which would end the server: the call fails, nothing goes out."""
    server = Server()
    async with connected(server) as (client, _):
        with pytest.raises(PeerRefused, match="putObject"):
            await client.put_object("manta", "/x", {"size": float("inf")}, None)
        await client.ping()

    assert len(server.ids) == 1


async def test_a_server_that_was_gone_is_used_again(tmp_path: Path) -> None:
    """Calls fail while it is away and work when it is back, with the same client."""
    store = ShardStore(tmp_path / "1.sqlite")
    async with serving_shard(store, 0) as port:
        pass
    with trio.fail_after(10):
        async with open_moray({1: SHARD}, {SHARD: f"127.0.0.1:{port}"}, connections=2) as clients:
            client = clients[1]
            async with serving_shard(store, port):
                etag = await client.put_object("manta", "/x", {"n": 1}, None)
            with pytest.raises(PeerUnreachable):
                await client.ping()
            with pytest.raises(PeerUnreachable, match=rf"127\.0\.0\.1:{port}"):
                await client.ping()
            async with serving_shard(store, port):
                record = await client.get_object("manta", "/x")
    store.close()

    assert record is not None
    assert record.etag == etag


@asynccontextmanager
async def serving_shard(store: ShardStore, port: int) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        _, port = await nursery.start(ShardServer(store).serve, "127.0.0.1", port)
        yield port
        nursery.cancel_scope.cancel()


# --- deadlines -------------------------------------------------------------------------------


async def test_a_connection_over_which_nothing_comes_is_given_up(
    mock_clock: trio.testing.MockClock,
) -> None:
    """A call ends with its deadline; the next one does not go to the same deaf server."""
    server = Server(answers=lambda _message: False)
    async with connected(server) as (client, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_silence, client)
            await server.asked.wait()
            mock_clock.jump(CALL_S + 1)
        server.answers = lambda _message: True
        await client.ping()

    assert server.accepted == 2
    assert server.ends == ["whole", "whole"]


async def test_a_connection_over_which_others_are_answered_is_kept(
    mock_clock: trio.testing.MockClock,
) -> None:
    """One request that waits for a lock says nothing about its server."""
    server = Server(answers=lambda message: message.method != "sql")
    async with connected(server) as (client, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_silence, partial(client.sql, "SELECT 1"))
            await server.asked.wait()
            mock_clock.jump(CALL_S / 2)
            await client.ping()
            mock_clock.jump(CALL_S / 2 + 1)
        await client.ping()

    assert server.accepted == 1


async def expect_silence(client: MorayClient | Callable[[], Any]) -> None:
    call = client.ping if isinstance(client, MorayClient) else client
    with pytest.raises(PeerUnreachable, match="no answer in 60 s"):
        await call()


class NoAnswers(Resolver):
    """Look-ups that never end."""

    async def targets(self, name: str) -> list[Target]:
        """Never."""
        await trio.sleep_forever()


async def test_waiting_for_a_connection_is_within_the_deadline(autojump_clock: object) -> None:
    """The call that makes it and those that wait for it all end in time."""
    async with trio.open_nursery() as nursery:
        client = MorayClient(Pool(SHARD, NoAnswers({}), nursery, 1))
        begun = trio.current_time()
        await many(5, partial(expect_silence, client))

        assert trio.current_time() - begun == pytest.approx(CALL_S)


# --- several servers -------------------------------------------------------------------------


@asynccontextmanager
async def a_shard_of(ports: list[int], connections: int) -> AsyncIterator[Pool]:
    """A pool over a shard whose SRV records name the ports of one zone, in equal parts."""
    async with serving() as (names, where), trio.open_nursery() as nursery:
        names.records[f"_moray._tcp.{SHARD}", "SRV"] = [
            f"0 10 {port} zone.{SHARD}." for port in ports
        ]
        names.records[f"zone.{SHARD}", "A"] = ["127.0.0.1"]
        yield Pool(SHARD, Resolver({}, where), nursery, connections, random.Random(1))
        nursery.cancel_scope.cancel()


async def test_connections_are_spread_over_the_servers() -> None:
    """Each process of a shard gets its part, also when all are opened at once."""
    servers = [Server(), Server(), Server()]
    async with (
        listening(servers[0]) as a,
        listening(servers[1]) as b,
        listening(servers[2]) as c,
        a_shard_of([a, b, c], connections=6) as pool,
    ):
        await pool._resolver.targets(SHARD)  # so that no look-up puts them one after the other
        await many(60, MorayClient(pool).ping)

    assert [server.accepted for server in servers] == [2, 2, 2]


async def test_a_dead_server_is_left_out_for_a_while(mock_clock: trio.testing.MockClock) -> None:
    """Calls go to the others; when it is back, it gets its part again after a while."""
    alive, back = Server(), Server()
    async with listening(back) as port:
        pass  # now nobody listens there
    async with listening(alive) as other, a_shard_of([port, other], connections=4) as pool:
        client = MorayClient(pool)
        pool._shunned[Endpoint("127.0.0.1", 1)] = 0.0  # long ago: forgotten
        await many(2, client.ping)
        assert alive.accepted == 2
        assert set(pool._avoided()) == {Endpoint("127.0.0.1", port)}
        async with listening(back, port):
            await many(3, client.ping)
            assert (alive.accepted, back.accepted) == (3, 0)
            mock_clock.jump(SHUN_S + 1)
            await many(4, client.ping)
            await trio.testing.wait_all_tasks_blocked(0.02)
            # one for the fourth call, one that was moved
            assert (alive.accepted, back.accepted) == (3, 2)


async def test_a_server_that_comes_back_gets_its_part_again(
    mock_clock: trio.testing.MockClock,
) -> None:
    """After each was away in turn the connections, which are good, are spread again."""
    one, two = Server(), Server()
    async with listening(two) as b:
        async with listening(one) as a:
            pass
        async with a_shard_of([a, b], connections=6) as pool:
            client = MorayClient(pool)
            await many(60, client.ping)
            assert (one.connections, two.connections) == (0, 6)
            async with listening(one, a):
                mock_clock.jump(SHUN_S + 1)
                for _ in range(4):
                    await calls_and_pause(client, mock_clock)
                assert (one.connections, two.connections) == (3, 3)
                assert one.accepted == 3

    assert set(one.ends + two.ends) == {"whole"}


async def calls_and_pause(client: MorayClient, clock: trio.testing.MockClock) -> None:
    """Some calls, and time until the spread is looked at again."""
    await many(6, client.ping)
    await trio.testing.wait_all_tasks_blocked(0.02)
    clock.jump(SPREAD_S)


async def test_a_move_to_a_server_that_is_away_costs_no_connection(
    mock_clock: trio.testing.MockClock,
) -> None:
    """It is tried first, and no connection is given up for it."""
    alive = Server()
    async with listening(Server()) as dead:
        pass
    async with listening(alive) as other, a_shard_of([dead, other], connections=4) as pool:
        client = MorayClient(pool)
        for _ in range(20):
            await calls_and_pause(client, mock_clock)

    assert alive.accepted == alive.peak <= 4


async def test_a_connection_is_not_moved_while_its_call_runs(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The call ends as if nothing had been, and then the connection."""
    one, two = Server(), Server(answers=lambda message: message.method != "sql")
    async with listening(two) as b:
        async with listening(one) as a:
            pass
        async with a_shard_of([a, b], connections=2) as pool, trio.open_nursery() as nursery:
            client = MorayClient(pool)
            for _ in range(2):
                nursery.start_soon(partial(client.sql, "SELECT 1", within_s=1e6))
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert two.connections == 2
            async with listening(one, a):
                mock_clock.jump(SHUN_S + 1)
                await calls_and_pause(client, mock_clock)
                await calls_and_pause(client, mock_clock)
                assert (one.connections, two.connections) == (1, 2)
            nursery.cancel_scope.cancel()


async def test_when_every_server_is_dead_each_is_named() -> None:
    """An operator sees what was tried."""
    async with listening(Server()) as one, listening(Server()) as two:
        pass
    async with a_shard_of([one, two], connections=1) as pool:
        with pytest.raises(PeerUnreachable) as caught:
            await MorayClient(pool).ping()

    assert Counter(f":{port}:" in str(caught.value) for port in (one, two)) == {True: 2}


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("causes", "kind"),
    [
        ([("EtagConflictError", ""), ("QueryTimeoutError", "")], Kind.CONFLICT),
        ([("error", "deadlock detected"), ("QueryTimeoutError", "")], Kind.TRANSIENT),
        ([("QueryTimeoutError", ""), ("InvocationError", "")], Kind.PERMANENT),
        ([], Kind.PERMANENT),
    ],
)
def test_of_joined_errors_the_gravest_counts(causes: list[tuple[str, str]], kind: Kind) -> None:
    """Asking again must help against all of them."""
    joined = [{"name": name, "message": text} for name, text in causes]
    error = read_error({"name": "MultiError", "message": "several", "ase_errors": joined})

    assert error.kind is kind


async def test_a_scan_may_take_longer_than_other_calls() -> None:
    """Whole tables are read for rows without an id; a window of a cold disk takes minutes."""
    asked: dict[str, float] = {}

    class Shard(scan.DirectoryShard):
        async def sql(
            self, statement: str, values: Sequence[Any] = (), *, within_s: float = 0.0
        ) -> list[dict[str, Any]]:
            asked["none" if "IS NULL" in statement else "_id"] = within_s
            return []

    records = Shard().records()
    for part in await records.parts():
        await records.window(part, Reached(0, 10), 10, "1.stor.lab")
    assert asked == {"_id": scan.WINDOW_S, "none": scan.TABLE_S}


async def test_many_keys_are_asked_for_in_small_messages() -> None:
    """A large message could be cut by the end of this process, which would end the server."""
    asked: list[Sequence[Any]] = []

    class Shard(scan.DirectoryShard):
        async def sql(
            self, statement: str, values: Sequence[Any] = (), *, within_s: float = 0.0
        ) -> list[dict[str, Any]]:
            asked.append(values)
            return [{"_key": key, "_etag": "e", "_value": "{}"} for key in values]

    keys = [f"/{number}/" + "é" * 500 for number in range(200)] + ["/" + "x" * (64 << 10)]
    found = await Shard().records().rows_of(keys)

    assert [row.key for row in found] == keys
    assert all(len("".join(one).encode()) <= scan.KEYS_BYTES for one in asked[:-1])
    assert await Shard().records().rows_of([]) == []
