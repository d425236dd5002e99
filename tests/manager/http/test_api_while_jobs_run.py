"""What is asked of a manager while its jobs run, fail or wait."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.daemon import Listen, listen
from rebalancer.domain.states import STATE_WORDS, AssignmentState, ObjectStatus
from rebalancer.errors import PeerRefused
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job
from rebalancer.metrics import metrics_app
from rebalancer.peers import scan
from tests.manager.http.test_api import UUID, Rig, open_rig, rows
from tests.process.regions import json_lines
from tests.web import Client

CREATE = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
PUT = {"action": "set_metadata_threads", "params": 3}


async def ended_job(rig: Rig) -> str:
    job_id = await rig.create()
    await rig.reach(job_id, "Complete")
    return job_id


@pytest.mark.row("CRIT-8", "TEST-HTTP-1", "TEST-HTTP-2", "TEST-STATUS-1")
async def test_every_route_answers(tmp_path: Path) -> None:
    """Asked for what is right: a route that is not asked here is seen."""
    async with open_rig(tmp_path, objects=3) as rig:
        missing = await rig.create(from_shark="9.stor")
        await rig.reach(missing, "Failed")
        other = await rig.create(from_shark="8.stor")
        await rig.reach(other, "Failed")
        job_id = await rig.create()
        await rig.reach(job_id, "Running")
        await trio.sleep(0.2)
        elsewhere = {**CREATE, "params": {"from_shark": "20.stor"}}
        asked: dict[tuple[str, str], tuple[str, Any]] = {
            ("GET", "/ping"): ("/ping", None),
            ("GET", "/jobs"): ("/jobs", None),
            ("GET", "/jobs/<job_id>"): (f"/jobs/{job_id}", None),
            ("PUT", "/jobs/<job_id>"): (f"/jobs/{job_id}", PUT),
            ("POST", "/jobs"): ("/jobs", elsewhere),
            ("POST", "/jobs/<job_id>/retry"): (f"/jobs/{missing}/retry", None),
            ("GET", "/jobs/<job_id>/objects"): (f"/jobs/{job_id}/objects", None),
            ("GET", "/jobs/<job_id>/summary"): (f"/jobs/{job_id}/summary", None),
            ("GET", "/jobs/<job_id>/report"): (f"/jobs/{job_id}/report", None),
            ("GET", "/nodes/<shark>/check"): ("/nodes/1.stor/check", None),
            ("GET", "/status"): ("/status", None),
            ("GET", "/openapi.json"): ("/openapi.json", None),
            ("DELETE", "/jobs/<job_id>"): (f"/jobs/{other}", None),
        }
        statuses = {}
        for route, (path, body) in asked.items():
            send = getattr(rig.client, route[0].lower())
            reply = await (send(path) if body is None else send(path, json=body))
            statuses[route] = reply.status_code
        listed = [one["id"] for one in await (await rig.client.get("/jobs")).get_json()]
        routes = {
            (method, rule.rule)
            for rule in rig.app.quart.url_map.iter_rules()
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }

    assert statuses == dict.fromkeys(asked, 200)
    assert listed[:2] == [missing, job_id]  # and `other` is gone
    # Imports need a PostgreSQL, with which `tests/manager/jobs/test_imports.py` asks.
    assert routes == {*asked, ("POST", "/imports"), ("POST", "/imports/list")}


@pytest.mark.row("IMP-16")
async def test_nothing_is_retried_while_snaplinks_must_be_cleaned_up(tmp_path: Path) -> None:
    """Nor made: 500 with the deployed text, and no job."""
    async with open_rig(tmp_path) as rig:
        job_id = await ended_job(rig)
        shared = rig.jobs.resources
        shared.config = attrs.evolve(shared.config, snaplink_cleanup_required=True)
        replies = [
            await rig.client.post("/jobs", json=CREATE),
            await rig.client.post(f"/jobs/{job_id}/retry"),
        ]
        told = [(r.status_code, await r.get_data(as_text=True)) for r in replies]
        assert told == [(500, "Snaplink Cleanup Required")] * 2
        assert len(await (await rig.client.get("/jobs")).get_json()) == 1


@pytest.mark.row("IMP-13", "MIN-7", "L15", "L14")
async def test_the_updaters_of_a_retry_change_too(tmp_path: Path) -> None:
    """At once, up and down; the last number counts, and what is no number changes nothing."""
    async with open_rig(tmp_path, objects=3) as rig:
        # Its own objects cannot be placed in time, so make the first one of nothing.
        with closing(sqlite3.connect(tmp_path / "shard.sqlite")) as db, db:
            texts = db.execute("SELECT _key, _value FROM manta").fetchall()
            db.execute("UPDATE manta SET _value = replace(_value, '1.stor.lab', '99.stor.lab')")
        first = await ended_job(rig)
        with closing(sqlite3.connect(tmp_path / "shard.sqlite")) as db, db:
            db.executemany("UPDATE manta SET _value = ?2 WHERE _key = ?1", texts)
        with closing(sqlite3.connect(tmp_path / "db" / f"{first}.sqlite")) as db, db:
            for number, (key, _) in enumerate(texts):
                db.execute(
                    "INSERT INTO evacuateobjects (id, shard, key, status, error)"
                    " VALUES (?, 1, ?, 'error', 'metadata_update_failed')",
                    (str(number), key),
                )
        reply = await rig.client.post(f"/jobs/{first}/retry")
        again = (await reply.get_data(as_text=True)).strip()
        job = await rig.at_work(again)
        seen = []
        for count in (1, 250, 17):
            assert await rig.put(again, {**PUT, "params": count}) == (200, "")
            seen.append(job.update_limiter.in_force)
        wrong: list[dict[str, Any]] = [{**PUT, "params": n} for n in (0, 251, "3", 2.5, None, True)]
        wrong += [{"action": "set_metadata_threads"}, {"params": 3}, {}]
        statuses = [(await rig.put(again, body))[0] for body in wrong]
        last = job.update_limiter.in_force

    assert (seen, last) == ([1, 250, 17], 17)
    assert statuses == [400, 400, *[422] * 7]


@pytest.mark.row("IMP-9", "TEST-HTTP-3")
async def test_a_state_nobody_knows_survives(tmp_path: Path) -> None:
    """A restart, being shown, and requests: they are refused, and it is as it was."""
    async with open_rig(tmp_path) as rig:
        job_id = await ended_job(rig)
    with closing(sqlite3.connect(tmp_path / "db" / "rebalancer.sqlite")) as db, db:
        db.execute("UPDATE jobs SET state = 'dreaming'")
    (tmp_path / "shard.sqlite").unlink()
    async with open_rig(tmp_path) as rig:
        other = await ended_job(rig)
        listed = await (await rig.client.get("/jobs")).get_json()
        changed = await rig.put(job_id, PUT)
        retried = await rig.client.post(f"/jobs/{job_id}/retry")
        stored = rows(tmp_path / "db" / "rebalancer.sqlite", "SELECT id, state FROM jobs")

    assert [(one["id"], one["state"]) for one in listed] == [
        (job_id, "Dreaming"),
        (other, "Complete"),
    ]
    assert changed == (400, "Attempt to update job that is not running")
    assert retried.status_code == 409
    assert stored == [(job_id, "dreaming"), (other, "complete")]


@pytest.mark.row("CRIT-7", "CRIT-1", "IMP-12")
async def test_what_breaks_discovery_is_the_error_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored and shown: the shard, and what it said."""

    async def fail(*_args: object, **_more: object) -> None:
        await trio.lowlevel.checkpoint()
        raise PeerRefused("1.moray.lab: relation manta does not exist")

    monkeypatch.setattr(scan.DirectoryRecords, "window", fail)
    async with open_rig(tmp_path, objects=3) as rig:
        job_id = await rig.create()
        view = await rig.reach(job_id, "Failed")
        (stored,) = rows(tmp_path / "db" / "rebalancer.sqlite", "SELECT state, error FROM jobs")

    lost = "1.moray.lab: relation manta does not exist"
    assert view["error"] == f"discovery on shard 1 did not finish: {lost}"
    assert stored == ("failed", view["error"])


@pytest.mark.row("IMP-8", "IMP-12", "DEF-7")
async def test_a_mistake_of_ours_is_the_error_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of no other: the next one runs."""
    real = flow.run

    async def mistaken(job: Job) -> None:
        if job.max_objects == 1:
            raise ZeroDivisionError("a mistake")
        await real(job)

    monkeypatch.setattr(flow, "run", mistaken)
    async with open_rig(tmp_path) as rig:
        first = await rig.create(max_objects=1)
        view = await rig.reach(first, "Failed")
        await ended_job(rig)

    assert view["error"] == "ZeroDivisionError('a mistake')"


@pytest.mark.row("L28", "N17")
async def test_any_number_of_jobs_can_wait(tmp_path: Path) -> None:
    """On disk, in order; the deployed manager answered nobody any more after the sixth."""
    async with open_rig(tmp_path, objects=3) as rig:
        names = [await rig.create()]
        names += [await rig.create(from_shark=f"{number}.stor") for number in range(20, 39)]
        await rig.reach(names[0], "Running")
        assert (await rig.get(names[-1]))["state"] == "Setup"
    stored = rows(
        tmp_path / "db" / "rebalancer.sqlite", "SELECT id, state FROM jobs ORDER BY rowid"
    )
    assert stored == [(names[0], "running"), *[(name, "setup") for name in names[1:]]]


@pytest.mark.row("L29", "A3")
async def test_a_body_that_comes_slowly_holds_up_nobody(tmp_path: Path) -> None:
    """Its head came, its body did not; others are answered, and it is when it has come."""
    body = json.dumps(CREATE).encode()
    head = f"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with open_rig(tmp_path) as rig, trio.open_nursery() as nursery:
        where = await listen(nursery, rig.app, Listen("127.0.0.1", 0), trio.Event())
        host, _, port = where.rpartition(":")
        streams = [await trio.open_tcp_stream(host, int(port)) for _ in range(30)]
        for stream in streams:
            await stream.send_all(head + body[:10])
        async with httpx.AsyncClient() as client:
            with trio.fail_after(10):
                assert (await client.get(f"http://{where}/jobs")).json() == []
        await streams[0].send_all(body[10:])
        with trio.fail_after(10):
            answer = await streams[0].receive_some()
        for stream in streams:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.row("L36", "N18", "IMP-3")
async def test_the_managers_metrics_have_real_labels(tmp_path: Path) -> None:
    """Each request by its name, changes and retries too; who exports them is told."""
    options: dict[str, Any] = {"datacenter": "dc7", "service": "1.rebalancer.lab", "server": "cn-7"}
    async with open_rig(tmp_path, **options) as rig:
        job_id = await ended_job(rig)
        await rig.put(job_id, PUT)
        await rig.client.post(f"/jobs/{job_id}/retry")
        await rig.client.get("/jobs")
        app = Client(metrics_app(rig.jobs.resources.metrics.registry))
        text = await (await app.get("/metrics")).get_data(as_text=True)
    samples = {
        sample.labels["req"]: sample
        for family in text_string_to_metric_families(text)
        if family.name == "request_count"
        for sample in family.samples
    }
    counted = {name: sample.value for name, sample in samples.items()}
    assert counted.pop("total") == sum(counted.values())
    assert counted.pop("get_job") >= 1
    assert counted == {"evacuate": 1, "update_job": 1, "retry_job": 1, "list_jobs": 1}
    assert options.items() <= samples["evacuate"].labels.items()


@pytest.mark.row("TEST-TYPES-3")
def test_states_have_the_deployed_texts() -> None:
    """In columns, and with a capital letter in answers."""
    assert set(STATE_WORDS) == {"init", "setup", "running", "stopped", "complete", "failed"}
    assert set(ObjectStatus) == {
        *("unprocessed", "assigned", "skipped", "error", "post_processing", "complete"),
    }
    assert set(AssignmentState) >= {"init", "assigned", "rejected", "agent_complete"}


# --- a signal before the service is ready -----------------------------------------------------


CHANGED_MEANWHILE = """
import os, signal
import rebalancer.__main__ as program
from rebalancer import cli

load = cli.load_manager

def load_and_change(path):
    loaded = load(path)
    path.write_text(path.read_text().replace("false", "true"))
    os.kill(os.getpid(), signal.SIGUSR1)  # ignored: nobody watches yet
    return loaded

cli.load_manager = load_and_change
program.main_manager()
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Path]:
    """The log of a manager whose file was changed, with a signal, just after it had read it."""
    file, log = tmp_path / "config.json", tmp_path / "log"
    options = {
        "domain_name": "lab",
        "shards": [{"host": "1.moray.lab"}],
        "snaplink_cleanup_required": False,
        "listen_host": "127.0.0.1",
        "listen_port": 0,
        "metrics_host": "127.0.0.1",
        "metrics_port": 0,
        "storinfo_url": "http://127.0.0.1:1",
        "data_dir": str(tmp_path / "db"),
    }
    file.write_text(json.dumps(options))
    with log.open("wb") as out:
        command = [sys.executable, "-c", CHANGED_MEANWHILE, "-c", str(file)]
        popen = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ})
    yield log
    popen.send_signal(signal.SIGTERM)
    assert popen.wait(20) == 0


def logged(log: Path, message: str) -> dict[str, Any]:
    begun = time.monotonic()
    while time.monotonic() - begun < 20:
        for line in json_lines(log):
            if line["msg"] == message:
                return line
        time.sleep(0.05)
    pytest.fail(f"{message!r} was not logged: {log.read_text()}")


@pytest.mark.process
@pytest.mark.row("IMP-15", "N19")
def test_a_signal_before_the_service_is_ready_is_not_lost(started: Path) -> None:
    """Sent when nobody watches for it yet: the new values are in force all the same."""
    url = f"http://{logged(started, 'listening')['api']}"
    logged(started, "configuration reloaded")
    reply = httpx.post(f"{url}/jobs", json=CREATE)

    assert (reply.status_code, reply.text) == (500, "Snaplink Cleanup Required")
    assert httpx.get(f"{url}/jobs/{UUID}").status_code == 400
