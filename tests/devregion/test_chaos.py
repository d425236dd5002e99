"""The harness of faults: its schedules, its links, and a monitor that sees what is broken."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import Shark
from rebalancer.manager.store import assignments, discovery
from rebalancer.manager.store.job_store import open_store
from rebalancer.manager.store.records import ScanPosition
from rebalancer.peers.moray import fast
from rebalancer_devregion import layout as layouts
from rebalancer_devregion.chaos.links import Link, Whole, linked
from rebalancer_devregion.chaos.monitor import Monitor
from rebalancer_devregion.chaos.schedule import (
    FETCHERS,
    HORIZON_S,
    LINKS,
    MORAYS,
    NODES,
    PARTS,
    SHARDS,
    FaultKind,
    make_schedule,
)
from rebalancer_devregion.contents import object_bytes, write, write_file
from rebalancer_devregion.expectations import EXPECTED, Kind, ObjectEnd, accepts
from rebalancer_devregion.layout import Layout
from tests.inline import inline
from tests.manager.store.test_store import found

# --- schedules ---------------------------------------------------------------------------


@given(st.integers(0, 1 << 40))
def test_a_seed_decides_its_schedule(seed: int) -> None:
    """A seed that failed can be run again; everything it names is there to be hit."""
    schedule = make_schedule(seed)
    assert schedule == make_schedule(seed)
    known = {*PARTS, *FETCHERS, *LINKS}
    for fault in schedule.faults:
        assert 0 <= fault.at <= HORIZON_S
        assert known.issuperset(fault.targets)
        assert fault.targets or fault.kind is FaultKind.PAUSE
        on_processes = fault.kind in (FaultKind.KILL, FaultKind.STOP, FaultKind.RESTART)
        # A lost answer would make a user's journal a lie.
        assert not (schedule.users and on_processes and set(MORAYS) & set(fault.targets))
    plain = make_schedule(seed, disks=False)
    assert FaultKind.DISK not in {fault.kind for fault in plain.faults}
    assert set(plain.faults) <= set(schedule.faults)


def test_schedules_have_every_kind_of_fault_on_every_part() -> None:
    """In a hundred seeds all that can be hit is hit, with users and without."""
    schedules = [make_schedule(seed) for seed in range(100)]
    faults = [fault for schedule in schedules for fault in schedule.faults]
    assert {fault.kind for fault in faults} == set(FaultKind)
    assert {name for fault in faults for name in fault.targets} == {*PARTS, *FETCHERS, *LINKS}
    assert {schedule.users for schedule in schedules} == {True, False}


# --- links -------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=40), max_size=5), st.data())
def test_only_whole_messages_come_through(texts: list[str], data: st.DataObject) -> None:
    """However a stream is cut, what has come through ends with a message."""
    messages = [
        fast.encode(fast.Message(number + 1, fast.Status.DATA, "m", [text]))
        for number, text in enumerate(texts)
    ]
    stream, whole, through = b"".join(messages), Whole(), b""
    ends = {len(b"".join(messages[:n])) for n in range(len(messages) + 1)}
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        through += whole.feed(stream[:size])
        stream = stream[size:]
        assert len(through) in ends
    assert through == b"".join(messages)
    assert whole.is_between


async def _echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@attrs.frozen
class Echo:
    """A server that sends everything back, behind a link."""

    link: Link

    async def open(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(self.link.host, self.link.port)


async def test_a_link_is_cut_silent_refusing_and_whole_again(nursery: trio.Nursery) -> None:
    """Each disturbance does what its name says, and is over when the link is healed."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, _echo, [listener])
    port = listener.socket.getsockname()[1]
    address = layouts.plan(Path("nowhere")).manager_address
    link = Link("echo", address, port, "127.0.0.1", port)
    echo = Echo(link)
    with trio.fail_after(30):
        async with linked([link]):
            stream = await echo.open()
            await stream.send_all(b"a")
            assert await stream.receive_some() == b"a"
            link.silence()
            await stream.send_all(b"b")
            with trio.move_on_after(0.1) as waited:
                await stream.receive_some()
            assert waited.cancelled_caught
            link.heal()
            assert await stream.receive_some() == b"b"
            link.refuses = True
            link.cut()
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            refused = await echo.open()
            with pytest.raises(trio.BrokenResourceError):
                await refused.receive_some()
            link.heal()
            again = await echo.open()
            await again.send_all(b"c")
            assert await again.receive_some() == b"c"
            for one in (stream, refused, again):
                await one.aclose()


# --- what a run expects ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [
        ("skipped", "{http_status_code:404}", True),
        ("skipped", "network_error", True),  # the source was away at the last try
        ("skipped", "destination_unreachable", False),  # agents are waited for
        ("error", "network_error", False),
        ("complete", "", False),
    ],
)
def test_an_object_that_lies_nowhere_may_be_skipped_for_its_sources_only(
    status: str, reason: str, verdict: bool
) -> None:
    """Where sources are disturbed, any word for a source that has it not will do."""
    wanted = EXPECTED[Kind.ZERO_BYTE_WITH_SHARKS]
    assert verdict is accepts(wanted, ObjectEnd(status, reason), disturbed=True)
    assert (reason == "{http_status_code:404}") is accepts(
        wanted, ObjectEnd(status, reason), disturbed=False
    )


def test_an_object_that_can_be_copied_must_be_complete_whatever_happens() -> None:
    """No disturbance is a reason to skip it, or to take up what is not the job's business."""
    skipped = ObjectEnd("skipped", "network_error")
    assert not accepts(EXPECTED[Kind.ORDINARY], skipped, disturbed=True)
    assert not accepts(EXPECTED[Kind.ELSEWHERE], skipped, disturbed=True)
    assert accepts(EXPECTED[Kind.ELSEWHERE], None, disturbed=True)


# --- the monitor -------------------------------------------------------------------------


@attrs.frozen
class Watched:
    """A region that does not run, with a job's file, and a monitor that has looked once."""

    layout: Layout
    job_file: Path
    monitor: Monitor

    def look(self) -> list[str]:
        self.monitor.look(self.job_file)
        return self.monitor.findings.violations

    def victim(self) -> tuple[int, str, dict[str, Any]]:
        with closing(sqlite3.connect(self.layout.before_file)) as db:
            shard, key, value = db.execute(
                "SELECT shard, key, value FROM records WHERE kind = 'ordinary' LIMIT 1"
            ).fetchone()
        return shard, key, json.loads(value)

    def put(self, shard: int, key: str, record: dict[str, Any]) -> None:
        with closing(sqlite3.connect(self.layout.shard_file(shard))) as db:
            db.execute("UPDATE manta SET _value = ? WHERE _key = ?", (json.dumps(record), key))
            db.commit()

    def sql(self, statement: str) -> None:
        with closing(sqlite3.connect(self.job_file)) as db:
            db.execute(statement)
            db.commit()

    def move(self, content: bytes | None) -> Path:
        """Have a record name a new copy, of which `content` lies there; the copy's place."""
        shard, key, record = self.victim()
        origin = self.layout.evacuated
        new = next(
            node
            for node in self.layout.nodes
            if node.datacenter == self.layout.node(origin).datacenter
            and node.manta_storage_id != origin
        )
        name = f"{record['creator']}/{record['objectId']}"
        path = self.layout.manta_root(new.manta_storage_id) / name
        if content is not None:
            write_file(path, content)
        for entry in record["sharks"]:
            if entry["manta_storage_id"] == origin:
                entry["manta_storage_id"] = new.manta_storage_id
        self.put(shard, key, record)
        return path

    def good(self) -> bytes:
        _, _, record = self.victim()
        return object_bytes(record["objectId"], record["contentLength"])


@pytest.fixture
async def watched(tmp_path: Path) -> Watched:
    layout = layouts.plan(tmp_path / "region", nodes=NODES, shards=SHARDS)
    layout.save()
    write(layout, 3)
    job_file = tmp_path / "job.sqlite"
    async with open_store(job_file, run=inline) as store:
        await store.write(discovery.store_found, [found(1), found(2)], ScanPosition(1, "_id", 5, 5))
        made = Assignment("known", Shark("dc1", "3.stor"), (found(1).id,), found(1).size)
        await store.write(assignments.assign, made)
    watched = Watched(layout, job_file, Monitor(layout))
    assert watched.look() == []
    assert watched.monitor.findings.checked["counts equal rows"] == 1
    return watched


def lose_a_shark(watched: Watched) -> None:
    shard, key, record = watched.victim()
    watched.put(shard, key, {**record, "sharks": record["sharks"][:1]})


def lose_a_datacenter(watched: Watched) -> None:
    shard, key, record = watched.victim()
    path = f"{record['creator']}/{record['objectId']}"
    for node in watched.layout.nodes:
        write_file(watched.layout.manta_root(node.manta_storage_id) / path, watched.good())
    sharks = [{**entry, "datacenter": "dc1"} for entry in record["sharks"]]
    watched.put(shard, key, {**record, "sharks": sharks})


def add_unknown_work(watched: Watched) -> None:
    state = watched.layout.agent_state("3.stor.demo.lab.test") / "scheduled"
    state.mkdir(parents=True)
    (state / "unknown").touch()


def put_one_off_uncounted(watched: Watched) -> None:
    watched.sql("UPDATE progress SET put_off = 1 WHERE status = 'unprocessed'")


def miscount(watched: Watched) -> None:
    watched.sql("UPDATE counters SET objects = objects + 1 WHERE status = 'unprocessed'")


BREAKAGES: dict[str, tuple[Callable[[Watched], object], str]] = {
    "no copy": (lambda watched: watched.move(None), "new copies: 3.stor"),
    "half a copy": (lambda watched: watched.move(watched.good()[:-1]), "new copies: "),
    "another copy": (lambda watched: watched.move(b"x" + watched.good()[1:]), "new copies: "),
    "fewer sharks": (lose_a_shark, "sharks: "),
    "fewer datacenters": (lose_a_datacenter, "datacenters: "),
    "unrecorded work": (add_unknown_work, "recorded, then sent: 3.stor.demo.lab.test has unknown"),
    "wrong counts": (miscount, "counts equal rows: "),
    "put off uncounted": (put_one_off_uncounted, "counts equal rows: "),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_the_monitor_sees_what_must_never_be(watched: Watched, breakage: str) -> None:
    """Each invariant, broken by hand, is found at the next look."""
    break_it, told = BREAKAGES[breakage]
    break_it(watched)
    assert [text for text in watched.look() if text.startswith(told)]


async def test_the_monitor_sees_a_copy_go(watched: Watched) -> None:
    """A good copy is no violation, until it is gone."""
    path = watched.move(watched.good())
    assert watched.look() == []
    path.unlink()
    (told,) = watched.look()
    assert told.startswith("copies stay: ")


async def test_a_job_that_is_called_complete_is_complete(watched: Watched) -> None:
    """Rows that are not at their end, and a scan that is not, are found."""
    watched.monitor.look_at_end(watched.job_file)
    assert len(watched.monitor.findings.violations) == 2
    watched.sql("UPDATE scans SET position = 3")
    watched.monitor.look_at_end(watched.job_file)
    assert "and a scan is not: (1, 0, 3, 5)" in watched.monitor.findings.violations[-1]
