"""Jobs that are paused, resumed, cancelled, removed, planned and looked into, through the API."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent_protocol import (
    AssignmentReport,
    AssignmentStats,
    Dialect,
    ReportedState,
    report_to_wire,
)
from rebalancer.config import Options
from rebalancer.domain.states import JobEvent
from rebalancer.manager.jobs import scratch
from rebalancer.manager.jobs.index import JobIndex
from rebalancer.manager.pipeline.job import Job
from rebalancer.serving.app import Answer, App, Request
from tests.manager.http.test_api import UUID, Rig, open_rig, refusing_agents, rows
from tests.manager.world import NODES

SMALL = Options(max_tasks_per_assignment=2, md_read_chunk_size=3)


async def ask(rig: Rig, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and parsed answer, without an error's own id; or its text where it is no JSON."""
    headers = {"accept": "application/json"}
    reply = await rig.client.open(path, method=method, json=body, headers=headers)
    text = await reply.get_data(as_text=True)
    try:
        told = json.loads(text)
    except ValueError:
        return reply.status_code, text
    if reply.status_code >= 400:
        assert told.pop("request_id")
    return reply.status_code, told


def limits_of(job: Job) -> tuple[int, int, int]:
    return job.update_limiter.limit, job.rules.max_sharks, job.batch_limits.max_tasks


async def control(rig: Rig, job_id: str, action: str) -> tuple[int, Any]:
    return await ask(rig, "PUT", f"/jobs/{job_id}", {"action": action})


async def test_a_paused_job_rests_until_it_is_resumed(tmp_path: Path) -> None:
    """It gives its turn to the next one, and goes on with what it had found."""
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id, other = await rig.create(), await rig.create(from_shark="9.stor")
        await rig.reach(job_id, "Running")
        assert await control(rig, job_id, "pause") == (200, "")
        paused = await rig.get(job_id)
        await rig.reach(other, "Failed")  # its shark is there twice, as it finds out in its turn
        assert (await rig.get(job_id))["state"] == "Stopped"
        assert await control(rig, job_id, "pause") == (
            409,
            {"message": f"Job {job_id} is paused: it cannot be paused"},
        )
        assert (await control(rig, job_id, "resume"))[0] == 200
        view = await rig.reach(job_id, "Running")
        assert (await control(rig, job_id, "resume"))[0] == 409

    assert (paused["state"], paused["wish"]) == ("Stopped", "pause")
    assert "wish" not in view


async def test_a_queued_verification_says_what_it_waits_for(tmp_path: Path) -> None:
    """Shown, summarized and in its report; since when is known until it was paused once."""
    body = {"action": "verify", "params": {"shark": "20.stor"}}
    async with open_rig(tmp_path, objects=3) as rig:
        first = await rig.create()
        await rig.reach(first, "Running")
        made = await ask(rig, "POST", "/jobs", body)
        queued = await rig.get(made[1])
        summary = (await ask(rig, "GET", f"/jobs/{made[1]}/summary"))[1]
        reply = await rig.client.get(f"/jobs/{made[1]}/report")
        report = json.loads((await reply.get_data(as_text=True)).partition("\n")[0])
        await control(rig, made[1], "pause")
        await control(rig, made[1], "resume")
        (resumed,) = (await rig.get(made[1]))["waiting"]
        await control(rig, first, "pause")
        complete = await rig.reach(made[1], "Complete")

    detail = (
        "as many jobs run as may (max_concurrent_jobs is 1):"
        f" job {first[:8]} (evacuate, 1.stor.lab)"
    )
    assert queued["waiting"] == [{"for": "its turn", "since": queued["created"], "detail": detail}]
    assert summary["waiting"] == report["waiting"] == queued["waiting"]
    assert resumed == {"for": "its turn", "since": None, "detail": detail}
    assert complete["waiting"] == []


async def test_a_waiting_job_can_be_paused(tmp_path: Path) -> None:
    """It does not get its turn before it is resumed."""
    async with open_rig(tmp_path, objects=3) as rig:
        first, second = await rig.create(), await rig.create(from_shark="20.stor")
        await rig.reach(first, "Running")
        await control(rig, second, "pause")
        await control(rig, first, "pause")
        assert [(await rig.get(name))["state"] for name in (first, second)] == ["Stopped"] * 2
        await control(rig, second, "resume")
        await rig.reach(second, "Running", "Complete")


async def test_a_cancelled_job_skips_what_it_has_not_begun(tmp_path: Path) -> None:
    """Every object has an end and a reason; nothing is in the pipeline any more."""
    async with open_rig(tmp_path, objects=9, options=SMALL, max_attempts=50) as rig:
        job_id = await rig.create()
        with trio.fail_after(20):
            while not (await rig.get(job_id))["results"]["Assigned"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await control(rig, job_id, "cancel") == (200, "")
        view = await rig.reach(job_id, "Stopped")
        assert (await control(rig, job_id, "resume"))[0] == 409
        assert (await control(rig, job_id, "cancel"))[0] == 409
        summary = (await ask(rig, "GET", f"/jobs/{job_id}/summary"))[1]
        assert (await ask(rig, "POST", f"/jobs/{job_id}/retry"))[0] == 200

    total = view["results"]["Total"]
    assert total
    assert view["results"]["Skipped"] == total
    assert view["wish"] == "cancel"
    assert [(one["reason"], one["objects"]) for one in summary["counts"]] == [("cancelled", total)]
    counted = "SELECT status, reason, objects FROM counters WHERE objects"
    told = "SELECT status, outcome, count(*) FROM evacuateobjects GROUP BY 1, 2"
    file = tmp_path / "db" / f"{job_id}.sqlite"
    assert rows(file, counted) == rows(file, told)


async def test_a_job_that_is_cancelled_while_it_is_being_paused_is_drained(tmp_path: Path) -> None:
    """What is asked of a job is decided on before its end is, so nothing of it is left behind."""
    async with open_rig(tmp_path, objects=9, options=SMALL, agent_timeout=1) as rig:
        job_id = await rig.create()
        with trio.fail_after(60):
            while not (await rig.get(job_id))["results"]["Assigned"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
        lock = rig.jobs.state_lock
        async with trio.open_nursery() as nursery, lock:
            for waiting, action in enumerate(("pause", "cancel"), 1):
                nursery.start_soon(control, rig, job_id, action)
                with trio.fail_after(60):
                    while lock.statistics().tasks_waiting < waiting:  # noqa: ASYNC110
                        await trio.sleep(0.01)
        with trio.fail_after(60):
            while rig.jobs.running:  # noqa: ASYNC110
                await trio.sleep(0.02)
        view = await rig.reach(job_id, "Stopped")

    assert (view["wish"], view["results"]["Skipped"]) == ("cancel", view["results"]["Total"])


@pytest.mark.parametrize("paused", [False, True])
async def test_a_job_that_never_ran_is_cancelled_at_once(tmp_path: Path, paused: bool) -> None:
    """There is nothing of it anywhere."""
    async with open_rig(tmp_path, objects=3) as rig:
        await rig.reach(await rig.create(), "Running")
        waiting = await rig.create(from_shark="20.stor")
        if paused:
            await control(rig, waiting, "pause")
        await control(rig, waiting, "cancel")
        assert (await rig.get(waiting))["state"] == "Stopped"
        assert await control(rig, UUID, "cancel") == (
            400,
            {"message": f"Could not find job {UUID}"},
        )


async def test_a_paused_job_that_is_cancelled_drains_without_a_turn(tmp_path: Path) -> None:
    """Its agents may still have some of its work, so it is not simply written off."""
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        earlier = await rig.create(strict=True)
        await rig.reach(earlier, "Failed")
        job_id = await rig.create()
        await rig.reach(job_id, "Running")
        await control(rig, job_id, "pause")
        other = (await ask(rig, "POST", f"/jobs/{earlier}/retry"))[1]
        await rig.reach(other, "Running")
        await control(rig, job_id, "cancel")
        # Another job empties the same shark, so this one waits until that is over.
        await control(rig, other, "pause")
        view = await rig.reach(job_id, "Stopped")
        with trio.fail_after(20):
            while (view := await rig.get(job_id)).get("results", {}).get("Unprocessed"):  # noqa: ASYNC110
                await trio.sleep(0.02)
    assert view["wish"] == "cancel"


async def test_several_jobs_run_when_allowed_but_not_on_one_shark(tmp_path: Path) -> None:
    """`max_concurrent_jobs`, in order of creation."""
    async with open_rig(tmp_path, objects=3, max_concurrent_jobs=2) as rig:
        earlier = await rig.create(strict=True)
        await rig.reach(earlier, "Failed")
        first, same, other = (
            await rig.create(),
            (await ask(rig, "POST", f"/jobs/{earlier}/retry"))[1],
            await rig.create(from_shark="9.stor"),
        )
        await rig.reach(first, "Running")
        await rig.reach(other, "Failed")  # its shark is there twice, as it finds out in its turn
        states = [(await rig.get(job_id))["state"] for job_id in (first, same)]
        running = await rig.at_work(first)
        with trio.fail_after(60):
            while running.ledger.evacuated != {"1.stor.lab"}:  # noqa: ASYNC110 - found out at a look
                await trio.sleep(0.01)

    assert states == ["Running", "Setup"]


async def test_an_ended_job_is_removed_with_its_file(tmp_path: Path) -> None:
    """One that has not ended is refused, and keeps all."""
    async with open_rig(tmp_path, objects=3) as rig:
        failed = await rig.create(from_shark="9.stor")
        await rig.reach(failed, "Failed")
        running = await rig.create()
        await rig.reach(running, "Running")
        status, answer = await ask(rig, "DELETE", f"/jobs/{running}")
        assert (status, answer["message"]) == (
            409,
            f"Job {running} is running: it cannot be removed, because it has not ended",
        )
        assert await ask(rig, "DELETE", f"/jobs/{failed.upper()}") == (200, {"deleted": failed})
        assert (await ask(rig, "GET", f"/jobs/{failed}"))[0] == 400
        assert (await ask(rig, "DELETE", f"/jobs/{failed}"))[0] == 400
        listed = await (await rig.client.get("/jobs")).get_json()

    assert [one["id"] for one in listed] == [running]
    assert list((tmp_path / "db").glob(f"{failed}*")) == []


async def test_a_job_that_another_one_retries_is_kept(tmp_path: Path) -> None:
    """Its file is where the other one finds its objects."""
    async with open_rig(tmp_path, objects=3) as rig:
        first = await rig.create(from_shark="9.stor")
        await rig.reach(first, "Failed")
        await rig.reach(await rig.create(), "Running")
        again = (await ask(rig, "POST", f"/jobs/{first}/retry"))[1]
        status, answer = await ask(rig, "DELETE", f"/jobs/{first}")
        await control(rig, again, "cancel")
        assert (await ask(rig, "DELETE", f"/jobs/{first}"))[0] == 200

    expected = f"Job {first} is failed: it cannot be removed, because job {again} retries it"
    assert (status, answer["message"]) == (409, expected)


async def test_settings_of_a_job_outlive_the_manager(tmp_path: Path) -> None:
    """What was asked for is recorded, in force at once, and again after a restart."""
    settings = {"set_metadata_threads": 30, "set_max_sharks": 2, "set_max_tasks_per_assignment": 7}
    async with open_rig(tmp_path, objects=9, options=SMALL, max_attempts=100) as rig:
        job_id = await rig.create()
        running = await rig.at_work(job_id)
        for action, value in settings.items():
            assert await rig.put(job_id, {"action": action, "params": value}) == (200, "")
        seen = (
            running.update_limiter.limit,
            running.rules.max_sharks,
            running.batch_limits.max_tasks,
        )
        # The file changes too: what an operator asked for outweighs it.
        config = rig.jobs.resources.config
        config = attrs.evolve(config, blacklist_datacenters=("dc2",), options=Options())
        rig.jobs.reload(config)
        after = (
            running.update_limiter.limit,
            running.rules.max_sharks,
            running.batch_limits.max_tasks,
        )
        assert running.rules.blacklist_datacenters == {"dc2"}
    (tmp_path / "shard.sqlite").unlink()
    async with open_rig(tmp_path, options=SMALL) as rig:
        job = await rig.at_work(job_id)
        restarted = limits_of(job)

    assert seen == after == restarted == (30, 2, 7)


def throttled_agents(limits: dict[str, int | None]) -> App:
    """The agents of all nodes, which take assignments, and never get on; `limits` by their host."""
    app = App("agents", 1 << 20)

    @app.put("/limits")
    async def limit(request: Request) -> Answer:
        (limits[request.headers["host"]],) = json.loads(request.body).values()
        return Answer()

    @app.post("/assignments")
    async def take(_request: Request) -> Answer:
        return Answer()

    @app.get("/assignments/<assignment_id>")
    async def show(_request: Request, assignment_id: str) -> Answer:
        stats = AssignmentStats(ReportedState.RUNNING, 0, 0, 2)
        report = AssignmentReport(assignment_id, stats)
        return Answer(json.dumps(report_to_wire(report, Dialect.LEGACY)).encode())

    return app


async def test_a_bandwidth_is_changed_just_after_a_start(tmp_path: Path) -> None:
    """The job is shown as running before it has reached its peers, and takes the change at once.

    The limit that agents have from the earlier run is lifted; that of a cancelled job too.
    """
    limits: dict[str, int | None] = {}
    agents = throttled_agents(limits)
    put = {"action": "set_bandwidth", "params": 2000}
    async with open_rig(tmp_path, objects=9, options=SMALL, agents=agents) as rig:
        job_id = await rig.create()
        assert await rig.put(job_id, put) == (200, "")
        await until(lambda: set(limits.values()) == {2000})
    (tmp_path / "shard.sqlite").unlink()
    async with open_rig(tmp_path, options=SMALL, agents=agents) as rig:
        assert (await rig.get(job_id))["state"] == "Running"
        assert await rig.put(job_id, {**put, "params": None}) == (200, "")
        await until(lambda: set(limits.values()) == {None})


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_the_objects_of_a_job_are_listed_in_pages(tmp_path: Path) -> None:
    """Each once, whatever the page's size; filtered by status and by reason."""
    refusing: dict[str, Any] = {"agents": refusing_agents(), "max_attempts": 1}
    async with open_rig(tmp_path, objects=9, options=SMALL, **refusing) as rig:
        job_id = await rig.create()
        await rig.reach(job_id, "Complete")
        found, after = [], 0
        for _ in range(9):
            status, page = await ask(rig, "GET", f"/jobs/{job_id}/objects?limit=2&after={after}")
            assert status == 200
            found += page["objects"]
            if page["after"] is None:
                break
            after = page["after"]
        path = f"/jobs/{job_id}/objects"
        skipped = (await ask(rig, "GET", f"{path}?reason=assignment_rejected"))[1]["objects"]
        complete = (await ask(rig, "GET", f"{path}?status=complete"))[1]
        assert (await ask(rig, "GET", f"{path}?limit=0"))[0] == 400

    assert sorted(one["key"] for one in found) == [f"/account/stor/{n}" for n in range(1, 10)]
    assert skipped == found
    assert complete == {"objects": [], "after": None}
    assert found[0].keys() >= {"id", "key", "shard", "status", "reason", "bytes", "attempts"}


async def test_a_report_tells_everything_and_its_end(tmp_path: Path) -> None:
    """The job first, a line for each row, and their number last."""
    refusing: dict[str, Any] = {"agents": refusing_agents(), "max_attempts": 1}
    async with open_rig(tmp_path, objects=5, options=SMALL, **refusing) as rig:
        job_id = await rig.create()
        await rig.reach(job_id, "Complete")
        reply = await rig.client.get(f"/jobs/{job_id}/report")
        text = await reply.get_data(as_text=True)
        assert (await rig.client.get(f"/jobs/{UUID}/report")).status_code == 400

    first, *middle, last = [json.loads(line) for line in text.splitlines()]
    assert reply.content_type == "application/x-ndjson"
    assert (first["type"], first["id"], first["state"]) == ("job", job_id, "Complete")
    assert last == {"type": "end", "lines": len(middle)}
    kinds = [line["type"] for line in middle]
    assert kinds.count("object") == 5
    assert kinds.count("assignment") == len(
        rows(tmp_path / "db" / f"{job_id}.sqlite", "SELECT id FROM assignments")
    )


async def test_the_summary_has_rates_destinations_and_scans(tmp_path: Path) -> None:
    """What an operator watches; counts equal those of the job."""
    begin = trio.Event()
    refusing: dict[str, Any] = {"agents": refusing_agents(begin), "max_attempts": 1}
    async with open_rig(tmp_path, objects=5, options=SMALL, **refusing) as rig:
        job_id = await rig.create()
        await rig.at_work(job_id)
        running = (await ask(rig, "GET", f"/jobs/{job_id}/summary"))[1]
        begin.set()
        await rig.reach(job_id, "Complete")
        ended = (await ask(rig, "GET", f"/jobs/{job_id}/summary"))[1]
        status = (await ask(rig, "GET", "/status"))[1]

    assert running["rates"]["minute"].keys() == {"objects_per_s", "bytes_per_s"}
    (counted,) = ended["counts"]
    assert (counted["status"], counted["objects"]) == ("skipped", 5)
    assert sum(one["failed"] for one in ended["destinations"]) == 5
    assert all(one["now"]["failures"] for one in ended["destinations"])
    assert ended["eta_s"] is None
    assert status["jobs"] == {"Complete": 1}
    assert status["storinfo"]["nodes"] == len(NODES)
    assert {one["shark"] for one in status["destinations"]} >= {
        one["shark"] for one in ended["destinations"]
    }


async def test_a_dry_run_tells_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    """Objects, bytes, destinations, whether it fits; no job, no file, no agent is asked to work."""
    body = {"action": "evacuate", "params": {"from_shark": "1.stor"}, "dry_run": True}
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / f"{scratch.PREFIX}left-over").mkdir()
    async with open_rig(tmp_path, objects=9, exclude_key_prefixes=("/account/stor/3",)) as rig:
        status, made = await ask(rig, "POST", "/jobs", body)
        full = attrs.evolve(rig.jobs.resources.config, max_fill_percentage=5)
        rig.jobs.reload(full)
        crowded = (await ask(rig, "POST", "/jobs", body))[1]
        unknown = {**body, "params": {"from_shark": "77.stor"}}
        refused = await ask(rig, "POST", "/jobs", unknown)
        assert await (await rig.client.get("/jobs")).get_json() == []
        scratch.clean(tmp_path / "db")
        left = [path.name for path in (tmp_path / "db").iterdir() if path.is_dir()]

    assert status == 200
    assert (made["objects"], made["fits"], made["failures"]) == (9, True, [])
    assert sum(one["objects"] for one in made["destinations"]) == 8
    assert made["skipped"] == [{"reason": "excluded", "objects": 1, "bytes": 1003}]
    assert {one["check"] for one in made["warnings"]} >= {"agent"}
    assert not crowded["fits"]
    assert crowded["destinations"] == []
    assert [one["reason"] for one in crowded["skipped"]] == [
        "destination_insufficient_space",
        "excluded",
    ]
    assert refused[0] == 400
    assert refused[1]["message"].startswith("SharkNotFound: 77.stor.lab")
    assert left == []


async def test_a_wish_to_pause_outlives_the_manager(tmp_path: Path) -> None:
    """Recorded, and the manager was killed before it could carry it out."""
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        await rig.reach(job_id, "Running")
        index: JobIndex = rig.jobs.index
        await index.advance(job_id, JobEvent.PAUSED)
    (tmp_path / "shard.sqlite").unlink()
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        await rig.reach(job_id, "Stopped")
        assert rows(tmp_path / "db" / "rebalancer.sqlite", "SELECT state, wish FROM jobs") == [
            ("stopped", "pause")
        ]
        assert (await control(rig, job_id, "resume"))[0] == 200
        await rig.reach(job_id, "Running")
