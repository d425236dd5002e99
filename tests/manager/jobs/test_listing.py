"""The list of jobs says how far each is, and a query selects some of them."""

from pathlib import Path
from typing import Any

import pytest

from rebalancer.domain.states import JobState
from rebalancer.errors import BadRequest
from rebalancer.manager.http.requests import JobsQuery, read_jobs_query
from rebalancer.manager.jobs.rows import JobRow
from tests.manager.http.test_api import Rig, open_rig, refusing_agents
from tests.manager.jobs.test_control import SMALL, ask

IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]


async def listed(rig: Rig, query: str = "") -> list[dict[str, Any]]:
    status, rows = await ask(rig, "GET", f"/jobs{query}")
    assert status == 200, rows
    assert isinstance(rows, list)
    return rows


async def test_each_job_is_listed_with_how_far_it_is(tmp_path: Path) -> None:
    """Also which job a queued one is behind, and whether a stopped one is paused."""
    async with open_rig(tmp_path, objects=9, options=SMALL, max_concurrent_jobs=1) as rig:
        first = await rig.create()
        second = await rig.create(from_shark="20.stor")
        await rig.at_work(first)
        running, queued = await listed(rig)
        view = await rig.get(first)
        await ask(rig, "PUT", f"/jobs/{first}", {"action": "pause"})
        paused = (await listed(rig, "?state=paused"))[0]
        states = (await ask(rig, "GET", "/status"))[1]["states"]
        by_node = await listed(rig, "?shark=20.stor")
        page = await listed(rig, f"?after={first}&limit=1")
        refused = await ask(rig, "GET", "/jobs?stat=paused")

    assert (running["subject"], running["behind"]) == ("1.stor.lab", [])
    assert running["results"].keys() == view["results"].keys()
    assert running["rate"].keys() == {"objects_per_s", "bytes_per_s"}
    assert running["created"] <= running["started"]
    assert (queued["state"], queued["behind"], queued["rate"]) == ("Setup", [first], None)
    assert queued["waiting"][0]["for"] == "its turn"
    assert states["paused"] == 1
    assert (paused["id"], paused["state"], paused["wish"]) == (first, "Stopped", "pause")
    assert [one["id"] for one in by_node] == [one["id"] for one in page] == [second]
    assert refused[0] == 400


async def test_an_ended_job_is_read_once(tmp_path: Path) -> None:
    """It stays as it is, so that a long list is answered quickly."""
    async with open_rig(tmp_path, objects=3, options=SMALL, agents=refusing_agents()) as rig:
        job_id = await rig.create()
        await rig.reach(job_id, "Complete")
        (first,) = await listed(rig)
        (tmp_path / "db" / f"{job_id}.sqlite").unlink()
        (second,) = await listed(rig)

    assert first == second
    assert (first["verdict"], first["results"]["Skipped"]) == ("not_empty", 3)
    assert first["finished"] is not None


async def test_a_job_whose_file_is_gone_is_listed_with_the_cause(tmp_path: Path) -> None:
    """Nothing of it is known, and the other jobs are listed all the same."""
    async with open_rig(tmp_path, objects=3, options=SMALL, agents=refusing_agents()) as rig:
        job_id = await rig.create()
        await rig.reach(job_id, "Complete")
        (tmp_path / "db" / f"{job_id}.sqlite").unlink()
        (shown,) = await listed(rig)

    assert f"{job_id}.sqlite" in shown["error"]
    assert shown["results"]["Total"] == 0


async def test_a_list_goes_on_behind_jobs_that_were_removed(tmp_path: Path) -> None:
    """Whoever reads it a page at a time misses none, whatever is removed meanwhile."""
    async with open_rig(tmp_path) as rig:
        ids = [await rig.create(from_shark=f"{node}.stor") for node in (20, 21, 22, 23)]
        for job_id in ids:
            await rig.reach(job_id, "Complete")
        pages = []
        for removed in (ids[1], ids[0]):
            assert (await ask(rig, "DELETE", f"/jobs/{removed}"))[0] == 200
            pages.append([one["id"] for one in await listed(rig, f"?after={ids[1]}")])
        all_but = [one["id"] for one in await listed(rig, f"?after={ids[0]}&limit=1")]
        unknown = await ask(rig, "GET", f"/jobs?after={IDS[0]}")

    assert pages == [ids[2:], ids[2:]]
    assert all_but == [ids[2]]
    assert unknown[0] == 400


@pytest.mark.parametrize(
    ("query", "places"),
    [
        (JobsQuery(), [0, 1, 2, 3]),
        (JobsQuery(limit=2), [0, 1]),
        (JobsQuery(after=IDS[1]), [2, 3]),
        (JobsQuery(state=JobState.QUEUED), [1, 3]),
        (JobsQuery(state=JobState.QUEUED, after=IDS[0], limit=1), [1]),
        (JobsQuery(shark="1.stor"), [0, 1]),
        (JobsQuery(shark="1.stor.lab"), [0, 1]),
        (JobsQuery(shark="stor"), []),
    ],
)
def test_a_query_selects_jobs_in_their_order(query: JobsQuery, places: list[int]) -> None:
    """A page begins behind a job, whether the filter takes that one or not."""
    states = [JobState.COMPLETE, JobState.QUEUED, JobState.PAUSED, JobState.QUEUED]
    nodes = ["1.stor.lab", "1.stor.lab", "11.stor.lab", "2.stor.lab"]
    rows = [
        JobRow(job_id, "evacuate", state, {"from_shark": node}, "", None, None, None)
        for job_id, state, node in zip(IDS, states, nodes, strict=True)
    ]
    assert [IDS.index(row.id) for row in query.select(rows)] == places


@pytest.mark.parametrize(
    "given",
    [("state", "odd"), ("after", "0fd6"), ("limit", "0"), ("limit", "x"), ("shape", "round")],
)
def test_a_wrong_query_is_refused_by_name(given: tuple[str, str]) -> None:
    """Nobody reads the wrong jobs."""
    with pytest.raises(BadRequest, match=given[0]):
        read_jobs_query([given])
    with pytest.raises(BadRequest, match="once"):
        read_jobs_query([("shark", "a"), ("shark", "a")])
    with pytest.raises(BadRequest, match="no job"):
        JobsQuery(after=IDS[0]).select([])
