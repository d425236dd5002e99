"""The agent's API in both dialects, on a real store and real files."""

import json
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.agent import api, worker
from rebalancer.agent.state.posted import Posted, read_posted
from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.config import AgentConfig
from rebalancer.metrics import metrics_app
from rebalancer.threads import THREADS, Work
from tests.agent.scripted import Rig, open_rig
from tests.sources import ASSIGNMENT, Answer, ok, task, uuid
from tests.web import Client

A = b"first object"
REFUSED = Answer(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")


def answer(_request: int, path: str) -> Answer:
    return REFUSED if path.endswith("9") else Answer(ok(A))


def busy(_request: int, _path: str) -> Answer:
    return Answer(b"", hang=True)


def with_dialect(dialect: str) -> Any:
    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, api=attrs.evolve(config.api, dialect=dialect))

    return change


PENDING = {"legacy": "Pending", "tagged": {"state": "Pending"}}
FAILED = {
    "legacy": {"Failed": {"HTTPStatusCode": 404}},
    "tagged": {"state": "Failed", "reason": {"type": "HTTPStatusCode", "status_code": 404}},
}


@pytest.mark.row("N26", "DEF-15")
@pytest.mark.parametrize(
    ("posted", "configured", "answered"),
    [
        ("legacy", "auto", "legacy"),
        ("tagged", "auto", "tagged"),
        ("legacy", "tagged", "tagged"),
        ("tagged", "legacy", "legacy"),
    ],
)
async def test_answers_are_in_the_dialect_of_the_request(
    tmp_path: Path, posted: str, configured: str, answered: str
) -> None:
    """Unless the configuration says otherwise; remembered over a restart by its file."""
    tasks = [task(number, A, status=PENDING[posted]) for number in (1, 9)]
    async with open_rig(tmp_path, answer, change=with_dialect(configured)) as rig:
        assert (await rig.post(tasks)).status_code == 200
        failed = await rig.finish()
        reply = await rig.client.get(f"/assignments/{ASSIGNMENT}")

    assert [told["status"] for told in failed] == [FAILED[answered]]
    assert await reply.get_json() == {
        "uuid": ASSIGNMENT,
        "stats": {"state": {"Complete": failed}, "failed": 1, "complete": 2, "total": 2},
    }
    assert failed[0] == {**task(9, A), "status": FAILED[answered]}


async def test_the_array_of_old_documentation_is_taken(tmp_path: Path) -> None:
    """[id, tasks], without a status."""
    async with open_rig(tmp_path, answer) as rig:
        reply = await rig.client.post("/assignments", json=[ASSIGNMENT, [task(1, A)]])
        assert (reply.status_code, await reply.get_json()) == (200, ASSIGNMENT)
        assert reply.content_type == "application/json"
        assert await rig.finish() == []


@pytest.mark.parametrize("status", ["Complete", {"state": "Complete"}, {"Failed": "Foo"}])
async def test_a_posted_status_is_not_believed(tmp_path: Path, status: Any) -> None:
    """Every object is fetched before it is reported as there; no foreign reason is stored."""
    async with open_rig(tmp_path, busy) as rig:
        await rig.post([task(1, A, status=status)])
        await started(rig, 1)
        assert (await rig.stats())["complete"] == 0
        with closing(sqlite3.connect(tmp_path / "state" / "scheduled" / ASSIGNMENT)) as db:
            assert db.execute("SELECT status FROM tasks").fetchall() == [(b'"Pending"',)]
    async with open_rig(tmp_path, answer) as rig:
        assert await rig.finish() == []
        assert [path[-1] for path in rig.source.paths] == ["1"]
        assert rig.path(1).read_bytes() == A


async def started(rig: Rig, requests: int) -> None:
    with trio.fail_after(10):
        while len(rig.source.paths) < requests:  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.row("TEST-AGENT-5", "TEST-AGENT-6")
async def test_an_assignment_goes_through_its_states(tmp_path: Path) -> None:
    """Running, Scheduled behind it; neither can be deleted; the same id is a conflict."""
    async with open_rig(tmp_path, busy) as rig:
        await rig.post([task(1, A), task(2, A)])
        await rig.post([task(3, A)], uuid(70))
        await started(rig, 1)
        first, second = await rig.stats(), await rig.stats(uuid(70))
        again = await rig.post([task(4, A)])
        deleted = [await rig.client.delete(f"/assignments/{n}") for n in (ASSIGNMENT, uuid(70))]
        listed = await (await rig.client.get("/assignments")).get_json()

    assert first == {"state": "Running", "failed": 0, "complete": 0, "total": 2}
    assert second == {"state": "Scheduled", "failed": 0, "complete": 0, "total": 1}
    assert again.status_code == 409
    assert [reply.status_code for reply in deleted] == [403, 403]
    assert [(one["uuid"], one["state"], one["total"]) for one in listed] == [
        (uuid(70), "Scheduled", 1),
        (ASSIGNMENT, "Running", 2),
    ]


@pytest.mark.row("TEST-AGENT-6")
async def test_a_completed_assignment_is_deleted_once(tmp_path: Path) -> None:
    """200 and an empty body, then 404; the object stays."""
    async with open_rig(tmp_path, answer) as rig:
        await rig.outcome(task(1, A))
        replies = [await rig.client.delete(f"/assignments/{ASSIGNMENT.upper()}") for _ in "12"]

        assert [reply.status_code for reply in replies] == [200, 404]
        assert await replies[0].get_data() == b""
        assert list((tmp_path / "state" / "completed").iterdir()) == []
        assert rig.path(1).read_bytes() == A


@pytest.mark.row("A8", "MIN-3")
async def test_a_stopping_agent_takes_nothing_more(tmp_path: Path) -> None:
    """503 with Retry-After; what it has can still be asked for."""
    async with open_rig(tmp_path, answer) as rig:
        await rig.outcome(task(1, A))
        rig.agent.is_draining = True
        reply = await rig.post([task(2, A)], uuid(70))

        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "10")
        assert (await rig.stats())["complete"] == 1
        assert not (tmp_path / "state" / "scheduled" / uuid(70)).exists()


@pytest.mark.row("A8", "N25")
async def test_a_disk_that_does_not_take_an_assignment_is_503(tmp_path: Path) -> None:
    """The manager asks again later; nothing is left of it."""
    async with open_rig(tmp_path, answer) as rig:
        saving = tmp_path / "state" / "saving"
        saving.rmdir()
        saving.write_text("in the way")
        reply = await rig.post([task(1, A)])

        assert reply.status_code == 503
        assert ASSIGNMENT in (await reply.get_json())["message"]
        assert (await rig.client.get(f"/assignments/{ASSIGNMENT}")).status_code == 404


@pytest.mark.row("CRIT-8")
async def test_a_body_over_the_limit_is_413(tmp_path: Path) -> None:
    """Refused, and nothing is stored."""

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, api=attrs.evolve(config.api, max_body_bytes=2000))

    async with open_rig(tmp_path, answer, change=change) as rig:
        reply = await rig.post([task(number, A) for number in range(20)])

        assert reply.status_code == 413
        assert list((tmp_path / "state" / "scheduled").iterdir()) == []


@pytest.mark.row("A13", "DEF-13")
async def test_a_bad_state_file_does_not_stop_the_agent(tmp_path: Path) -> None:
    """Moved to quarantine and counted; the next assignment is worked on."""
    scheduled = tmp_path / "state" / "scheduled"
    scheduled.mkdir(parents=True)
    (scheduled / uuid(70)).write_bytes(b"no database" * 500)
    async with open_rig(tmp_path, answer) as rig:
        assert await rig.outcome(task(1, A)) == {}
        status = await (await rig.client.get("/status")).get_json()
        metrics = (await Client(metrics_app(rig.agent.metrics.registry)).get("/")).content

    assert (tmp_path / "state" / "quarantine" / uuid(70)).exists()
    assert uuid(70) in status["last_errors"][0]
    assert status["resume_failures"] == 1
    assert b"rebalancer_agent_quarantined_total 1.0" in metrics


async def test_status_tells_what_is_going_on(tmp_path: Path) -> None:
    """Version, queue, running assignments, bytes, space, and the last errors."""
    async with open_rig(tmp_path, answer) as rig:
        await rig.outcome(task(1, A), task(9, A))
        with trio.fail_after(10):
            while rig.agent.worker.intake.backlog.running:  # noqa: ASYNC110 - a moment longer than the report
                await trio.sleep(0.01)
        reply = await rig.client.get("/status")
        status = await reply.get_json()
        pong = await (await rig.client.get("/ping")).get_json()
        line = rig.agent.worker.status_line()

    assert re.fullmatch(
        r"assignments: 0 at work, 0 waiting; objects: 0 being pulled, .* MB/s", line
    )
    assert rig.client.app.program == f"rebalancer-agent {status['version']} (v2)"
    assert status["features"] == ["v2"]
    assert pong == {"ping": "pong", "version": status["version"]}
    assert (status["waiting"], status["running"]) == (0, [])
    assert status["bytes_received"] == len(A)
    assert status["bytes_per_s"] == round(len(A) / 10)
    assert (status["running_tasks"], status["state_write_retries"]) == (0, 0)
    assert status["limits"] == {"bandwidth_bytes_per_s": None, "workers_per_assignment": 1}
    assert status["disk_free_bytes"] > 0
    assert "{http_status_code:404}" in status["last_errors"][0]
    assert uuid(9) in status["last_errors"][0]


@pytest.mark.row("IMP-3", "A12")
async def test_both_families_of_metrics_count(tmp_path: Path) -> None:
    """Parsed by Prometheus' own parser; constant labels on the older family."""
    async with open_rig(tmp_path, answer) as rig:
        await rig.outcome(task(1, A), task(9, A))
        await rig.client.delete(f"/assignments/{ASSIGNMENT}")
        await rig.post([task(1, A)], uuid(70))
        await rig.finish(uuid(70))
        reply = await Client(metrics_app(rig.agent.metrics.registry)).get("/metrics")
        text = await reply.get_data(as_text=True)

    found = {
        (sample.name, tuple(v for k, v in sorted(sample.labels.items()) if k in LABELS)): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    values = {key: sample.value for key, sample in found.items()}
    assert values["request_count", ("POST",)] == 2
    assert values["request_count", ("DELETE",)] == 1
    assert values["request_count", ("total",)] == sum(
        value
        for (name, labels), value in values.items()
        if name == "request_count" and labels != ("total",)
    )
    assert values["error_count", ("http_status_code",)] == 1
    assert values["bytes_count", ()] == len(A)
    assert values["assignment_time_count", ()] == 2
    prefix = "rebalancer_agent"
    processed = f"{prefix}_objects_processed_total"
    assert values[f"{prefix}_bytes_transferred_total", ()] == len(A)
    assert values[processed, ("completed",)] == 1
    assert values[processed, ("failed",)] == 1
    assert values[processed, ("skipped",)] == 1
    assert values[f"{prefix}_objects_failed_total", ()] == 1
    assert values[f"{prefix}_errors_total", ("http_error",)] == 1
    assert values[f"{prefix}_assignments_completed_total", ()] == 2
    assert values[f"{prefix}_assignment_duration_seconds_count", ()] == 2
    assert values[f"{prefix}_download_duration_seconds_count", ()] == 1
    assert values[f"{prefix}_cleanup_failures_total", ()] == 0
    assert values[f"{prefix}_disk_free_bytes", ()] > 0
    assert values[f"{prefix}_queued_assignments", ()] == 0
    older = found["bytes_count", ()].labels
    assert set(older) == {"service", "server", "datacenter", "zonename"}


async def test_the_older_metrics_can_be_left_out(tmp_path: Path) -> None:
    """By configuration; the others count as ever."""

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, metrics=attrs.evolve(config.metrics, legacy=False))

    async with open_rig(tmp_path, answer, change=change) as rig:
        await rig.outcome(task(1, A), task(9, A))
        reply = await Client(metrics_app(rig.agent.metrics.registry)).get("/metrics")
        names = {
            family.name for family in text_string_to_metric_families(await reply.get_data(True))
        }

    assert {name for name in names if not name.startswith("rebalancer_agent_")} == {
        "log_lines_dropped",
        "rebalancer_start_time_seconds",
    }
    assert "rebalancer_agent_objects_processed" in names


async def test_assignments_are_listed_page_by_page(tmp_path: Path) -> None:
    """Newest first; the address of the next page comes with each that is full."""
    names = [uuid(number) for number in range(70, 75)]
    async with open_rig(tmp_path, answer) as rig:
        for name in names:
            await rig.post([task(1, A), task(9, A)], name)
            await rig.finish(name)
        pages, address = [], "/assignments?limit=2"
        while address:
            reply = await rig.client.get(address)
            pages.append(await reply.get_json())
            address = reply.headers.get("Link", "<>").partition(">")[0][1:]

    listed = [one for page in pages for one in page]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [one["uuid"] for one in listed] == names[::-1]
    assert listed[0] == {
        "uuid": names[-1],
        "state": "Complete",
        "failed": 1,
        "complete": 2,
        "total": 2,
    }


@pytest.mark.row("CRIT-8")
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "limit: expected a whole number from 1 to 1000, got '0'"),
        ("limit=1001", "limit: expected a whole number from 1 to 1000"),
        ("limit=-1", "limit: expected a whole number"),
        ("limit=%C2%B2", "limit: expected a whole number"),
        ("limit=00000000199999", "limit: expected a whole number from 1 to 1000"),
        (f"limit={'9' * 5000}", "limit: expected a whole number from 1 to 1000"),
        (f"before={'9' * 5000}.00000000-0000-1000-8000-000000000001", "before: expected"),
        ("before=5", "before: expected <nanoseconds>.<uuid>, got '5'"),
        ("before=x.00000000-0000-1000-8000-000000000001", "before: expected"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(tmp_path: Path, query: str, message: str) -> None:
    """400, with what was expected."""
    async with open_rig(tmp_path, answer) as rig:
        reply = await rig.client.get(f"/assignments?{query}")

        assert reply.status_code == 400
        assert message in (await reply.get_json())["message"]


LABELS = ("req", "type", "error", "error_type", "status")


@pytest.mark.row("CRIT-10")
async def test_ids_are_used_as_they_came(tmp_path: Path) -> None:
    """Old ids are no version 4, and may be in capitals: the path on disk follows the record."""
    name = "ABCDEF00-1111-1111-1111-AAAAAAAAAAAA"
    async with open_rig(tmp_path, answer) as rig:
        await rig.post([task(1, A, object_id=name)], ASSIGNMENT.upper())
        assert await rig.finish(ASSIGNMENT.upper()) == []
        assert (rig.path(1).parent / name).read_bytes() == A
        assert json.dumps(rig.source.paths) == json.dumps([f"/{rig.path(1).parent.name}/{name}"])


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name.upper(),
        lambda name: name.replace("-", ""),
        lambda name: f"urn:uuid:{name}",
        lambda name: f"%7B{name}%7D",
        lambda name: f"{name}/",
    ],
)
async def test_one_assignment_under_every_spelling(tmp_path: Path, spell: Any) -> None:
    """Those that the deployed agent's parser takes, and a slash behind them."""
    async with open_rig(tmp_path, answer) as rig:
        await rig.outcome(task(1, A))
        told = await rig.client.get(f"/assignments/{spell(ASSIGNMENT)}")
        assert (await told.get_json())["uuid"] == ASSIGNMENT
        assert (await rig.client.delete(f"/assignments/{spell(ASSIGNMENT)}")).status_code == 200


@pytest.mark.parametrize("name", [ASSIGNMENT.replace("-", ""), f"urn:uuid:{ASSIGNMENT.upper()}"])
async def test_an_id_is_answered_as_it_came_and_kept_as_it_is(tmp_path: Path, name: str) -> None:
    """Posted to `/assignments/`; the same id in another spelling is a conflict."""
    async with open_rig(tmp_path, answer) as rig:
        reply = await rig.client.post("/assignments/", json={"id": name, "tasks": [task(1, A)]})
        assert (reply.status_code, await reply.get_json()) == (200, name)
        assert (await rig.post([task(2, A)])).status_code == 409
        assert await rig.finish() == []
        assert (tmp_path / "state" / "completed" / ASSIGNMENT).exists()
        assert (await rig.client.get("/assignments/")).status_code == 200


async def test_arrays_in_place_of_objects_are_worked_on(tmp_path: Path) -> None:
    """The assignment, its task and its source, each as the array of its values."""
    as_object = task(1, A)
    as_array = [*list(as_object.values())[:3], list(as_object["source"].values())]
    async with open_rig(tmp_path, answer) as rig:
        reply = await rig.client.post("/assignments", json=[ASSIGNMENT, [as_array]])
        assert reply.status_code == 200
        assert await rig.finish() == []
        assert rig.path(1).read_bytes() == A


async def test_errors_have_what_the_rewrites_clients_need(tmp_path: Path) -> None:
    """An id of the request, in body and head, another one each time, beside the message."""
    async with open_rig(tmp_path, answer) as rig:
        replies = [
            await rig.client.get("/assignments/x"),
            await rig.client.get(f"/assignments/{uuid(9)}"),
            await rig.client.post("/assignments", json={}),
            await rig.client.get("/nothing"),
            await rig.client.patch("/assignments"),
        ]
        bodies = [await reply.get_json() for reply in replies]

    assert [reply.status_code for reply in replies] == [400, 404, 400, 404, 405]
    assert all(body.keys() == {"request_id", "message"} for body in bodies)
    ids = [body["request_id"] for body in bodies]
    assert [reply.headers["X-Request-Id"] for reply in replies] == ids
    assert len(set(ids)) == len(ids)


async def test_what_is_refused_is_counted(tmp_path: Path) -> None:
    """Conflicts as the deployed agent does; malformed posts under one name, however they are."""
    async with open_rig(tmp_path, answer) as rig:
        await rig.outcome(task(1, A))
        for _ in range(2):
            await rig.post([task(1, A)])
        for body in (b"{", b"[]", b'{"id": 5}'):
            await rig.client.post("/assignments", data=body)
        reply = await Client(metrics_app(rig.agent.metrics.registry)).get("/metrics")
        text = await reply.get_data(as_text=True)

    counts = {
        sample.labels["error"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "error_count"
    }
    assert counts == {"conflict": 2, "malformed": 3, "total": 5}


async def test_histograms_have_the_rewrites_buckets(tmp_path: Path) -> None:
    """A second to an hour for an assignment, 10 ms to a minute for an object."""
    async with open_rig(tmp_path, answer) as rig:
        reply = await Client(metrics_app(rig.agent.metrics.registry)).get("/metrics")
        text = await reply.get_data(as_text=True)
    buckets: dict[str, list[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                buckets.setdefault(family.name, []).append(sample.labels["le"])
    ends = {name: (found[0], found[-2]) for name, found in buckets.items()}
    assert ends["rebalancer_agent_assignment_duration_seconds"] == ("1.0", "3600.0")
    assert ends["rebalancer_agent_download_duration_seconds"] == ("0.01", "60.0")


async def test_a_large_assignment_is_checked_where_others_get_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread; a small one at once."""
    threads = list[bool]()

    def look(body: bytes) -> Posted:
        threads.append(threading.current_thread() is threading.main_thread())
        return read_posted(body)

    monkeypatch.setattr(api, "read_posted", look)
    async with open_rig(tmp_path, busy) as rig:
        await rig.post([task(number, A) for number in range(201)])
        await rig.post([task(number, A) for number in range(100)], uuid(70))
        refused = await rig.post([{}] * 10_001, uuid(71))

    assert threads == [False, True, False]
    assert refused.status_code == 413
    assert "10001 are more than 10000" in (await refused.get_json())["message"]


async def test_a_post_of_nothing_but_faults_is_told_of_ten(tmp_path: Path) -> None:
    """And leaves nothing behind; half a character among them."""
    async with open_rig(tmp_path, answer) as rig:
        many = await rig.client.post("/assignments", json={"id": "x", "tasks": [1] * 5000})
        message = (await many.get_json())["message"]
        values = await rig.client.post("/assignments", data=b"[" + b"1," * 400_000 + b"1]")
        source = {"datacenter": "dc1", "manta_storage_id": "2.stor.lab"}
        half = task(1, A, source={**source, "datacenter": "HALF"})
        data = json.dumps({"id": ASSIGNMENT, "tasks": [half]}).replace("HALF", "\\ud800")
        surrogate = await rig.client.post("/assignments", data=data)

        assert (many.status_code, values.status_code, surrogate.status_code) == (400, 413, 400)
        assert message.count("; ") == 10
        assert "$.tasks[0].source.datacenter" in (await surrogate.get_json())["message"]
        state = tmp_path / "state"
        assert [list((state / name).iterdir()) for name in ("scheduled", "saving")] == [[], []]


async def test_a_disk_that_hangs_holds_up_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of /status either, which does not know the free space then; nor does the gauge."""
    released = threading.Event()
    monkeypatch.setattr(worker, "DISK_ANSWER_S", 0.01)
    monkeypatch.setattr(worker, "WATCH_DISK_S", 0.01)
    async with open_rig(tmp_path, answer) as rig:
        await rig.outcome(task(1, A))
        monkeypatch.setattr(ObjectFiles, "free_bytes", lambda _: released.wait(60))
        try:
            with trio.fail_after(20):
                # More of them than there may be threads for objects.
                for _ in range(THREADS[Work.OBJECTS] + 2):
                    status = await (await rig.client.get("/status")).get_json()
                told = [await rig.client.get(f"/assignments/{ASSIGNMENT}")]
                told += [await rig.client.get(path) for path in ("/assignments", "/ping")]
                told.append(await rig.client.delete(f"/assignments/{ASSIGNMENT}"))
                reply = await Client(metrics_app(rig.agent.metrics.registry)).get("/metrics")
                text = await reply.get_data(as_text=True)
        finally:
            released.set()

    assert status["disk_free_bytes"] is None
    assert [reply.status_code for reply in told] == [200] * 4
    assert "rebalancer_agent_disk_free_bytes NaN" in text
