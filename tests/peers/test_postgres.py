"""Scanning a real PostgreSQL: every kind of id, and what a server or network does in between."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import psycopg
import pytest
import trio

from rebalancer.domain.completeness import Reached
from rebalancer.errors import PeerError, PeerRefused, PeerUnreachable
from rebalancer.peers import postgres as clones
from rebalancer.peers import scan
from rebalancer.peers.metadata import Kind
from rebalancer.peers.names import split_port
from rebalancer.peers.postgres import PostgresShard, is_passing, kind_of_write, open_postgres
from rebalancer_devregion import postgres
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require

NAME = "1.rebalancer-postgres.lab"
SHARK = "1.stor.lab"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        made.create()
        yield made


@asynccontextmanager
async def shard_of(cluster: Cluster) -> AsyncIterator[PostgresShard]:
    async with open_postgres({1: NAME}, {NAME: cluster.address}) as shards:
        yield shards[1]


async def end_other_connections(cluster: Cluster) -> int:
    def run() -> int:
        with closing(cluster.connect()) as db:
            ended = db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'rebalancer'"
            )
            return len(ended.fetchall())

    return await trio.to_thread.run_sync(run)


async def ended_within(cluster: Cluster, statement: str) -> None:
    """Run `statement` on a shard and end its connection from the server's side meanwhile."""
    async with shard_of(cluster) as shard, trio.open_nursery() as nursery:
        nursery.start_soon(_end_when_there, cluster)
        with pytest.raises(PeerUnreachable, match=f"{NAME} at {cluster.address}"):
            await shard.sql(statement)
        assert await shard.sql("SELECT 1 AS one") == [{"one": 1}]  # a new connection


async def _end_when_there(cluster: Cluster) -> None:
    while not await end_other_connections(cluster):  # noqa: ASYNC110 - in another process
        await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("id_type", "has_idx"), [("bigint", False), ("integer", False), ("integer", True)]
)
async def test_windows_find_every_mention_whatever_ids_the_rows_have(
    cluster: Cluster, id_type: str, has_idx: bool
) -> None:
    """Old ids, new ids, gaps and no ids at all: each row that names the shark comes once."""

    def fill() -> set[str]:
        cluster.create(id_type=id_type, has_idx=has_idx)
        rows = list[tuple[Any, ...]]()
        for number in range(1, 41):
            shark = SHARK if number % 3 else f"1{SHARK}"
            ids = {0: (None, number * 7), 1: (None, None)}.get(number % 5, (number * 7, None))
            record = f'{{"name":"{number}","sharks":[{{"manta_storage_id":"{shark}"}}]}}'
            kind = "directory" if number % 8 == 0 else "object"
            rows.append((*ids, f"/k/{number}", record, "0123ABCD", kind))
        names: tuple[str, ...] = ("_id", "_idx", "_key", "_value", "_etag", "type")
        if not has_idx:
            rows, names = [(row[0], *row[2:]) for row in rows], (names[0], *names[2:])
        cluster.fill(names, rows)
        return {row[-4] for row in rows if f'"{SHARK}"' in row[-3] and row[-1] == "object"}

    wanted = await trio.to_thread.run_sync(fill)
    found = []
    async with shard_of(cluster) as shard:
        records = shard.records()
        parts = await records.parts()
        assert parts == (*(("_id", "_idx") if has_idx else ("_id",)), scan.NO_ID)
        for part in parts:
            done = await records.end_of(part)
            while not done.is_end:
                done, rows = await records.window(part, done, 50, SHARK)
                found += rows
    assert len(found) == len(wanted)
    assert {row.key for row in found} == wanted
    assert {row.etag for row in found} == {"0123ABCD"}


async def test_an_empty_table_is_no_trouble(cluster: Cluster) -> None:
    """There is nothing to scan but the rows without id, of which there are none."""
    await trio.to_thread.run_sync(cluster.create)
    async with shard_of(cluster) as shard:
        records = shard.records()
        *_, last = await records.parts()
        assert (await records.end_of("_id")).is_end
        done, rows = await records.window(last, await records.end_of(last), 1, SHARK)
        assert (done.is_end, rows) == (True, [])


async def test_a_table_of_that_name_in_another_schema_is_nobodys_business(
    cluster: Cluster,
) -> None:
    """Its second id column is not that of the table which the statements read."""

    def make() -> None:
        cluster.create()
        with closing(cluster.connect()) as db:
            db.execute("CREATE SCHEMA old CREATE TABLE manta (_id integer, _idx bigint)")

    await trio.to_thread.run_sync(make)
    async with shard_of(cluster) as shard:
        records = shard.records()
        assert await records.parts() == ("_id", scan.NO_ID)
        _, rows = await records.window("_id", Reached(0, 10), 10, SHARK)
        assert rows == []


async def test_a_connection_lost_within_a_statement_can_be_asked_again(cluster: Cluster) -> None:
    """No rows are returned, the error says where, and the next statement connects anew."""
    await ended_within(cluster, "SELECT pg_sleep(60)")


@pytest.mark.row("CRIT-1")
async def test_a_connection_lost_within_the_rows_returns_none(cluster: Cluster) -> None:
    """Rows that came before the end are not told as if they were all."""
    slow = "SELECT i, pg_sleep(0.001), repeat('x', 1000) FROM generate_series(1, 60000) i"
    await ended_within(cluster, slow)


async def test_a_connection_lost_between_statements_costs_one_error(cluster: Cluster) -> None:
    """A server restarted while a window was being stored is asked again."""
    async with shard_of(cluster) as shard:
        await shard.sql("SELECT 1")
        assert await end_other_connections(cluster) == 1
        with pytest.raises(PeerUnreachable):
            await shard.sql("SELECT 1")
        assert await shard.sql("SELECT 1 AS one") == [{"one": 1}]


async def test_a_statement_that_fails_within_its_rows_returns_none(cluster: Cluster) -> None:
    """The error is the server's own, and will not pass by asking again."""
    async with shard_of(cluster) as shard:
        with pytest.raises(PeerRefused, match="division by zero") as caught:
            await shard.sql("SELECT 1 / (50000 - i) AS n FROM generate_series(1, 60000) i")
        assert not caught.value.is_transient
        assert await shard.sql("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.row("CRIT-1")
async def test_a_statement_that_takes_too_long_is_ended_by_the_server(cluster: Cluster) -> None:
    """The limit on statements is in force on our connections."""
    async with shard_of(cluster) as shard:
        (shown,) = await shard.sql("SHOW statement_timeout", within_s=600)
        assert shown == {"statement_timeout": "10min"}
        with pytest.raises(PeerUnreachable, match="canceling statement due to statement timeout"):
            await shard.sql("SELECT pg_sleep(60)", within_s=0.05)


async def test_nothing_can_be_written(cluster: Cluster) -> None:
    """A clone is scanned read-only, even if it is the live database by mistake."""
    async with shard_of(cluster) as shard:
        with pytest.raises(PeerRefused, match="read-only"):
            await shard.sql("DELETE FROM manta RETURNING _key")


async def test_a_cancelled_scan_does_not_wait_for_its_statement(cluster: Cluster) -> None:
    """The connection is cut, so a stop is not held up by a slow disk; asking on is possible."""
    async with shard_of(cluster) as shard:
        await shard.sql("SELECT 1")
        begun = trio.current_time()
        with trio.move_on_after(0.2):
            await shard.sql("SELECT pg_sleep(60)")
        assert trio.current_time() - begun < 30
        assert await shard.sql("SELECT 1 AS one") == [{"one": 1}]


async def test_a_server_that_never_answers_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that has forgotten the limit on statements; the next one connects anew."""
    monkeypatch.setattr(clones, "GRACE_S", 0.1)
    async with shard_of(cluster) as shard:
        await shard.sql("SELECT set_config('statement_timeout', '0', false)", within_s=0.1)
        with pytest.raises(PeerUnreachable, match="no answer in 0 s"):
            await shard.sql("SELECT pg_sleep(60)", within_s=0.1)
        assert await shard.sql("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_server_that_never_says_what_it_is_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    """The first question on a connection is bounded as any other, and is cut by a stop too."""
    monkeypatch.setattr(clones, "_STANDING", b"SELECT pg_sleep(60)")
    monkeypatch.setattr(clones, "GRACE_S", 60.0 if is_cancelled else 0.1)
    primary = clones.PostgresPrimary(NAME, split_port(cluster.address, 5432))
    begun = trio.current_time()
    with (
        closing(primary),
        trio.move_on_after(0.2 if is_cancelled else 60),
        pytest.raises(PeerError, match="statement timeout"),
    ):
        await primary.write([], within_s=60.0 if is_cancelled else 0.1)
    assert trio.current_time() - begun < 30


async def test_a_clone_that_is_down_is_named(cluster: Cluster) -> None:
    """The error tells which clone and where it was looked for."""
    async with open_postgres({7: "7.clone.lab"}, {"7.clone.lab": "127.0.0.1:1"}) as shards:
        with pytest.raises(PeerUnreachable, match=r"7\.clone\.lab at 127\.0\.0\.1:1: .*refused"):
            await shards[7].sql("SELECT 1")


async def test_a_clone_may_come_back(cluster: Cluster) -> None:
    """A server that is stopped and started is used again."""
    async with shard_of(cluster) as shard:
        await shard.sql("SELECT 1")
        await trio.to_thread.run_sync(cluster.stop)
        with pytest.raises(PeerUnreachable):
            await shard.sql("SELECT 1")
        with pytest.raises(PeerUnreachable):
            await shard.sql("SELECT 1")
        await trio.to_thread.run_sync(cluster.start)
        assert await shard.sql("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize(
    ("state", "helps"),
    [
        ("08006", True),  # the connection was lost
        ("40P01", True),  # deadlock
        ("53100", True),  # disk full
        ("53200", True),  # out of memory
        ("53300", True),  # too many connections
        ("55P03", True),  # lock not available
        ("57014", True),  # the statement was cancelled
        ("57P01", True),  # the server stops
        ("57P03", True),  # it starts
        ("58030", True),  # an error of its disk
        ("57P04", False),  # the database was dropped
        ("22P02", False),  # a value that cannot be read
        ("28P01", False),  # a wrong password
        ("42P01", False),  # no such table
        ("42501", False),  # not allowed
        ("54000", False),  # beyond a limit of the server's making
        ("XX001", False),  # a corrupted table
    ],
)
def test_sqlstate_tells_which_failures_are_transient(state: str, helps: bool) -> None:
    """Whatever the language of the message, and whichever class psycopg makes of it."""
    exc = psycopg.errors.lookup(state)("ein Fehler")
    assert exc.sqlstate == state
    assert is_passing(exc) is helps


@pytest.mark.parametrize(
    ("text", "helps"),
    [
        ("connection refused", True),
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  sorry, too many clients already", True),
        ('FATAL:  password authentication failed for user "postgres"', False),
        ("FATAL:  no pg_hba.conf entry for host", False),
        ('FATAL:  database "moray" does not exist', False),
    ],
)
def test_a_server_that_lets_nobody_in_is_told_by_its_text(text: str, helps: bool) -> None:
    """For then there is no state."""
    assert is_passing(psycopg.OperationalError(text)) is helps


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40001", Kind.TRANSIENT),  # could not serialize
        ("40P01", Kind.TRANSIENT),  # deadlock
        ("55P03", Kind.TRANSIENT),  # the lock was not to be had in time
        ("57014", Kind.TRANSIENT),  # the statement took too long
        ("58030", Kind.TRANSIENT),
        ("25006", Kind.TRANSIENT),  # the server is a standby now
        ("25P03", Kind.TRANSIENT),  # our transaction was idle for too long
        ("53100", Kind.OVERLOADED),
        ("53200", Kind.OVERLOADED),
        ("53300", Kind.OVERLOADED),
        ("08006", None),
        ("40003", None),  # the server itself does not know
        ("57P01", None),
        ("57P02", None),
        ("57P04", Kind.PERMANENT),
        ("42P01", Kind.PERMANENT),
        ("42501", Kind.PERMANENT),
        ("23505", Kind.PERMANENT),
        ("XX001", Kind.PERMANENT),
    ],
)
def test_sqlstate_says_what_a_failed_write_asks_for(state: str, kind: Kind | None) -> None:
    """None where it may have happened nevertheless: the record must be read."""
    assert kind_of_write(psycopg.errors.lookup(state)("ein Fehler")) is kind


def test_a_write_whose_connection_broke_may_have_happened() -> None:
    """There is no state then; but a server that lets nobody in has written nothing."""
    assert kind_of_write(psycopg.OperationalError("server closed the connection")) is None
    refused = psycopg.OperationalError('FATAL:  database "x" does not exist')
    assert kind_of_write(refused) is Kind.PERMANENT


async def test_a_database_that_is_not_there_is_refused_by_name(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a real server: no pause makes it come."""
    monkeypatch.setattr(clones, "DATABASE", "elsewhere")
    async with shard_of(cluster) as shard:
        with pytest.raises(PeerRefused, match='"elsewhere" does not exist'):
            await shard.sql("SELECT 1")
