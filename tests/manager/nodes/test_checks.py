"""Checks of nodes through the manager's API and the operator's command, on a real shard."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.adm import following
from rebalancer.adm.client import AdmError
from rebalancer.domain.objects import StorageNode
from rebalancer.errors import BadRequest, Conflict
from rebalancer.manager.nodes import checks, scan
from tests.adm.test_commands import operator
from tests.manager.http.test_api import Rig, open_rig, refusing_agents
from tests.manager.http.test_openapi import shown, valid
from tests.manager.jobs.test_control import ask

#: A place where nothing listens.
NOWHERE = "127.0.0.1:1"


async def lines_of(rig: Rig, path: str) -> list[Any]:
    """The lines of a check, each as the description says."""
    reply = await rig.client.get(path)
    text = await reply.get_data(as_text=True)
    assert reply.status_code == 200, text
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(valid(line, shown("NodeCheckLine")) for line in lines)
    return lines


def answering(nodes: Sequence[StorageNode]) -> Callable[[], Awaitable[Sequence[StorageNode]]]:
    """A storinfo that lists these nodes."""

    async def ask() -> Sequence[StorageNode]:
        await trio.lowlevel.checkpoint()
        return nodes

    return ask


def lose_the_shard(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shard be away for longer than a check waits."""
    monkeypatch.setattr(scan, "PATIENCE_S", 0.0)
    config = rig.jobs.resources.config
    hosts = {name: NOWHERE for name in config.hosts}
    rig.jobs.resources.config = attrs.evolve(config, hosts=hosts)


async def test_a_node_is_checked_without_a_job(tmp_path: Path) -> None:
    """What names it, of which kind and where; a node that nothing names may go."""
    async with open_rig(tmp_path, objects=12) as rig:
        (*_, result) = await lines_of(rig, "/nodes/1.stor/check")
        (*_, few) = await lines_of(rig, "/nodes/1.stor.lab/check?first=2")
        (*_, empty) = await lines_of(rig, "/nodes/20.stor/check")
        (*_, listed) = await lines_of(rig, "/nodes/20.stor/check")
        assert await (await rig.client.get("/jobs")).get_json() == []

    kinds = {one["kind"]: (one["count"], one["shards"]) for one in result["kinds"]}
    assert kinds == {
        "object": (12, [{"tier": "directory", "shard": 1, "count": 12}]),
        "unusable_record": (0, []),
        "upload_in_progress": (0, []),
        "bucket_object": (None, []),
    }
    assert result["line"] == "safe to remove: no, because of: 12 objects"
    assert len(result["sample"]) == 10
    assert [one["cause"] for one in few["causes"]] == ["object", "stopped_early"]
    assert few["causes"][0]["count"] == 2
    assert (empty["safe_to_remove"], empty["causes"]) == ("yes", [])
    assert listed == empty


async def copying_to(rig: Rig, node: str) -> Path:
    """The file of a paused job, by which an agent has made copies on a node, or makes them."""
    job_id = await rig.create()
    await rig.at_work(job_id)
    await ask(rig, "PUT", f"/jobs/{job_id}", {"action": "pause"})
    file = rig.folder / "db" / f"{job_id}.sqlite"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute(
            "INSERT INTO assignments (id, dest_shark, dest_datacenter, state, tasks, bytes)"
            " VALUES ('a', ?, 'dc1', 'agent_complete', 1, 1)",
            (node,),
        )
    return file


async def test_a_node_is_not_safe_that_a_paused_job_has_copies_on(tmp_path: Path) -> None:
    """Its records name the node when the job goes on; of a file that is lost nobody knows."""
    async with open_rig(tmp_path, objects=3) as rig:
        file = await copying_to(rig, "20.stor.lab")
        (*_, result) = await lines_of(rig, "/nodes/20.stor/check")
        (*_, other) = await lines_of(rig, "/nodes/21.stor/check")
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("UPDATE assignments SET state = 'post_processed'")
            db.execute("INSERT INTO records (number, id, shard, key) VALUES (99, 'one', 1, 'gone')")
            db.execute(
                "INSERT INTO progress (number, status, bytes, outcome, assignment)"
                " SELECT 99, 'skipped', 1, 'deleted', number FROM assignments WHERE id = 'a'"
            )
            db.execute(
                "INSERT INTO links (shard, key, id, object, etag) VALUES (1, 'link', 'one', '', '')"
            )
        (*_, link) = await lines_of(rig, "/nodes/20.stor/check")
        file.write_bytes(b"no file of a job")
        (*_, lost) = await lines_of(rig, "/nodes/20.stor/check")

    assert (result["safe_to_remove"], result["causes"][0]["cause"]) == ("no", "copies_under_way")
    assert result["causes"][0]["count"] == 1
    assert link["causes"] == result["causes"]
    assert other["safe_to_remove"] == "yes"
    assert lost["safe_to_remove"] == "unknown"
    assert lost["causes"][0]["cause"] == f"job_{file.stem}_not_read"


async def test_what_ends_while_a_node_is_checked_speaks_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that name the node since may lie where the scan has been."""
    async with open_rig(tmp_path, objects=3) as rig:
        file, storinfo = await copying_to(rig, "20.stor.lab"), rig.jobs.resources.node_list
        taking = StorageNode("21.stor.lab", "dc1", 100_000, 10)
        scan_all = scan.NodeScan.run

        async def end_meanwhile(its: scan.NodeScan) -> None:
            await scan_all(its)
            monkeypatch.setattr(storinfo, "_ask", answering([StorageNode("2", "dc1", 1, 1)]))
            with closing(sqlite3.connect(file)) as db, db:
                db.execute("UPDATE assignments SET state = 'post_processed'")

        monkeypatch.setattr(scan.NodeScan, "run", end_meanwhile)
        monkeypatch.setattr(storinfo, "_ask", answering([taking]))
        (*_, copied) = await lines_of(rig, "/nodes/20.stor/check")
        monkeypatch.setattr(storinfo, "_ask", answering([taking]))
        (*_, listed) = await lines_of(rig, "/nodes/21.stor/check")
        (*_, after) = await lines_of(rig, "/nodes/20.stor/check")

    assert [one["cause"] for one in copied["causes"]] == ["copies_under_way"]
    assert [one["cause"] for one in listed["causes"]] == ["takes_new_objects"]
    assert after["safe_to_remove"] == "yes"


async def test_a_shard_that_is_away_leaves_the_answer_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is named, as is the look-up of the node that came to nothing."""
    async with open_rig(tmp_path) as rig:
        lose_the_shard(rig, monkeypatch)
        (*_, result) = await lines_of(rig, "/nodes/20.stor/check")

    assert result["safe_to_remove"] == "unknown"
    assert [one["cause"] for one in result["causes"]] == [
        "shard_1_not_scanned",
        "node_not_looked_up",
    ]


async def test_a_check_that_the_manager_cannot_finish_proves_nothing(tmp_path: Path) -> None:
    """Its task was cancelled with the manager: the shards that it had yet to scan are named."""
    async with open_rig(tmp_path) as rig:
        lines = await rig.jobs.checks.begin("20.stor", None)
        assert rig.jobs.followed._nursery is not None
        rig.jobs.followed._nursery.cancel_scope.cancel()
        result = json.loads([line async for line in lines][-1])

    assert result["safe_to_remove"] == "unknown"
    assert result["causes"][0]["advice"] == "its scan was cut short"


def endless_scan() -> tuple[Callable[[scan.NodeScan], Awaitable[None]], trio.Event]:
    """What a scan may do in place of its end, and the event that it was cancelled."""
    ended = trio.Event()

    async def run(_scan: scan.NodeScan) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    return run, ended


async def test_a_check_ends_with_its_client_and_is_the_only_one_of_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress is told while a shard takes its time; another node can be checked meanwhile."""
    monkeypatch.setattr(checks, "PROGRESS_S", 0.01)
    slow, ended = endless_scan()
    async with open_rig(tmp_path, objects=3) as rig:
        begin = rig.jobs.checks.begin
        with monkeypatch.context() as patched:
            patched.setattr(scan.NodeScan, "run", slow)
            lines = await begin("1.stor", None)
            progress = json.loads(await anext(lines))
        with pytest.raises(Conflict, match="another check of 1.stor.lab is under way"):
            await begin("1.stor.lab", None)
        (*_, other) = await lines_of(rig, "/nodes/20.stor/check")
        await lines.aclose()
        with trio.fail_after(5):
            await ended.wait()
        (*_, again) = await lines_of(rig, "/nodes/1.stor/check")
        for name in ("77.stor", "a b", "1.stor:80"):
            with pytest.raises(BadRequest, match=name):
                await begin(name, None)

    assert valid(progress, shown("NodeCheckLine"))
    assert (progress["type"], progress["shards"], progress["found"]) == ("progress", 1, 0)
    assert (other["safe_to_remove"], again["safe_to_remove"]) == ("yes", "no")


async def test_the_second_check_of_one_moment_is_answered(tmp_path: Path) -> None:
    """Both were begun before either had claimed the node: one of them has looked at nothing."""
    async with open_rig(tmp_path) as rig:
        first, second = [await rig.jobs.checks.begin("20.stor", None) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            answers = list[Any]()

            async def read(lines: Any) -> None:
                answers.append(json.loads([line async for line in lines][-1]))

            nursery.start_soon(read, first)
            nursery.start_soon(read, second)
        (*_, later) = await lines_of(rig, "/nodes/20.stor/check")

    assert sorted(one["safe_to_remove"] for one in answers) == ["unknown", "yes"]
    (refused,) = [one for one in answers if one["safe_to_remove"] == "unknown"]
    assert refused["causes"][0]["advice"] == "another check of 20.stor.lab is under way"
    assert later["safe_to_remove"] == "yes"


async def test_a_check_ends_when_its_client_hangs_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a socket: by the next line that cannot be sent."""
    monkeypatch.setattr(checks, "PROGRESS_S", 0.01)
    slow, ended = endless_scan()
    monkeypatch.setattr(scan.NodeScan, "run", slow)
    async with operator(tmp_path) as run:
        host, _, port = run.url.removeprefix("http://").partition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET /nodes/1.stor/check HTTP/1.1\r\nHost: manager\r\n\r\n")
        answer = b""
        while b'"progress"' not in answer:
            answer += await stream.receive_some(65536)
        assert run.rig.jobs.checks._under_way == {"1.stor.lab"}
        await stream.aclose()
        with trio.fail_after(5):
            await ended.wait()
            while run.rig.jobs.checks._under_way:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_the_operator_reads_the_answer_in_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 only for yes; what is left, the command that acts on it, and a job that is at it."""
    async with operator(tmp_path, objects=3) as run:
        full = await run("node", "check", "1.stor")
        job_id = await run.rig.create()
        beside = await run("node", "check", "1.stor", "--json")
        empty = await run("node", "check", "20.stor")
        refused = await run.refused("node", "check", "77.stor")
        taking = StorageNode("20.stor.lab", "dc1", 100_000, 10)
        storinfo = run.rig.jobs.resources.node_list
        monkeypatch.setattr(storinfo, "_ask", answering([taking]))
        listed = await run("node", "check", "20.stor")
        lose_the_shard(run.rig, monkeypatch)
        unknown = await run("node", "check", "21.stor", "--first", "5")

    assert [one.exit_code for one in (full, beside, empty, listed, unknown)] == [3, 3, 0, 3, 4]
    assert "object: 3 (shard 1: 3)" in full.stdout
    assert "  shard 1  /account/stor/1" in full.stdout
    assert "bucket object: not looked at" in full.stdout
    assert "rebalancer adm job create evacuate --shark 1.stor.lab" in full.stdout
    result = json.loads(beside.stdout.splitlines()[-1])
    assert result["jobs"] == [job_id]
    assert result["causes"][0]["command"] == f"rebalancer adm job watch {job_id}"
    assert result["causes"][0]["advice"] == "records name the node; a job moves their objects"
    assert empty.stdout.splitlines()[-1] == (
        "safe to remove: yes, because no record names 20.stor.lab;"
        " bucket objects were not looked at"
    )
    assert "SharkNotFound: 77.stor.lab" in refused


async def test_objects_that_a_job_has_left_lead_to_its_verdict(tmp_path: Path) -> None:
    """Another evacuation would leave them as well; a job for another node says nothing of them."""
    async with open_rig(tmp_path, objects=3, agents=refusing_agents()) as rig:
        other = await rig.create(from_shark="20.stor")
        await rig.reach(other, "Complete")
        (*_, before) = await lines_of(rig, "/nodes/1.stor/check")
        job_id = await rig.create()
        await rig.reach(job_id, "Complete")
        (*_, after) = await lines_of(rig, "/nodes/1.stor/check")

    commands = [one["causes"][0]["command"] for one in (before, after)]
    assert commands == [
        "rebalancer adm job create evacuate --shark 1.stor.lab",
        f"rebalancer adm job get {job_id}",
    ]


async def test_a_check_shows_that_it_asks_before_there_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager looks the node up first, which takes a while where a shard hangs."""
    asked = list[str]()

    @contextmanager
    def showing(begin: str) -> Iterator[following.Show]:
        asked.append(begin)
        yield lambda _words, _share: None

    monkeypatch.setattr("rebalancer.adm.node.showing", showing)
    async with operator(tmp_path) as run:
        assert "SharkNotFound" in await run.refused("node", "check", "77.stor")

    assert asked == ["asking the manager about 77.stor: Ctrl-C ends it"]


async def test_a_check_that_breaks_off_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its lines said so far."""
    async with operator(tmp_path) as run:

        async def begin(_checks: Any, _name: str, _first: int | None) -> Any:
            async def lines() -> Any:
                yield b'{"type": "progress", "node": "1.stor", "scanned": 1, "shards_done": 1,'
                yield b' "shards": 1, "found": 0}\n{"type": "res'

            return lines()

        monkeypatch.setattr(checks.NodeChecks, "begin", begin)
        monkeypatch.setattr(following, "LINE_S", 0.0)
        broken = await run("node", "check", "1.stor")

    assert isinstance(broken.exception, AdmError)
    assert broken.exception.exit_code == 4
    assert str(broken.exception).endswith("its last line has no end")
    assert "1.stor: 100% scanned, 1 of 1 shards done, 0 found" in broken.stderr
