"""Jobs of a Rust manager, on a real PostgreSQL: listed, imported as ended jobs, never changed."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.errors import Unavailable
from rebalancer.manager.jobs.index import JobIndex
from rebalancer.manager.store import job_file
from rebalancer.peers import predecessor
from rebalancer_devregion import postgres
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.logs import capture_logs
from tests.manager.http.test_api import Rig, open_rig
from tests.manager.world import object_id, record
from tests.rust import dsn, list_job, make_job, make_manager

JOB = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
SECRET = "kept-to-itself"
ASSIGNMENT = "9d8d4ee5-2a9c-4b3d-8f36-0d3b8a3a0a11"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        yield made


@pytest.fixture
def cluster(server: Cluster) -> Cluster:
    make_manager(server)
    return server


def row(number: int, status: str, **more: Any) -> dict[str, Any]:
    made = {"id": object_id(number), "object": record(number), "shard": 1, "etag": "0123ABCD"}
    return {**made, "status": status, **more}


#: A job as the Rust manager leaves one: a row in each status.
ROWS = [
    row(1, "complete", assignment_id=ASSIGNMENT, dest_shark="3.stor.lab"),
    row(2, "assigned", assignment_id=ASSIGNMENT, dest_shark="3.stor.lab"),
    row(3, "post_processing", assignment_id=ASSIGNMENT, dest_shark="3.stor.lab"),
    row(4, "skipped", skipped_reason="destination_unreachable"),
    row(5, "skipped", skipped_reason="{http_status_code:404}"),
    row(6, "error", error="missing_sharks"),
    row(7, "error", error="bad_moray_object", object=None, shard=None),
    row(8, "unprocessed"),
]


async def post(rig: Rig, path: str, **body: Any) -> tuple[int, Any]:
    reply = await rig.client.post(path, json=body)
    text = await reply.get_data(as_text=True)
    return reply.status_code, json.loads(text) if reply.status_code == 200 else text


async def report(rig: Rig, job_id: str) -> list[dict[str, Any]]:
    text = await (await rig.client.get(f"/jobs/{job_id}/report")).get_data(as_text=True)
    return [json.loads(line) for line in text.splitlines()]


def content(cluster: Cluster, *names: str) -> list[Any]:
    """All rows of databases, and the numbers of what was ever written there."""
    found: list[Any] = []
    for name in names:
        with closing(cluster.connect(name)) as db:
            tables = db.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            ).fetchall()
            for (table,) in sorted(tables):
                found.append(db.execute(f"SELECT xmin::text, * FROM {table}".encode()).fetchall())
    return found


async def test_a_job_is_listed_and_imported_as_it_stood(tmp_path: Path, cluster: Cluster) -> None:
    """Every row in its status; the verdict, the warning and the report say where it comes from."""
    make_job(cluster, JOB, "complete", ROWS, [(object_id(1), "/account/stor/link", [1, 2, 1])])
    before = content(cluster, "rebalancer", JOB)
    async with open_rig(tmp_path) as rig:
        listed = await post(rig, "/imports/list", dsn=dsn(cluster))
        made = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB.upper())
        again = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)
        relisted = await post(rig, "/imports/list", dsn=dsn(cluster))
        view = await rig.get(JOB)
        (of_list,) = await (await rig.client.get("/jobs")).get_json()
        objects = (await (await rig.client.get(f"/jobs/{JOB}/objects")).get_json())["objects"]
        lines = await report(rig, JOB)

    counts = {
        **dict.fromkeys(("complete", "assigned", "post_processing", "unprocessed"), 1),
        "skipped": 2,
        "error": 2,
    }
    assert listed[0] == 200
    assert listed[1] == [
        {"id": JOB, "action": "evacuate", "state": "complete", "node": "1.stor.lab",
         "objects": counts, "duplicates": 1, "problem": None, "imported": []}
    ]  # fmt: skip
    assert made == (200, {"id": JOB, "imported_from": JOB, "objects": 8, "odd": 1})
    assert again == (409, f"Job {JOB} is imported already, as {JOB}")
    assert relisted[1][0]["imported"] == [JOB]
    assert (view["state"], "error" in view, of_list["id"]) == ("Complete", False, JOB)
    assert view["results"] == {
        **{status.replace("_", " ").title(): count for status, count in counts.items()},
        "Total": 9,
        "Duplicates": 1,
    }
    assert view["config"]["from_shark"] == {"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}
    (warning,) = view["warnings"]
    assert warning["check"] == "imported"
    assert "recorded it as complete" in warning["detail"]
    assert view["verdict"]["verdict"] == of_list["verdict"] == "not_empty"
    assert "by a Rust manager, 1 of 8 objects moved" in view["verdict"]["line"]
    by_id = {one["id"]: one for one in objects}
    assert by_id[object_id(5)]["reason"] == "{http_status_code:404}"
    assert by_id[object_id(2)]["detail"] == f"in assignment {ASSIGNMENT} of the Rust manager"
    assert by_id[object_id(7)]["key"] is None
    assert "cannot be used" in by_id[object_id(7)]["detail"]
    links = [(one["shard"], one["key"]) for one in lines if one["type"] == "link"]
    assert links == [(1, "/account/stor/link"), (2, "/account/stor/link")]
    assert content(cluster, "rebalancer", JOB) == before
    assert [path.name for path in (tmp_path / "db").glob("plan-*")] == []


async def test_a_job_that_was_not_completed_has_failed(tmp_path: Path, cluster: Cluster) -> None:
    """Whatever its state was; a retry takes its list alone, because its limit is not known."""
    told = {
        "failed": "recorded this job as failed",
        "running": "had not ended this job, which was running",
        "moulting": "which was moulting",
    }
    with closing(cluster.connect("rebalancer")) as db:
        db.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_state_check")
    for number, state in enumerate(told, 1):
        made = [row(number, "assigned", dest_shark="3.stor.lab")]
        make_job(cluster, object_id(number), state, made)
    async with open_rig(tmp_path, objects=5) as rig:
        for number, shown in enumerate(told.values(), 1):
            job_id = object_id(number)
            assert (await post(rig, "/imports", dsn=dsn(cluster), job_id=job_id))[0] == 200
            view = await rig.get(job_id)
            assert (view["state"], view["verdict"]["verdict"]) == ("Failed", "not_done")
            assert shown in view["error"]
        reply = await rig.client.post(f"/jobs/{object_id(2)}/retry")
        retry = (await reply.get_data(as_text=True)).strip()
        with trio.fail_after(20):
            while not (await rig.get(retry))["results"]["Total"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
        known = {one["id"] for one in await report(rig, retry) if one["type"] == "object"}

    assert known == {object_id(2)}


async def test_odd_rows_are_imported_as_such(tmp_path: Path, cluster: Cluster) -> None:
    """Words that nobody knows, JSON that is none, nothing at all: kept in words, and retried."""
    rows = [
        row(1, "floating"),
        row(2, "skipped", skipped_reason="solar_flare"),
        row(3, "skipped"),
        row(4, "error", error="moray_update_failed:etag"),
        row(5, "error", error="missing_sharks", object="{", dest_shark="3.stor.lab"),
        row(6, "assigned", object='"text"', dest_shark="3.stor.lab"),
        row(7, "complete", object={"key": "/k", "contentLength": "x"}),
        row(8, "skipped", skipped_reason="network_error", object={"key": 5}),
        {**row(9, ""), "status": None},
        row(10, "skipped", skipped_reason="deleted"),
        row(11, "assigned", object='{"key": "/\\ud800"}'),  # half of a character
        row(12, "unprocessed", shard=-1),
        row(13, "complete", object={"key": "/large", "contentLength": 1e300}),
        row(14, "complete", object={"key": "/large", "contentLength": 2**63 - 1}),
    ]
    twins = [("x", None, None), ("y", "/y", [1, None, 1]), ("z", "/z", None), ("v", "/v", [-1])]
    make_job(cluster, JOB, "complete", rows, twins, checks=False, json_type="TEXT")
    async with open_rig(tmp_path) as rig:
        made = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)
        lines = await report(rig, JOB)
        view = await rig.get(JOB)
        retried = await rig.client.post(f"/jobs/{JOB}/retry")
        retry = (await retried.get_data(as_text=True)).strip()
        ended = await rig.reach(retry, "Complete", "Failed")
        dropped = {one["key"] for one in await report(rig, retry) if one["type"] == "dropped"}

    assert made == (200, {"id": JOB, "imported_from": JOB, "objects": 14, "odd": 17})
    found = {
        one["id"]: (one["status"], one["reason"], one["detail"])
        for one in lines
        if one["type"] == "object"
    }
    unknown = "unknown_reason"
    assert found[object_id(1)] == ("skipped", unknown, "its status was floating")
    assert found[object_id(2)] == ("skipped", unknown, "its reason was solar_flare")
    assert found[object_id(3)] == ("skipped", unknown, "it has no reason")
    assert found[object_id(4)] == ("error", unknown, "its reason was moray_update_failed:etag")
    assert found[object_id(9)] == ("skipped", unknown, "its status was None")
    # A word of ours that would end the object for good.
    assert found[object_id(10)] == ("skipped", unknown, "its reason was deleted")
    assert all("its record cannot be used" in found[object_id(n)][2] for n in (5, 6, 7, 8))
    assert view["results"]["Total"] == 18, view["results"]
    assert found[object_id(12)] == ("unprocessed", None, "its shard was -1")
    # None of them is in the region, and each is looked for; one without a key by its id.
    assert ended["state"] == "Complete", ended
    known = {"/account/stor/1", "/account/stor/12", "/y", "/z", "/v"}
    assert known | {object_id(n) for n in (5, 6, 8, 11)} <= dropped


async def test_it_is_imported_again_on_demand_only(tmp_path: Path, cluster: Cluster) -> None:
    """Under another id, beside the first; under its own once that is removed."""
    make_job(cluster, JOB, "complete", ROWS[:1])
    async with open_rig(tmp_path) as rig:
        await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)
        first = await rig.get(JOB)
        _, made = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB, again=True)
        assert made["id"] != JOB
        _, (listed,) = await post(rig, "/imports/list", dsn=dsn(cluster))
        for job_id in (JOB, made["id"]):
            await rig.client.delete(f"/jobs/{job_id}")
        with closing(cluster.connect(JOB)) as db:
            db.execute("UPDATE evacuateobjects SET status = 'assigned'")
        await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)
        anew = await rig.get(JOB)
        (of_list,) = await (await rig.client.get("/jobs")).get_json()

    assert listed["imported"] == [JOB, made["id"]]
    assert [one["verdict"]["verdict"] for one in (first, anew)] == ["partial", "not_empty"]
    assert of_list["verdict"] == "not_empty"
    assert "a Rust manager did the job" in str(first["verdict"]["causes"])


async def test_what_cannot_be_imported_is_listed_with_its_problem(
    tmp_path: Path, cluster: Cluster
) -> None:
    """No database, no tables, no node, another action, no UUID: and importing changes nothing."""
    names = [f"00000000-0000-1000-8000-{number:012d}" for number in range(5)]
    list_job(cluster, names[0], "setup")
    make_job(cluster, names[1], "failed")
    with closing(cluster.connect(names[1])) as db:
        db.execute("DROP TABLE evacuateobjects")
    make_job(cluster, names[2], "failed", node={"datacenter": "", "manta_storage_id": "a/b"})
    list_job(cluster, names[3], "init", "none")
    list_job(cluster, "postgres", "running")
    make_job(cluster, names[4], "running", ROWS)
    async with open_rig(tmp_path) as rig:
        with closing(cluster.connect(names[4])):
            _, listed = await post(rig, "/imports/list", dsn=dsn(cluster))
            refused = [
                await post(rig, "/imports", dsn=dsn(cluster), job_id=name)
                for name in (*names, object_id(99))
            ]
        jobs = await (await rig.client.get("/jobs")).get_json()

    problems = {one["id"]: one["problem"] for one in listed}
    for name, text in (
        (names[0], "does not exist"),
        (names[1], '"evacuateobjects" does not exist'),
        (names[2], "does not say which node"),
        (names[3], "nothing is known of the action none"),
        (names[4], "stop the Rust manager first"),
        ("postgres", "its id is no UUID"),
    ):
        assert text in problems[name]
    assert [status for status, _ in refused] == [400, 400, 400, 400, 409, 400]
    assert jobs == []
    assert sorted(path.name for path in (tmp_path / "db").iterdir() if path.is_dir()) == []
    assert [path.name for path in (tmp_path / "db").glob("0*")] == []


async def test_a_database_that_goes_meanwhile_leaves_nothing(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped by force between two batches: an error that says so, and the next import is whole."""
    make_job(cluster, JOB, "complete", ROWS)
    monkeypatch.setattr(predecessor, "BATCH", 3)
    batches, whole = 0, predecessor.read_objects

    async def cut(database: Any) -> Any:
        nonlocal batches
        async for rows in whole(database):
            batches += 1
            assert len(rows) <= 3  # however many there are, so many are in memory
            yield rows
            if batches == 1:
                with closing(cluster.connect("postgres")) as db:
                    db.execute(f'DROP DATABASE "{JOB}" WITH (FORCE)'.encode())

    async with open_rig(tmp_path) as rig:
        monkeypatch.setattr(predecessor, "read_objects", cut)
        status, text = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)
        assert (await (await rig.client.get("/jobs")).get_json()) == []
        assert list((tmp_path / "db").glob("plan-*")) == []
        make_manager(cluster)
        make_job(cluster, JOB, "complete", ROWS)
        assert (await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB))[1]["objects"] == 8

    assert status in (400, 503)
    assert f"database {JOB}" in text
    assert batches == 4


async def test_a_disk_that_does_not_take_it_leaves_nothing(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still in sqlite's log when the file is closed would be lost by moving the file."""
    make_job(cluster, JOB, "complete", ROWS)
    async with open_rig(tmp_path) as rig:
        whole = job_file.adopt

        def adopt(source: Path, path: Path) -> None:
            source.with_name(f"{source.name}-wal").touch()
            whole(source, path)

        with monkeypatch.context() as patch:
            patch.setattr(job_file, "adopt", adopt)
            status, text = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)
        jobs = await (await rig.client.get("/jobs")).get_json()
        left = [path.name for path in (tmp_path / "db").iterdir() if "rebalancer" not in path.name]
        made = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)

    assert (status, jobs, left) == (500, [], [])
    assert "is the disk full?" in text
    assert made[1]["objects"] == len(ROWS)


async def test_a_list_that_does_not_take_it_leaves_nothing(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there before the row; without it no later import would need another id."""
    make_job(cluster, JOB, "complete", ROWS)

    async def refuse(*_: object) -> None:
        raise Unavailable("others are writing")

    async with open_rig(tmp_path) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(JobIndex, "_write", refuse)
            status, _ = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)
            move = {"action": "evacuate", "params": {"from_shark": "1.stor.lab"}}
            refused, _ = await post(rig, "/jobs", **move)
        left = [path.name for path in (tmp_path / "db").iterdir() if "rebalancer" not in path.name]
        made = await post(rig, "/imports", dsn=dsn(cluster), job_id=JOB)

    assert (status, refused, left) == (503, 503, [])
    assert made[1]["id"] == JOB


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"postgres://x:{SECRET}@/?oops=1", "dsn: expected a connection string"),
        (f"password={SECRET} secret {SECRET}", "dsn: expected a connection string"),
        (f"passfile=/etc/{SECRET}", "got passfile"),
        (f"service={SECRET}", "got service"),
        (f"options='-c {SECRET}'", "got options"),
        (f"postgres://x:{SECRET}@127.0.0.1:1/", "database rebalancer at 127.0.0.1:1"),
    ],
)
async def test_a_password_is_in_no_answer_and_no_log(tmp_path: Path, text: str, told: str) -> None:
    """Whatever is wrong with the string, or with the server."""
    async with open_rig(tmp_path) as rig:
        with capture_logs() as lines:
            status, answer = await post(rig, "/imports/list", dsn=text)

    assert status in (400, 503)
    assert told in answer
    assert SECRET not in answer
    assert SECRET not in str(lines)
