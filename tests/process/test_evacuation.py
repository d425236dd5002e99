"""A whole evacuation by real processes: what becomes of each kind of object, and the counts."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from rebalancer_devregion.audit import audit
from rebalancer_devregion.checks import Audit
from rebalancer_devregion.expectations import EXPECTED, Kind
from rebalancer_devregion.layout import AGENT_PORT, METRICS_PORT, Layout, load
from rebalancer_devregion.region import running
from tests.process.regions import Api, adm, count_rows, json_lines, new_region, shown

pytestmark = pytest.mark.process

OBJECTS = 900


@attrs.frozen
class Evacuated:
    """A region after its job, and what was seen on the way."""

    layout: Layout
    job_file: Path
    view: dict[str, object]
    audit: Audit
    #: (rows before, GET, rows after), while the job ran.
    samples: list[tuple[dict[str, int], dict[str, int], dict[str, int]]]
    #: The operator's commands, while the region ran.
    listed: str
    got: str
    #: What all agents and the manager export at the end.
    metrics: dict[str, str]


@pytest.fixture(scope="module")
def evacuated(tmp_path_factory: pytest.TempPathFactory) -> Evacuated:
    return trio.run(evacuate, tmp_path_factory.mktemp("evacuation"))


async def evacuate(folder: Path) -> Evacuated:
    region = await trio.to_thread.run_sync(new_region, folder, OBJECTS)
    samples = []
    async with running(region), httpx.AsyncClient() as client:
        api = Api(client, region)
        job_id = await api.create()
        job_file = region.job_file(job_id)
        while True:
            before = await trio.to_thread.run_sync(count_rows, job_file)
            view = await api.get(job_id)
            after = await trio.to_thread.run_sync(count_rows, job_file)
            if before == after != shown(view):  # a commit is counted as soon as its thread is back
                await trio.sleep(0.05)
                view = await api.get(job_id)
                after = await trio.to_thread.run_sync(count_rows, job_file)
            samples.append((before, shown(view), after))
            if view["state"] != "Running" and view["state"] != "Setup":
                break
            await trio.sleep(0.05)
        listed = await trio.to_thread.run_sync(lambda: adm("--url", region.url, "job", "list"))
        got = await trio.to_thread.run_sync(lambda: adm("--url", region.url, "job", "get", job_id))
        addresses = {n.manta_storage_id: n.address for n in region.layout.nodes}
        addresses["manager"] = region.layout.manager_address
        metrics = {
            name: (await client.get(f"http://{address}:{METRICS_PORT}/metrics")).text
            for name, address in addresses.items()
        }
        report = await trio.to_thread.run_sync(audit, region.layout, job_file)
        await region.stop()
    assert listed.returncode == got.returncode == 0
    return Evacuated(
        region.layout, job_file, view, report, samples, listed.stdout, got.stdout, metrics
    )


def test_the_job_ends_as_complete(evacuated: Evacuated) -> None:
    assert evacuated.view["state"] == "Complete"
    assert "error" not in evacuated.view
    assert evacuated.view["warnings"] == []


@pytest.mark.row("N33")
@pytest.mark.parametrize("number", range(1, 12))
def test_the_audit_finds_that_an_invariant_holds(evacuated: Evacuated, number: int) -> None:
    (check,) = [check for check in evacuated.audit.checks if check.number == number]
    assert check.offenders == []
    assert check.checked > 0
    assert check.ok


@pytest.mark.row("TEST-EVAC-5")
@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_object_ends_as_it_must(evacuated: Evacuated, kind: Kind) -> None:
    """The row of every seeded object of each kind, by plain SQL."""
    with closing(sqlite3.connect(evacuated.layout.before_file)) as db:
        found = db.execute("SELECT DISTINCT object_id FROM records WHERE kind = ?", (kind,))
        seeded = [object_id for (object_id,) in found if object_id]
    with closing(sqlite3.connect(evacuated.job_file)) as db:
        select = "SELECT status, coalesce(skipped_reason, error, '') FROM evacuateobjects"
        rows = [db.execute(f"{select} WHERE id = ?", (name,)).fetchone() for name in seeded]

    outcome = EXPECTED[kind]
    expected = None if outcome is None else (outcome.status, outcome.reason)
    assert set(rows) == ({expected} if kind is not Kind.DIRECTORY else set())
    assert len(rows) >= 5 or kind is Kind.DIRECTORY


@pytest.mark.row("L19")
@pytest.mark.parametrize("kind", [Kind.SNAPLINK, Kind.DUPLICATE_ACROSS_SHARDS])
def test_every_record_of_an_object_with_two_names_the_new_copy(
    evacuated: Evacuated, kind: Kind
) -> None:
    """One row in evacuateobjects, one in duplicates, and both records rewritten."""
    with closing(sqlite3.connect(evacuated.layout.before_file)) as db:
        records = db.execute(
            "SELECT shard, key, object_id FROM records WHERE kind = ?", (kind,)
        ).fetchall()
    with closing(sqlite3.connect(evacuated.job_file)) as db:
        duplicates = {
            name: json.loads(shards)
            for name, shards in db.execute("SELECT id, shards FROM duplicates")
        }
        destinations = dict(db.execute("SELECT id, dest_shark FROM evacuateobjects"))
    assert len(records) >= 10
    for shard, key, object_id in records:
        with closing(sqlite3.connect(evacuated.layout.shard_file(shard))) as db:
            (text,) = db.execute("SELECT _value FROM manta WHERE _key = ?", (key,)).fetchone()
        names = {entry["manta_storage_id"] for entry in json.loads(text)["sharks"]}
        assert destinations[object_id] in names
        assert evacuated.layout.evacuated not in names
        assert shard in duplicates[object_id]


@pytest.mark.row("IMP-7", "TEST-STATUS-3")
def test_counts_asked_for_on_the_way_are_the_rows(evacuated: Evacuated) -> None:
    """Whenever nothing changed between two SELECTs, the GET between them gave their counts."""
    quiet = [(rows, got) for rows, got, after in evacuated.samples if rows == after]
    on_the_way = [rows for rows, _ in quiet if rows["assigned"] or rows["unprocessed"]]

    assert [(rows, got) for rows, got in quiet if rows != got] == []
    assert len(on_the_way) >= 3
    assert evacuated.samples[-1][1] == count_rows(evacuated.job_file)


def test_the_operator_sees_the_job_as_the_predecessor_showed_it(evacuated: Evacuated) -> None:
    """An empty line, the server's version, then pretty JSON."""
    empty, version, text = evacuated.got.split("\n", 2)
    assert (empty, version.partition(" rebalancer-manager ")[0]) == ("", "server version:")
    view = json.loads(text)
    assert view == evacuated.view
    # Without a terminal keys are in order, as the predecessor printed them.
    assert list(view["results"]) == [
        *("Assigned", "Complete", "Duplicates", "Error", "Post Processing"),
        *("Skipped", "Total", "Unprocessed"),
    ]
    assert 2 * view["results"]["Total"] == sum(view["results"].values())
    assert view["config"]["from_shark"] == {
        "datacenter": "dc1",
        "manta_storage_id": evacuated.layout.evacuated,
    }
    (listed,) = json.loads(evacuated.listed.split("\n", 2)[2])
    shown = {"id": evacuated.job_file.stem, "action": "Evacuate", "state": "Complete"}
    assert listed == {**listed, **shown, "verdict": "not_empty"}


@pytest.mark.row("IMP-3", "L36", "N18")
def test_metrics_add_up_to_what_happened(evacuated: Evacuated) -> None:
    """Both families of the agents, the manager's, and the rows tell of the same objects."""
    from prometheus_client.parser import text_string_to_metric_families

    totals: dict[str, float] = {}
    for name, text in evacuated.metrics.items():
        role = "manager" if name == "manager" else "agent"
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                label = sample.labels.get("type") or sample.labels.get("status") or ""
                key = f"{role} {sample.name} {label}".strip()
                totals[key] = totals.get(key, 0) + sample.value
    rows = count_rows(evacuated.job_file)
    assert totals["manager object_count evacuate"] == rows["complete"]
    done = "agent rebalancer_agent_objects_processed_total"
    assert totals[f"{done} completed"] + totals[f"{done} skipped"] == rows["complete"]
    with closing(sqlite3.connect(evacuated.job_file)) as db:
        # A source that was away for the first time is no attempt, but a failure at its agent.
        (again,) = db.execute(
            "SELECT sum(attempts + ifnull(json_array_length(tried, '$.away'), 0))"
            " FROM evacuateobjects"
        ).fetchone()
    assert again > 0
    assert totals[f"{done} failed"] == rows["skipped"] + again
    assert totals["agent object_count total"] == rows["complete"] + rows["skipped"] + again


def test_logs_are_bunyan_lines(evacuated: Evacuated) -> None:
    """Every line of every program is a record that bunyan reads."""
    logs = [p for p in (evacuated.layout.folder / "log").glob("*.log") if "access" not in p.name]
    assert len(logs) == 2 + len(evacuated.layout.nodes)
    for log in logs:
        lines = json_lines(log)
        assert len(lines) == len(log.read_text().splitlines())
        for line in lines:
            assert {"v", "name", "hostname", "pid", "level", "time", "msg"} <= line.keys()
            assert line["v"] == 0
            assert line["level"] < 50, line
            assert line["time"].endswith("Z")


def test_addresses_are_told_when_requests_are_answered(evacuated: Evacuated) -> None:
    """The `listening` line has both addresses, with the port that was chosen."""
    node = evacuated.layout.nodes[0]
    lines = json_lines(evacuated.layout.folder / "log" / f"agent-{node.manta_storage_id}.log")
    (line,) = [line for line in lines if line["msg"] == "listening"]
    assert line["api"] == f"{node.address}:{AGENT_PORT}"
    assert line["metrics"] == f"{node.address}:{METRICS_PORT}"


# --- the audit itself: each invariant broken once ---------------------------------------------


@attrs.frozen
class Broken:
    """A copy of the region after its job, to be broken."""

    layout: Layout
    job_file: Path

    def moved(self) -> tuple[int, str, dict[str, Any], str]:
        """A record that was moved: shard, key, value, and the new copy's shark."""
        with closing(sqlite3.connect(self.job_file)) as db:
            shard, key, shark = db.execute(
                "SELECT shard, key, dest_shark FROM evacuateobjects WHERE status = 'complete'"
            ).fetchone()
        with closing(sqlite3.connect(self.layout.shard_file(shard))) as db:
            (text,) = db.execute("SELECT _value FROM manta WHERE _key = ?", (key,)).fetchone()
        return shard, key, json.loads(text), shark

    def change_record(self, change: Callable[[dict[str, Any]], None]) -> None:
        shard, key, value, _ = self.moved()
        change(value)
        with closing(sqlite3.connect(self.layout.shard_file(shard))) as db, db:
            text = json.dumps(value)
            db.execute("UPDATE manta SET _value = ? WHERE _key = ?", (text, key))

    def change_file(self, shark: str, value: dict[str, Any], content: bytes | None) -> None:
        path = self.layout.manta_root(shark) / value["owner"] / value["objectId"]
        path.unlink()  # other regions share its bytes
        if content is not None:
            path.write_bytes(content)

    def change_rows(self, statement: str) -> None:
        with closing(sqlite3.connect(self.job_file)) as db, db:
            # Of a change through a view, rowcount does not tell.
            before = db.total_changes
            db.execute(statement)
            assert db.total_changes > before


def corrupt_copy(region: Broken) -> None:
    _, _, value, shark = region.moved()
    region.change_file(shark, value, b"x" * value["contentLength"])


def drop_a_shark(region: Broken) -> None:
    region.change_record(lambda value: value["sharks"].pop())


def move_both_into_one_datacenter(region: Broken) -> None:
    def change(value: dict[str, Any]) -> None:
        for shark in value["sharks"]:
            shark["datacenter"] = "dc1"

    region.change_record(change)


def change_another_field(region: Broken) -> None:
    region.change_record(lambda value: value.update(vnode=-1))


def forget_that_it_was_moved(region: Broken) -> None:
    region.change_rows(
        "UPDATE evacuateobjects SET status = 'skipped' WHERE id ="
        " (SELECT min(id) FROM evacuateobjects WHERE status = 'complete')"
    )


def miscount(region: Broken) -> None:
    region.change_rows("UPDATE counters SET objects = objects + 1 WHERE status = 'complete'")


def leave_an_assignment_open(region: Broken) -> None:
    region.change_rows("UPDATE assignments SET state = 'assigned' WHERE rowid = 1")


def leave_a_temporary_file(region: Broken) -> None:
    shark = region.layout.nodes[2].manta_storage_id
    (region.layout.manta_root(shark) / "rebalancer" / "left").write_text("")


def write_a_foreign_file(region: Broken) -> None:
    shark = region.layout.nodes[2].manta_storage_id
    (region.layout.manta_root(shark) / "foreign").write_text("")


def delete_the_old_copy(region: Broken) -> None:
    _, _, value, _ = region.moved()
    region.change_file(region.layout.evacuated, value, None)


def forget_what_remains(region: Broken) -> None:
    region.change_rows("DELETE FROM remaining WHERE why = 'duplicate_shark'")


def list_what_was_moved(region: Broken) -> None:
    region.change_rows(
        "INSERT INTO remaining SELECT shard, key, id, '' FROM evacuateobjects"
        " WHERE status = 'complete' LIMIT 1"
    )


BREAKS = [
    (1, corrupt_copy),
    (2, drop_a_shark),
    (3, move_both_into_one_datacenter),
    (4, change_another_field),
    (5, forget_that_it_was_moved),
    (6, miscount),
    (7, leave_an_assignment_open),
    (8, leave_a_temporary_file),
    (9, write_a_foreign_file),
    (10, delete_the_old_copy),
    (11, forget_what_remains),
    (11, list_what_was_moved),
]


def link_or_copy(source: str, target: str) -> None:
    if ".sqlite" in source:
        shutil.copy(source, target)
    else:
        os.link(source, target)


@pytest.mark.parametrize(("number", "break_it"), BREAKS)
def test_the_audit_sees_that_an_invariant_is_broken(
    evacuated: Evacuated, tmp_path: Path, number: int, break_it: Callable[[Broken], None]
) -> None:
    """One thing wrong in one place, and the check fails, with the offender shown."""
    folder = tmp_path / "region"
    shutil.copytree(evacuated.layout.folder, folder, copy_function=link_or_copy)
    region = Broken(load(folder), folder / "manager" / evacuated.job_file.name)
    break_it(region)
    checks = {check.number: check for check in audit(region.layout, region.job_file).checks}

    assert not checks[number].ok
    assert checks[number].offenders
