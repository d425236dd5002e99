"""Agents that are slow, vanish, lie or answer garbage: objects are safe, and jobs end."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent_protocol import (
    Assignment,
    AssignmentReport,
    Dialect,
    PostForm,
    Task,
    assignment_body,
    read_assignment,
    report_to_wire,
)
from rebalancer.domain import placer, reasons
from rebalancer.domain.assignments import Task as PlacedTask
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.reasons import Reason
from rebalancer.errors import PeerError, PeerMalformed, PeerRefused, PeerUnreachable
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.stages.discover import PLACES, ROOM_S
from rebalancer.manager.pipeline.stages.forget import LAST_S
from rebalancer.manager.pipeline.stages.post import TRIES, to_wire
from rebalancer.manager.store import assignments
from rebalancer.peers.agents import Agents, PostAnswer, PostResult
from rebalancer.peers.http import Reply
from rebalancer.peers.metadata import Put
from rebalancer.tokens import Token
from tests.logs import capture_logs
from tests.manager.store.test_store import check_counters
from tests.manager.world import (
    NODES,
    ORIGIN,
    FakeMoray,
    World,
    counts,
    make_world,
    object_id,
    record,
)
from tests.peers.fakes import RelayedAgents

TIMEOUT_S = 120


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, 21)])
    made.config_changes = {"agent_timeout": TIMEOUT_S}
    yield made
    made.close()


Spoil = Callable[[dict[str, Any]], Any]


@attrs.define
class Wire:
    """HTTP to the world's agents; `spoil` may change the report that one of `liars` gives.

    It returns the body to be sent: JSON, or bytes; or a whole Reply; or an error to raise.
    """

    world: World
    spoil: Spoil
    liars: frozenset[str] = frozenset(node.manta_storage_id for node in NODES)

    async def request(
        self, method: str, host: str, path: str, *, body: Any = None, **_rest: Any
    ) -> Reply:
        agents, name = self.world.agents, path.rpartition("/")[2]
        if path == "/ping":
            return Reply(404, {}, b"")
        if method == "POST":
            answer = await agents.post(host, read_assignment(json.loads(body)))
            return Reply(200 if answer.result is PostResult.ACCEPTED else 503, {}, b"")
        if method == "DELETE":
            await agents.delete(host, name)
            return Reply(200, {}, b"")
        report = await agents.get(host, name)
        if report is None:
            return Reply(404, {}, b"")
        told: Any = report_to_wire(report, Dialect.LEGACY)
        if host in self.liars:
            told = self.spoil(told)
        if isinstance(told, PeerError):
            raise told
        if isinstance(told, Reply):
            return told
        return Reply(200, {}, told if isinstance(told, bytes) else json.dumps(told).encode())


def when_done(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Spoil only reports that say an assignment is complete."""

    def spoil(told: dict[str, Any]) -> Any:
        return change(told) if isinstance(told["stats"]["state"], dict) else told

    return spoil


def stats(**values: Any) -> Spoil:
    """Reports of completion with other numbers."""

    def change(told: dict[str, Any]) -> dict[str, Any]:
        changed = {
            name: value(told["stats"][name]) if callable(value) else value
            for name, value in values.items()
        }
        return {**told, "stats": {**told["stats"], **changed}}

    return when_done(change)


def a_task(number: int, reason: Any = "MD5Mismatch") -> dict[str, Any]:
    return {
        "object_id": object_id(number),
        "owner": object_id(0),
        "md5sum": "L9NrIZXTY37AYVZN9+gZ7w==",
        "source": attrs.asdict(NODES[0].shark),
        "status": {"Failed": reason},
    }


def failing(*tasks: dict[str, Any], failed: int | None = None) -> Spoil:
    count = len(tasks) if failed is None else failed
    return stats(state={"Complete": list(tasks)}, failed=count)


MISMATCH, SILENCE = "assignment_mismatch", "destination_unreachable"
LIES: dict[str, tuple[Spoil, str]] = {
    "a task is missing": (stats(complete=lambda n: n - 1, total=lambda n: n - 1), MISMATCH),
    "complete, but not all": (stats(complete=lambda n: n - 1), MISMATCH),
    "more done than there are": (stats(complete=lambda n: n + 1), MISMATCH),
    "more tasks than were posted": (
        stats(complete=lambda n: n + 1, total=lambda n: n + 1),
        MISMATCH,
    ),
    "negative": (stats(complete=-3, total=-3), MISMATCH),
    "negative failures": (stats(failed=-1), MISMATCH),
    "failures are counted, not listed": (stats(failed=1), MISMATCH),
    "failures are listed, not counted": (failing(a_task(1), failed=0), MISMATCH),
    "an unknown task failed": (failing(a_task(999)), MISMATCH),
    "one task failed twice": (failing(a_task(1), a_task(1)), MISMATCH),
    "another assignment": (when_done(lambda told: {**told, "uuid": object_id(5)}), MISMATCH),
    "no JSON": (lambda _told: b"<html>", SILENCE),
    "half of a JSON": (lambda _told: b'{"uuid": "', SILENCE),
    "very deep JSON": (lambda _told: b"[" * 100_000, SILENCE),
    "a number without end": (lambda _told: b"9" * 10_000, SILENCE),
    "null": (lambda _told: None, SILENCE),
    "a list": (lambda told: [told], SILENCE),
    "numbers as text": (stats(total="3"), SILENCE),
    "fractions": (stats(complete=2.5), SILENCE),
    "an unknown state": (stats(state="Complete"), SILENCE),
    "a failed task without its id": (failing({"status": "Pending"}), SILENCE),
    "a host that is a path": (
        failing({**a_task(1), "source": {"datacenter": "x", "manta_storage_id": "../x"}}),
        SILENCE,
    ),
    "500": (lambda _told: Reply(500, {}, b"panic"), SILENCE),
    "401": (lambda _told: Reply(401, {}, b"who are you"), SILENCE),
    "302": (lambda _told: Reply(302, {"location": "http://elsewhere"}, b""), SILENCE),
    "too long": (lambda _told: PeerMalformed("answer is too long"), SILENCE),
    "nothing": (lambda _told: PeerUnreachable("connection reset"), SILENCE),
    "404": (lambda _told: Reply(404, {}, b""), "agent_assignment_no_ent"),
}


def agents(world: World, spoil: Spoil, liars: Mapping[str, Any] | None = None) -> Agents:
    wire = Wire(world, spoil) if liars is None else Wire(world, spoil, frozenset(liars))
    return Agents(wire, 7878)


@pytest.mark.row("TEST-EVAC-3", "L9", "L10", "L22", "N9")
@pytest.mark.parametrize("lie", LIES)
async def test_nothing_that_an_agent_lies_about_counts_as_copied(
    world: World, autojump_clock: object, lie: str
) -> None:
    """All agents do so: the job ends, every object is skipped with the reason, as it was."""
    spoil, reason = LIES[lie]
    before = world.records()
    async with world.job(agents=agents(world, spoil)) as job:
        with trio.fail_after(100_000):
            await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("skipped", reason): 20}
    assert before == world.records()
    assert all(one.assignments == 0 for one in world.fleet_ledger.snapshot())


@pytest.mark.row("L22")
@pytest.mark.parametrize("lie", LIES)
async def test_one_agent_that_lies_costs_no_object(
    world: World, autojump_clock: object, lie: str
) -> None:
    """What it had is copied by others; nothing names it."""
    bad = NODES[1].manta_storage_id
    async with world.job(agents=agents(world, LIES[lie][0], {bad: 1})) as job:
        with trio.fail_after(100_000):
            await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 20}
    named = {s["manta_storage_id"] for r in world.records() for s in r["sharks"]}
    assert bad not in named
    assert ORIGIN.manta_storage_id not in named


def killed_in_the_middle(stats: dict[str, Any]) -> dict[str, Any]:
    """As the rewrite's agent counts after a restart: the task it was at is never counted."""
    return {**stats, "complete": stats["complete"] - 1}


def counted_on(stats: dict[str, Any]) -> dict[str, Any]:
    """As a deployed agent counts that started from another one's state file."""
    return {**stats, "complete": stats["complete"] + 2}


@pytest.mark.parametrize("miscount", [killed_in_the_middle, counted_on])
async def test_what_an_agent_does_not_account_for_is_asked_of_it_again(
    world: World, autojump_clock: object, miscount: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """No attempt is used up, nothing is copied twice, and no other destination gets a copy.

    The one failure that such a report names is believed at once: it is tried elsewhere.
    """
    first: set[str] = set()
    bad = object_id(7)
    world.agents.fails = lambda _shark, task: (
        reasons.AGENT_FS_ERROR if task.object_id == bad and not first else None
    )

    def spoil(told: dict[str, Any]) -> dict[str, Any]:
        if told["uuid"] in world.agents.done and len(first) < 4:
            first.add(told["uuid"])
        if told["uuid"] in first:
            return {**told, "stats": miscount(told["stats"])}
        return told

    async with world.job(agents=agents(world, when_done(spoil))) as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 20}
        rows = job.store.database._reader.execute("SELECT id, attempts FROM evacuateobjects")
        attempts = {row["id"]: row["attempts"] for row in rows}
        (orphans,) = job.store.database._reader.execute("SELECT count(*) FROM orphans").fetchone()
    assert len(first) == 4
    assert {name for name, count in attempts.items() if count} <= {bad}
    assert len(world.agents.found_there) >= 4
    assert len(world.agents.copied_whole) == len(world.agents.copies) == 20
    assert orphans == 0
    for found in world.records():
        shark = found["sharks"][0]["manta_storage_id"]
        assert (found["objectId"], shark) in world.agents.copies


@pytest.mark.row("CRIT-6", "L12")
@pytest.mark.parametrize(
    ("reason", "column"),
    [
        ("OutOfCoffee", "unknown_reason"),
        ("half a character: \ud800", "unknown_reason"),
        ("x" * 100_000, "unknown_reason"),
        ({"HTTPStatusCode": -1}, "unknown_reason"),
        ({"HTTPStatusCode": 10**30}, "unknown_reason"),
        ({"HTTPStatusCode": 599}, "{http_status_code:599}"),
        ({"type": "OutOfCoffee", "status_code": 5}, "unknown_reason"),
    ],
)
async def test_reasons_from_outside_do_no_harm(
    world: World, autojump_clock: object, reason: Any, column: str
) -> None:
    """Whatever an agent calls its failure can be stored; the other tasks count."""

    def spoil(told: dict[str, Any]) -> dict[str, Any]:
        assignment = world.agents.assignments[told["uuid"]][1]
        if object_id(3) not in {task.object_id for task in assignment.tasks}:
            return told
        answered: dict[str, Any] = failing(a_task(3, reason))(told)
        return answered

    async with world.job(agents=agents(world, when_done(spoil))) as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 19, ("skipped", column): 1}


async def test_a_failed_task_that_has_no_failure_is_not_copied(
    world: World, autojump_clock: object
) -> None:
    """Listed as failed, but with another status: told as an error of the assignment."""

    def spoil(told: dict[str, Any]) -> dict[str, Any]:
        tasks = world.agents.assignments[told["uuid"]][1]
        body = json.loads(assignment_body(tasks, PostForm.LEGACY))
        listed = [{**task, "status": "Complete"} for task in body["tasks"]]
        answered: dict[str, Any] = failing(*listed)(told)
        return answered

    async with world.job(agents=agents(world, when_done(spoil))) as job:
        await flow.run(job)
        assert await counts(job.store) == {("skipped", "assignment_error"): 20}


@pytest.mark.row("DEF-3", "L21")
async def test_progress_without_end_is_none(world: World, autojump_clock: object) -> None:
    """An agent that counts on and on, past its tasks, is given up."""
    told_so_far = [0]

    def spoil(told: dict[str, Any]) -> dict[str, Any]:
        told_so_far[0] += 1
        running = {"state": "Running", "complete": told_so_far[0]}
        return {**told, "stats": {**told["stats"], **running}}

    async with world.job(agents=agents(world, spoil)) as job:
        with trio.fail_after(100_000):
            await flow.run(job)
        assert await counts(job.store) == {("skipped", "network_error"): 20}


@pytest.mark.row("L22", "L25", "N7")
async def test_a_lost_answer_leaves_the_other_assignments_polled(
    world: World, autojump_clock: object
) -> None:
    """The first assignment of each agent is never answered for; the others are done long before."""
    world.config_changes = {"agent_timeout": 3600}
    silent: dict[str, str] = {}
    moved_at: list[float] = []
    inner = agents(world, lambda told: told)

    class Silent(RelayedAgents):
        async def get(self, shark: str, assignment_id: str) -> Any:
            if silent.setdefault(shark, assignment_id) == assignment_id:
                await trio.sleep(30)  # until the deadline
                raise PeerUnreachable("no answer in 30 s")
            return await super().get(shark, assignment_id)

    world.before_write = lambda _name: moved_at.append(trio.current_time())
    began = trio.current_time()
    async with world.job(agents=Silent(inner)) as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}
    early = [at for at in moved_at if at - began < 300]
    assert len(early) >= 3
    assert max(moved_at) - began > 3600


async def test_slow_metadata_is_not_held_against_an_agent(
    world: World, autojump_clock: object
) -> None:
    """While its copies wait for the metadata tier nobody can see an agent's progress."""
    world.options = attrs.evolve(
        world.options, max_metadata_update_threads=1, use_batched_updates=True
    )
    world.agents.asked.default_factory = lambda: -3
    waits = [TIMEOUT_S * 3.0] * 3
    asked_at: dict[str, float] = {}

    class SlowMoray(FakeMoray):
        async def batch(self, puts: Sequence[Put]) -> None:
            await trio.sleep(waits.pop() if waits else 0)
            await super().batch(puts)

    class Slow(RelayedAgents):
        async def get(self, shark: str, assignment_id: str) -> AssignmentReport | None:
            now = trio.current_time()
            since = now - asked_at.get(assignment_id, now)
            asked_at[assignment_id] = now
            if since > TIMEOUT_S:
                raise PeerUnreachable("connection closed meanwhile")
            return await super().get(shark, assignment_id)

    moray = {number: SlowMoray(world, number, store) for number, store in world.shards.items()}
    async with world.job(agents=Slow(world.agents), shards=moray) as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}
        assert not waits
        lost = "SELECT count(*) FROM assignments WHERE state = 'rejected'"
        assert job.store.database._reader.execute(lost).fetchone()[0] == 0


# --- deleting ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 404])
async def test_an_assignment_is_deleted_once_whichever_agent_answers(
    world: World, autojump_clock: object, status: int
) -> None:
    """Deployed agents say 200, the rewrite's 204, and 404 is as good."""
    deleted: list[str] = []

    class Deleting(Wire):
        async def request(self, method: str, host: str, path: str, **rest: Any) -> Reply:
            if method == "DELETE":
                deleted.append(path)
                return Reply(status, {}, b"")
            return await super().request(method, host, path, **rest)

    http = Deleting(world, lambda told: told)
    async with world.job(agents=Agents(http, 7878)) as job:
        await flow.run(job)
    assert sorted(deleted) == sorted(f"/assignments/{name}" for name in world.agents.known_ever)


@pytest.mark.parametrize("failure", ["refused", "hangs"])
async def test_a_delete_that_fails_holds_nothing_up(
    tmp_path: Path, autojump_clock: object, failure: str
) -> None:
    """More assignments than may wait to be deleted: records are written as if there were none."""
    world = make_world(tmp_path / "w", [record(number) for number in range(1, 201)])
    world.options = attrs.evolve(
        world.options, max_tasks_per_assignment=1, max_metadata_update_threads=1
    )

    class Sticky(RelayedAgents):
        async def delete(self, shark: str, assignment_id: str) -> None:
            if failure == "hangs":
                await trio.sleep(10)
            raise PeerRefused("500")

    written: list[float] = []
    world.written = lambda _name: written.append(trio.current_time())
    began = trio.current_time()
    async with world.job(agents=Sticky(world.agents)) as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 200}
    assert len(world.agents.known_ever) == 200
    assert max(written) - began < 60
    assert trio.current_time() - began < 60 + 2 * LAST_S
    world.close()


# --- posting -----------------------------------------------------------------------------


@pytest.mark.row("L23")
async def test_a_lost_answer_to_a_post_is_asked_again(world: World, autojump_clock: object) -> None:
    """The agent has the assignment, its answer was lost; the second time it says 409."""
    lost: set[str] = set()

    def answer(shark: str, assignment: Assignment) -> PostAnswer | Exception | None:
        if assignment.id in lost:
            return PostAnswer(PostResult.ACCEPTED, "409")
        lost.add(assignment.id)
        world.agents.assignments[assignment.id] = (shark, assignment)
        return PeerUnreachable("no answer in 60 s")

    world.agents.post_answer = answer
    assert await world.run() == {("complete", ""): 20}
    assert len(world.agents.copied_whole) == 20


@pytest.mark.parametrize(
    ("pause_s", "longest_s"),
    [(0.0, 30), (60.0, 60 * 4 * 3 + 60)],
)
async def test_a_busy_agent_is_waited_for_as_it_says_and_not_for_ever(
    world: World, autojump_clock: object, pause_s: float, longest_s: float
) -> None:
    """Pauses as told, and some of our own where the agent asks for none."""
    asked: dict[str, list[float]] = {}

    def answer(_shark: str, assignment: Assignment) -> PostAnswer:
        asked.setdefault(assignment.id, []).append(trio.current_time())
        return PostAnswer(PostResult.BUSY, "503", pause_s)

    world.agents.post_answer = answer
    began = trio.current_time()
    assert await world.run() == {("skipped", "agent_busy"): 20}
    assert trio.current_time() - began < longest_s + ROOM_S
    pauses = [b - a for times in asked.values() for a, b in pairwise(times)]
    assert pauses
    assert min(pauses) >= max(pause_s, 0.1)


async def test_the_last_try_of_an_assignment_is_followed_by_no_pause(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Its objects have other destinations, or an end, at once."""
    world = make_world(tmp_path / "w", [record(1)])
    world.config_changes = {"max_attempts": 1}
    asked: list[float] = []

    def answer(_shark: str, _assignment: Assignment) -> PostAnswer:
        asked.append(trio.current_time())
        return PostAnswer(PostResult.BUSY, "503", 60.0)

    world.agents.post_answer = answer
    assert await world.run() == {("skipped", "agent_busy"): 1}
    assert len(asked) == TRIES
    assert trio.current_time() - asked[-1] < 30
    world.close()


async def test_a_busy_agent_gets_its_assignment_in_the_end(
    world: World, autojump_clock: object
) -> None:
    """Refused twice with 503, taken the third time: nothing has come to nothing."""
    refused: dict[str, int] = {}

    def answer(_shark: str, assignment: Assignment) -> PostAnswer | None:
        refused[assignment.id] = refused.get(assignment.id, 0) + 1
        return PostAnswer(PostResult.BUSY, "503", 7.0) if refused[assignment.id] < 3 else None

    world.agents.post_answer = answer
    async with world.job() as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}
        (most,) = job.store.database._reader.execute(
            "SELECT max(attempts) FROM evacuateobjects"
        ).fetchone()
    assert most == 0


@pytest.mark.row("DEF-3", "L24", "L25")
async def test_hung_agents_do_not_hold_up_the_others(world: World, autojump_clock: object) -> None:
    """Each POST to them takes a minute; after the first that is given up, one try is enough."""
    hung = NODES[1].manta_storage_id
    posts: list[str] = []
    done: list[float] = []

    class Hanging(RelayedAgents):
        async def post(self, shark: str, assignment: Assignment) -> PostAnswer:
            if shark == hung:
                posts.append(assignment.id)
                await trio.sleep(60)
                raise PeerUnreachable("no answer in 60 s")
            return await super().post(shark, assignment)

    world.before_write = lambda _name: done.append(trio.current_time())
    world.options = attrs.evolve(world.options, max_tasks_per_assignment=1)
    began = trio.current_time()
    async with world.job(agents=Hanging(world.agents)) as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}
    assert posts
    assert len([at for at in done if at - began < 30]) >= 8
    assert trio.current_time() - began < 5 * 70


async def test_slow_agents_cost_the_others_nothing(tmp_path: Path, autojump_clock: object) -> None:
    """While every request to half of them waits for its answer, the rest of the objects move."""
    world = make_world(tmp_path / "w", [record(n) for n in range(200)])
    world.nodes = tuple(StorageNode(f"{n}.stor.lab", "dc1", 100_000, 10) for n in range(10, 30))
    slow = {node.manta_storage_id for node in world.nodes[::2]}
    deleted = set[str]()
    done: list[float] = []

    class Slow(RelayedAgents):
        async def post(self, shark: str, assignment: Assignment) -> PostAnswer:
            await trio.sleep(5 if shark in slow else 0)
            return await super().post(shark, assignment)

        async def get(self, shark: str, assignment_id: str) -> AssignmentReport | None:
            await trio.sleep(5 if shark in slow else 0)
            return await super().get(shark, assignment_id)

        async def delete(self, shark: str, assignment_id: str) -> None:
            await trio.sleep(5 if shark in slow else 0)
            deleted.add(assignment_id)

    world.before_write = lambda _name: done.append(trio.current_time())
    world.options = attrs.evolve(world.options, max_tasks_per_assignment=1, max_sharks=20)
    began = trio.current_time()
    async with world.job(agents=Slow(world.agents)) as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 200}
    assert len([at for at in done if at - began < 5]) >= 150
    # Nor do their own deletes keep those of others from being sent.
    healthy = {name for name, (shark, _) in world.agents.assignments.items() if shark not in slow}
    assert healthy <= deleted
    world.close()


async def test_a_disk_that_is_gone_does_not_draw_all_objects(
    tmp_path: Path, autojump_clock: object
) -> None:
    """It is done with its assignments at once, so it would be given the next and the next."""
    world = make_world(tmp_path / "w", [record(number) for number in range(1, 201)])
    broken, given = NODES[1].manta_storage_id, []

    def fails(shark: str, task: Task) -> Reason | None:
        if shark != broken:
            return None
        given.append(task.object_id)
        return reasons.AGENT_FS_ERROR

    world.agents.fails = fails
    assert await world.run() == {("complete", ""): 200}
    assert 0 < len(given) < 40
    world.close()


# --- destinations that are away ------------------------------------------------------------


def refused(shark: str) -> PeerUnreachable:
    """No connection: the agent cannot have been told."""
    failure = PeerUnreachable(f"POST {shark}/assignments: connection refused")
    failure.was_sent = False
    return failure


@attrs.define
class Blackout:
    """Destinations that cannot be connected to.  Mutable state: their names."""

    away: set[str]

    def over(self, world: World) -> None:
        """Have them answer to nothing."""
        world.agents.post_answer = lambda shark, _: refused(shark) if shark in self.away else None
        world.agents.away = lambda shark: refused(shark) if shark in self.away else None


ALL = {node.manta_storage_id for node in NODES}


def attempts(job: Any) -> int:
    """The most that any object has had."""
    read = job.store.database._reader.execute
    (most,) = read("SELECT max(attempts) FROM evacuateobjects").fetchone()
    return int(most or 0)


async def test_a_destination_that_is_away_costs_no_attempt(
    world: World, autojump_clock: object
) -> None:
    """The others are used; it is asked by probes, and the log has a line a minute."""
    one = NODES[1].manta_storage_id
    Blackout({one}).over(world)
    with capture_logs() as lines:
        async with world.job() as job:
            await flow.run(job)
            assert await counts(job.store) == {("complete", ""): 20}
            assert attempts(job) == 0
            assert job.waits.causes == []
    assert one not in {place for _, place in world.agents.copies}
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert {line["waits_for"] for line in warnings} <= {f"the agent of {one}"}
    assert len(warnings) <= 2


@pytest.mark.parametrize("single", [False, True])
async def test_a_job_waits_while_all_destinations_are_away(
    tmp_path: Path, autojump_clock: object, single: bool
) -> None:
    """However long, whether there are five or one: visibly, at no cost to any object."""
    world = make_world(tmp_path / "w", [record(number) for number in range(1, 101)])
    if single:
        world.nodes = tuple(node for node in NODES if node.manta_storage_id == "5.stor.lab")
        here = [attrs.asdict(ORIGIN)]
        for store in world.shards.values():
            for row in store.find("manta", "(type=object)", {"noLimit": True}):
                store.put("manta", row["key"], {**row["value"], "sharks": here})
    blackout = Blackout(set(ALL))
    blackout.over(world)
    with capture_logs() as lines:
        async with world.job() as job, trio.open_nursery() as nursery:
            nursery.start_soon(flow.run, job)
            await trio.sleep(7200)
            known = {cause.subject: cause.detail for cause in job.waits.causes}
            count = len(world.nodes)
            assert known.pop("any destination") == f"none of {count} answers"
            assert known
            assert set(known) <= {f"the agent of {name}" for name in ALL}
            assert attempts(job) == 0
            (tried,) = job.store.database._reader.execute(
                "SELECT count(*) FROM assignments"
            ).fetchone()
            blackout.away.clear()
        status = job.store
    async with world.job() as job:
        assert await counts(job.store) == {("complete", ""): 100}
        assert attempts(job) == 0
    assert status is not None
    assert tried < 200  # it is not given again and again
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert len(warnings) <= 125 * (count + 1)  # a line a minute for each
    world.close()


async def test_objects_that_only_a_destination_which_is_away_can_have_wait_for_it(
    tmp_path: Path, autojump_clock: object
) -> None:
    """The rest of the job is done meanwhile; it comes back in time, and they are copied."""
    world, blackout = half_stranded(tmp_path)
    async with world.job() as job, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, job)
        await trio.sleep(1800)
        assert await counts(job.store) == {("complete", ""): 10, ("unprocessed", ""): 10}
        blackout.away.clear()
    async with world.job() as job:
        assert await counts(job.store) == {("complete", ""): 20}
        assert attempts(job) == 0
    world.close()


async def test_what_waits_for_a_destination_only_is_tried_as_soon_as_that_is_back(
    tmp_path: Path, autojump_clock: object
) -> None:
    """It is said what the job waits for, and nobody waits for room, which there is."""
    world, blackout = half_stranded(tmp_path)
    async with world.job() as job, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, job)
        with trio.fail_after(60):
            while PLACES not in {cause.subject for cause in job.waits.causes}:
                await job.store.wait_change()
                await trio.sleep(0.1)
        blackout.away.clear()
        came_back = trio.current_time()
        with trio.fail_after(600):
            while job.store.uncopied:
                await job.store.wait_change()
        assert trio.current_time() - came_back < ROOM_S / 2
        assert job.waits.causes == []
    world.close()


async def test_a_destination_that_stays_away_is_given_up_after_its_time(
    tmp_path: Path, autojump_clock: object
) -> None:
    """What no other can have is skipped, with the reason, so that the job comes to its end."""
    world, _ = half_stranded(tmp_path)
    began = trio.current_time()
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {
            ("complete", ""): 10,
            ("skipped", "destination_unreachable"): 10,
        }
    assert 3600 <= trio.current_time() - began < 3600 + 5 * ROOM_S
    world.close()


def half_stranded(folder: Path) -> tuple[World, Blackout]:
    """Ten objects that may go to one node only, which is away, and ten that may go anywhere."""
    taken = [node.shark for node in NODES if node.manta_storage_id != "5.stor.lab"]
    everywhere = [attrs.asdict(shark) for shark in (ORIGIN, *taken)]
    records = [record(n, **({"sharks": everywhere} if n % 2 else {})) for n in range(1, 21)]
    world = make_world(folder / "w", records)
    world.config_changes = {"agent_timeout": 3600}
    world.agents.copies |= {(object_id(n), s.manta_storage_id) for s in taken for n in range(1, 21)}
    blackout = Blackout({"5.stor.lab"})
    blackout.over(world)
    return world, blackout


async def test_an_agent_that_may_have_an_assignment_is_asked_for_it(
    world: World, autojump_clock: object
) -> None:
    """No answer came to the post, though it was taken: nothing is posted under another name."""

    def answer(shark: str, assignment: Assignment) -> Exception:
        world.agents.assignments.setdefault(assignment.id, (shark, assignment))
        return PeerUnreachable("no answer in 60 s")

    world.agents.post_answer = answer
    async with world.job() as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}
        assert attempts(job) == 0
    assert len(world.agents.copied_whole) == 20


async def test_an_agent_that_answers_but_takes_nothing_does_not_hold_a_job_for_ever(
    world: World, autojump_clock: object
) -> None:
    """To each probe and question, to no post: after its time that counts against the objects."""
    world.agents.post_answer = lambda _shark, _assignment: PeerUnreachable("no answer in 60 s")
    with trio.fail_after(100_000):
        async with world.job() as job:
            await flow.run(job)
            check_counters(job.store)
            assert await counts(job.store) == {("skipped", "destination_unreachable"): 20}
            (tried,) = job.store.database._reader.execute(
                "SELECT count(*) FROM assignments"
            ).fetchone()
    assert tried < 500


async def test_what_was_recorded_and_never_posted_is_no_fault_of_its_agent(
    world: World, autojump_clock: object
) -> None:
    """After a restart the agent does not know it: quietly, and the destination is used on."""
    held = trio.Event()

    class Holding(RelayedAgents):
        async def post(self, shark: str, assignment: Assignment) -> PostAnswer:
            held.set()
            await trio.sleep_forever()
            raise AssertionError

    async with world.job(agents=Holding(world.agents)) as job, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, job)
        await held.wait()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    with capture_logs() as lines:
        async with world.job() as job:
            assert await job.store.read(assignments.read_open)
            await flow.run(job)
            assert await counts(job.store) == {("complete", ""): 20}
            assert attempts(job) == 0
    assert [line for line in lines if line["log_level"] == "warning"] == []
    assert all(one.failures == 0 for one in world.fleet_ledger.snapshot())


# --- tokens that differ for a while ----------------------------------------------------------


@attrs.define(eq=False)
class Guarded(Wire):
    """HTTP to agents that want a token, each its own.  Mutable state: their tokens."""

    tokens: dict[str, str] = attrs.field(factory=dict)
    status: int = 401

    async def request(self, method: str, host: str, path: str, **rest: Any) -> Reply:
        """As the rewrite's agents answer: whoever bears another token learns nothing but /ping."""
        given = (rest.get("headers") or {}).get("authorization")
        if path != "/ping" and given != f"Bearer {self.tokens[host]}":
            return Reply(self.status, {}, b'{"message": "a token is wanted"}')
        return await super().request(method, host, path, **rest)


def guarded(world: World, tokens: dict[str, str], status: int = 401) -> Agents:
    wire = Guarded(world, lambda told: told, tokens=tokens, status=status)
    return Agents(wire, 7878, Token(value="todays"))


@pytest.mark.parametrize("status", [401, 403])
async def test_agents_that_want_another_token_are_waited_for(
    world: World, autojump_clock: object, status: int
) -> None:
    """However long until the manager has it: visibly, and at no cost to any object."""
    tokens = dict.fromkeys(ALL, "tomorrows")
    async with world.job(agents=guarded(world, tokens, status)) as job, trio.open_nursery() as n:
        n.start_soon(flow.run, job)
        await trio.sleep(7200)
        known = {cause.subject: cause.detail for cause in job.waits.causes}
        assert known.pop("any destination")
        assert all("token" in detail and str(status) in detail for detail in known.values())
        assert attempts(job) == 0
        tokens.update(dict.fromkeys(ALL, "todays"))
    async with world.job() as job:
        assert await counts(job.store) == {("complete", ""): 20}
        assert attempts(job) == 0


async def test_an_agent_that_wants_another_token_is_not_given_objects_meanwhile(
    world: World, autojump_clock: object
) -> None:
    """The others are used, and no object has failed."""
    one = NODES[1].manta_storage_id
    tokens = {name: "tomorrows" if name == one else "todays" for name in ALL}
    async with world.job(agents=guarded(world, tokens)) as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}
        assert attempts(job) == 0
    assert one not in {place for _, place in world.agents.copies}


async def test_a_token_that_changes_while_agents_work_costs_nothing(
    world: World, autojump_clock: object
) -> None:
    """What they had accepted is asked for once more when the tokens are the same again."""
    tokens = dict.fromkeys(ALL, "todays")
    async with world.job(agents=guarded(world, tokens)) as job, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, job)
        await trio.sleep(0.15)
        assert world.agents.assignments
        assert not world.agents.done
        tokens.update(dict.fromkeys(ALL, "tomorrows"))
        await trio.sleep(TIMEOUT_S / 2)
        known = {cause.subject for cause in job.waits.causes}
        assert known & {f"the agent of {name}" for name in ALL}
        tokens.update(dict.fromkeys(ALL, "todays"))
    async with world.job() as job:
        assert await counts(job.store) == {("complete", ""): 20}
        assert attempts(job) == 0


# --- bucket objects ------------------------------------------------------------------------------


@pytest.fixture
def of_buckets(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, whose objects are bucket objects to placement."""
    monkeypatch.setattr(placer, "is_of_bucket", lambda _name: True)
    return world


async def test_bucket_objects_go_to_agents_that_announce_them(
    of_buckets: World, autojump_clock: object
) -> None:
    """The others are asked, and get none."""
    able = {NODES[1].manta_storage_id, NODES[3].manta_storage_id}
    agents = of_buckets.agents
    agents.features = lambda shark: frozenset({"v2"} if shark in able else ())
    assert await of_buckets.run() == {("complete", ""): 20}
    assert {shark for _, shark in agents.copies} <= able


async def test_bucket_objects_without_an_able_agent_stay_and_say_so(
    of_buckets: World, autojump_clock: object
) -> None:
    """The remedy is a newer agent, and then a retry job."""
    of_buckets.agents.features = lambda _shark: frozenset()
    assert await of_buckets.run() == {("skipped", "agent_lacks_v2"): 20}
    assert of_buckets.agents.assignments == {}


async def test_an_agent_that_is_replaced_by_an_older_one_is_given_none(
    of_buckets: World, autojump_clock: object
) -> None:
    """Between the choice and the post: the objects go elsewhere, at the cost of an attempt."""
    agents, old = of_buckets.agents, NODES[1].manta_storage_id
    refused = list[str]()

    def post_answer(shark: str, _assignment: Assignment) -> PostAnswer | None:
        if shark != old:
            return None
        refused.append(shark)
        agents.features = lambda shark: frozenset({"v2"} if shark != old else ())
        return PostAnswer(PostResult.UNABLE, "takes no bucket objects")

    agents.post_answer = post_answer
    assert await of_buckets.run() == {("complete", ""): 20}
    assert refused
    assert old not in {shark for _, shark in agents.copies}


def test_a_task_of_a_bucket_object_says_where_its_copy_goes() -> None:
    """An object of the directory tier with the same id is another one."""
    name = f"{object_id(99)}/{object_id(1)},{'0' * 32}"
    made = [
        to_wire(PlacedTask(one, "account", "md5", NODES[0].shark)) for one in (name, object_id(1))
    ]
    assert [(t.object_id, t.bucket_id, t.object_name_hash) for t in made] == [
        (object_id(1), object_id(99), "0" * 32),
        (object_id(1), None, None),
    ]
    assert [task.copy_name for task in made] == [name, object_id(1)]
