"""The manager's API: the deployed texts and codes, on real files, a real shard, no agents."""

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.config import ManagerConfig, Options, Shard
from rebalancer.daemon import Listen, listen
from rebalancer.domain.objects import Shark
from rebalancer.manager.actions import lookup
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.http.api import make_api
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.index import open_index
from rebalancer.manager.jobs.service import Jobs
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline.job import Job
from rebalancer.peers.http import open_http
from rebalancer.peers.moray.client import MorayClient
from rebalancer.peers.storinfo import storage_nodes
from rebalancer.serving.app import Answer, App, Request
from rebalancer_devregion.moray.server import serve_shard
from rebalancer_devregion.moray.store import ShardStore
from rebalancer_devregion.storinfo import make_storinfo_app
from tests.manager.world import NODES, record
from tests.web import Client

UUID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"


@attrs.frozen
class Rig:
    """The API of a manager whose jobs run, and its folder."""

    client: Any
    jobs: Jobs
    folder: Path
    app: Any

    async def create(self, **params: Any) -> str:
        body = {"action": "evacuate", "params": {"from_shark": "1.stor", **params}}
        reply = await self.client.post("/jobs", json=body)
        text: str = await reply.get_data(as_text=True)
        assert reply.status_code == 200, text
        return text.strip()

    async def get(self, job_id: str) -> Any:
        return await (await self.client.get(f"/jobs/{job_id}")).get_json()

    async def reach(self, job_id: str, *states: str) -> Any:
        with trio.fail_after(60):
            while (view := await self.get(job_id))["state"] not in states:  # noqa: ASYNC110
                await trio.sleep(0.02)
        return view

    async def at_work(self, job_id: str) -> Job:
        """The running job, once its peers are known: some time after it is shown as running."""
        with trio.fail_after(60):
            while (running := self.jobs.running.get(job_id)) is None or running.job is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        return running.job

    async def put(self, job_id: str, body: Any) -> tuple[int, str]:
        reply = await self.client.put(f"/jobs/{job_id}", json=body)
        return reply.status_code, await reply.get_data(as_text=True)


def heartbeat(name: str, datacenter: str) -> dict[str, Any]:
    return {
        "manta_storage_id": name,
        "datacenter": datacenter,
        "availableMB": 100_000,
        "percentUsed": 10,
        "timestamp": 1,
    }


def storage_records() -> Iterator[tuple[str, dict[str, Any]]]:
    """The nodes that can be named: 1.stor and some without objects, two that no job can empty."""
    for number in (1, *range(20, 50)):
        name = f"{number}.stor.lab"
        yield name, heartbeat(name, "dc1")
    for name in ("8.stor.lab", "9.stor.lab"):
        for datacenter in ("dc1", "dc2"):
            yield f"{name} in {datacenter}", heartbeat(name, datacenter)


def refusing_agents(begin: trio.Event | None = None) -> App:
    """The agents of all nodes, which answer, and refuse every assignment; not before `begin`."""
    app = App("agents", 1 << 20)

    @app.get("/ping")
    async def ping(_request: Request) -> Answer:
        return Answer()

    @app.post("/assignments")
    async def refuse(_request: Request) -> Answer:
        if begin is not None:
            await begin.wait()
        return Answer(b"no such thing is taken here", 400)

    return app


@asynccontextmanager
async def open_rig(
    folder: Path,
    *,
    objects: int = 0,
    also: tuple[str, ...] = (),
    agents: App | None = None,
    **changes: Any,
) -> AsyncIterator[Rig]:
    """A manager with one shard of `objects` objects, whose agents are not there but for `agents`.

    So many lie on 1.stor, and on each of the nodes `also`.
    """
    store = ShardStore(folder / "shard.sqlite")
    records = [record(number) for number in range(1, objects + 1)]
    for place, name in enumerate(also, 1):
        sharks = [attrs.asdict(Shark("dc1", name)), attrs.asdict(NODES[0].shark)]
        numbers = range(1000 * place, 1000 * place + objects)
        records += [record(number, sharks=sharks) for number in numbers]
    store.seed("manta", [(one["key"], one) for one in records])
    store.seed("manta_storage", list(storage_records()))
    listed = [heartbeat(node.manta_storage_id, node.datacenter) for node in NODES]
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(serve_shard, store, "127.0.0.1", 0)
        app = make_storinfo_app(lambda: listed)
        storinfo = await listen(nursery, app, Listen("127.0.0.1", 0), trio.Event())
        agent = "127.0.0.1:1"
        if agents is not None:
            agent = await listen(nursery, agents, Listen("127.0.0.1", 0), trio.Event())
        hosts = {node.manta_storage_id: agent for node in NODES}
        config = ManagerConfig(
            domain_name="lab",
            shards=(Shard("1.moray.lab"),),
            discovery="moray",
            data_dir=str(folder / "db"),
            hosts={**hosts, "1.moray.lab": f"{host}:{port}", "storinfo.lab": storinfo},
            **changes,
        )
        async with (
            open_http(config.hosts) as http,
            open_index(folder / "db" / "rebalancer.sqlite") as index,
        ):

            async def ask() -> Any:
                return await storage_nodes(http, config.storinfo)

            metrics = ManagerMetrics(config)
            jobs = Jobs(index, Resources(config, NodeList(ask), http, metrics))
            api = make_api(jobs, metrics)
            async with trio.open_nursery() as work:
                work.start_soon(jobs.run)
                yield Rig(Client(api), jobs, folder, api)
                work.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    store.close()


@pytest.mark.row("TEST-HTTP-2", "L35", "N26")
@pytest.mark.parametrize(
    ("accept", "as_string"),
    [("", False), ("*/*", False), ("application/json", True), ("text/html, */*", False)],
)
async def test_the_new_job_is_told_as_the_client_reads_it(
    tmp_path: Path, accept: str, as_string: bool
) -> None:
    """Bare text and a newline, or a JSON string for who names JSON."""
    async with open_rig(tmp_path) as rig:
        body = {"action": "evacuate", "params": {"from_shark": "1.stor", "max_objects": 10}}
        reply = await rig.client.post("/jobs", json=body, headers={"accept": accept})
        text = await reply.get_data(as_text=True)
        (listed,) = await (await rig.client.get("/jobs")).get_json()

    assert reply.status_code == 200
    assert reply.content_type == "application/json"
    assert text == (json.dumps(listed["id"]) if as_string else f"{listed['id']}\n")
    # What the predecessor has comes first.
    assert (listed["action"], list(listed)[:3]) == ("Evacuate", ["id", "action", "state"])


@pytest.mark.row("IMP-12", "TEST-STATUS-3", "N1")
async def test_a_job_without_objects_is_complete(tmp_path: Path) -> None:
    """All keys present when zero; the shark by its full name, with its datacenter."""
    async with open_rig(tmp_path) as rig:
        job_id = await rig.create()
        view = await rig.reach(job_id, "Complete")
        (row,) = rows(tmp_path / "db" / "rebalancer.sqlite", "SELECT id, action, state FROM jobs")
        (shark,) = rows(tmp_path / "db" / f"{job_id}.sqlite", "SELECT id, from_shark FROM config")

    names = ("Total", "Unprocessed", "Assigned", "Skipped", "Error", "Post Processing")
    expected = {"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}
    assert view["results"] == dict.fromkeys((*names, "Complete", "Duplicates"), 0)
    assert view["config"] == {
        "action": "Evacuate",
        "from_shark": expected,
        "max_objects": None,
        "tiers": None,
    }
    assert row == (job_id, "evacuate", "complete")
    assert (shark[0], json.loads(shark[1])) == (1, expected)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


@pytest.mark.row("DEF-11", "L27")
@pytest.mark.parametrize(
    ("given", "shown"), [({}, None), ({"max_objects": 0}, None), ({"max_objects": 7}, 7)]
)
async def test_the_limit_is_shown(tmp_path: Path, given: dict[str, int], shown: int | None) -> None:
    """Missing and 0 mean all; the deployed one silently took 10."""
    async with open_rig(tmp_path) as rig:
        view = await rig.get(await rig.create(**given))

    assert view["config"]["max_objects"] == shown


@pytest.mark.row("IMP-12", "N31")
async def test_no_job_is_made_for_an_unknown_shark(tmp_path: Path) -> None:
    """It is looked up first; one that is there twice fails its job, as it is shown."""
    async with open_rig(tmp_path) as rig:
        body = {"action": "evacuate", "params": {"from_shark": "77.stor"}}
        reply = await rig.client.post("/jobs", json=body)
        text = await reply.get_data(as_text=True)
        assert await (await rig.client.get("/jobs")).get_json() == []
        view = await rig.reach(await rig.create(from_shark="9.stor"), "Failed")

    assert (reply.status_code, text) == (
        400,
        "SharkNotFound: 77.stor.lab is not in manta_storage",
    )
    assert view["error"].startswith("SharkNotFound: 9.stor.lab")


async def test_a_job_is_made_though_no_shard_can_tell_of_its_shark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the shard itself; that nobody could look is a warning of the job."""
    monkeypatch.setattr(lookup, "LOOK_UP_S", 0.3)
    async with open_rig(tmp_path) as rig, trio.open_nursery() as nursery:
        # One that takes the connection and never says a word.
        silent = partial(trio.serve_tcp, _say_nothing, 0, host="127.0.0.1")
        (listener,) = await nursery.start(silent)
        port = listener.socket.getsockname()[1]
        for name, place, why in (
            ("20.stor", port, "no answer"),
            ("21.stor", 1, "1.moray.lab"),
        ):
            hosts = {**rig.jobs.resources.config.hosts, "1.moray.lab": f"127.0.0.1:{place}"}
            rig.jobs.reload(attrs.evolve(rig.jobs.resources.config, hosts=hosts))
            job_id = await rig.create(from_shark=name)
            (warning,) = (await rig.get(job_id))["warnings"]
            assert warning["check"] == "storage_record"
            assert why in warning["detail"]
        nursery.cancel_scope.cancel()


async def _say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("state", ["Running", "Setup", "Stopped"])
async def test_a_second_job_for_a_shark_is_refused(tmp_path: Path, state: str) -> None:
    """It names the first, as long as that has not ended; a retry may be made, and a dry run."""
    async with open_rig(tmp_path, objects=3) as rig:
        ended = await rig.create(strict=True)
        await rig.reach(ended, "Failed")
        await rig.reach(await rig.create(from_shark="1.stor.lab"), "Running")
        name = "1.stor" if state == "Running" else "20.stor"
        if state != "Running":
            await rig.create(from_shark=name)
        listed = await (await rig.client.get("/jobs")).get_json()
        first = listed[-1]["id"]
        if state == "Stopped":
            await rig.put(first, {"action": "pause"})
        body = {"action": "evacuate", "params": {"from_shark": f"{name}.lab"}}
        reply = await rig.client.post("/jobs", json=body)
        text = await reply.get_data(as_text=True)
        assert len(await (await rig.client.get("/jobs")).get_json()) == len(listed)
        assert (await rig.client.post(f"/jobs/{ended}/retry")).status_code == 200
        assert (await rig.client.post("/jobs", json={**body, "dry_run": True})).status_code == 200

    shown = {"Running": "running", "Setup": "setup", "Stopped": "paused"}[state]
    assert (reply.status_code, text) == (
        409,
        f"Job {first}, which is {shown}, is for {name}.lab already",
    )


async def test_of_two_jobs_for_a_shark_made_at_once_one_is(tmp_path: Path) -> None:
    """However many ask at the same time."""
    async with open_rig(tmp_path, objects=3) as rig:
        codes = []

        async def create() -> None:
            body = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
            codes.append((await rig.client.post("/jobs", json=body)).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(create)
    assert sorted(codes) == [200, *[409] * 7]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (
            {"params": {"from_shark": "1.stor", "max_object": 5}},
            422,
            "params.max_object: unknown key; did you mean max_objects?",
        ),
        (
            {"params": {"from_shark": "1.stor"}, "dryrun": True},
            422,
            "dryrun: unknown key; did you mean dry_run?",
        ),
    ],
)
async def test_a_misspelt_limit_makes_no_job(
    tmp_path: Path, body: dict[str, Any], status: int, text: str
) -> None:
    """The unknown key is named, and the nearest that is known."""
    async with open_rig(tmp_path) as rig:
        reply = await rig.client.post("/jobs", json={"action": "evacuate", **body})
        assert (reply.status_code, await reply.get_data(as_text=True)) == (status, text)
        right = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
        reply = await rig.client.post("/jobs?dry_run=true", json=right)
        assert (reply.status_code, await reply.get_data(as_text=True)) == (
            400,
            "dry_run: this call takes nothing in its query",
        )
        assert await (await rig.client.get("/jobs")).get_json() == []


@pytest.mark.row("IMP-16", "N28")
async def test_nothing_is_evacuated_while_snaplinks_must_be_cleaned_up(tmp_path: Path) -> None:
    """500 with the deployed text."""
    async with open_rig(tmp_path, snaplink_cleanup_required=True) as rig:
        body = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
        reply = await rig.client.post("/jobs", json=body)

        text = await reply.get_data(as_text=True)
        assert (reply.status_code, text) == (500, "Snaplink Cleanup Required")
        assert await (await rig.client.get("/jobs")).get_json() == []


@pytest.mark.row("IMP-13", "MIN-7", "TEST-HTTP-3", "L1", "L14")
async def test_the_number_of_updaters_changes_at_once(tmp_path: Path) -> None:
    """Of the running job; every wrong number or job gets the deployed text."""
    async with open_rig(tmp_path, objects=3) as rig:
        done = await rig.create(from_shark="9.stor")
        await rig.reach(done, "Failed")
        job_id = await rig.create()
        running = await rig.at_work(job_id)
        waiting = await rig.create(from_shark="20.stor")
        update_limiter = running.update_limiter
        before = update_limiter.in_force
        answers = {
            params: await rig.put(job_id, {"action": "set_metadata_threads", "params": params})
            for params in (30, 250, 1, 0, -5, 251)
        }
        ignored = update_limiter.in_force
        shards = [shard for shard in running.shards.values() if isinstance(shard, MorayClient)]
        connections = {shard._pool.limit for shard in shards}
        wrong = [
            await rig.put(job_id, {"action": "set_metadata_threads", "params": params})
            for params in ("3", None, 2.5, True, [3])
        ]
        change = {"action": "set_metadata_threads", "params": 3}
        others = [await rig.put(name, change) for name in (done, waiting, UUID, "7")]

    assert (before, ignored, connections) == (10, 1, {1})
    assert answers[30] == answers[250] == answers[1] == (200, "")
    assert answers[0] == answers[-5] == (400, "Cannot set metadata update threads below 1")
    assert answers[251] == (400, "Cannot set metadata update threads above 250")
    assert {status for status, _ in wrong} == {422}
    assert others == [
        (400, "Attempt to update job that is not running"),
        (200, ""),
        (400, f"Could not find job {UUID}"),
        (400, "Invalid UUID: 7"),
    ]


@pytest.mark.row("IMP-13")
async def test_static_updaters_stay(tmp_path: Path) -> None:
    """The configuration forbids the change; the text is the deployed one's."""
    options = Options(use_static_md_update_threads=True)
    async with open_rig(tmp_path, objects=3, options=options) as rig:
        job_id = await rig.create()
        await rig.at_work(job_id)
        answer = await rig.put(job_id, {"action": "set_metadata_threads", "params": 3})

    text = f"Job ({job_id}) does not support dynamic configuration updates"
    assert answer == (400, text)


@pytest.mark.row("IMP-12", "TEST-STATUS-1", "L28")
async def test_jobs_wait_for_their_turn(tmp_path: Path) -> None:
    """One runs, in order of creation; the others are in setup, listed oldest first."""
    async with open_rig(tmp_path, objects=3) as rig:
        names = [await rig.create(from_shark=f"{name}.stor") for name in (1, 20, 21)]
        await rig.reach(names[0], "Running")
        listed = await (await rig.client.get("/jobs")).get_json()

    assert [one["id"] for one in listed] == names
    assert [one["state"] for one in listed] == ["Running", "Setup", "Setup"]


@pytest.mark.row("MIN-4")
async def test_objects_that_no_agent_takes_are_skipped(tmp_path: Path) -> None:
    """Where all agents refuse, the job still ends, and tells why of each object."""
    rules: dict[str, Any] = {"options": Options(max_tasks_per_assignment=2), "max_attempts": 1}
    async with open_rig(tmp_path, objects=3, agents=refusing_agents(), **rules) as rig:
        job_id = await rig.create()
        view = await rig.reach(job_id, "Complete")

    assert view["results"]["Skipped"] == view["results"]["Total"] == 3
    reasons = "SELECT DISTINCT skipped_reason FROM evacuateobjects"
    assert rows(tmp_path / "db" / f"{job_id}.sqlite", reasons) == [("assignment_rejected",)]


@pytest.mark.row("IMP-9")
async def test_what_the_deployed_database_had_is_shown_as_it_is(tmp_path: Path) -> None:
    """A state of a job that nobody knows is kept and shown, and does not stop the others."""
    async with open_rig(tmp_path) as rig:
        job_id = await rig.create()
        await rig.reach(job_id, "Complete")
        with closing(sqlite3.connect(tmp_path / "db" / "rebalancer.sqlite")) as db, db:
            db.execute("UPDATE jobs SET state = 'dreaming' WHERE id = ?", (job_id,))
        assert (await rig.get(job_id))["state"] == "Dreaming"
        assert (await rig.reach(await rig.create(), "Complete"))["state"] == "Complete"


async def test_a_job_of_listed_objects_takes_these_only(tmp_path: Path) -> None:
    """The file's lines say which records; the scan is not made, and progress is shown."""
    path = tmp_path / "objects.ndjson"
    path.write_text('{"key": "/account/stor/3"}\n{"key": "/account/stor/5", "shard": 1}\n')
    async with open_rig(tmp_path, objects=9) as rig:
        job_id = await rig.create(objects_file=str(path))
        with trio.fail_after(20):
            while (view := await rig.get(job_id))["results"]["Total"] < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
    size = path.stat().st_size
    assert view["results"]["Total"] == 2
    assert view["scans"] == [
        {
            "tier": None,
            "shard": 0,
            "column": "file",
            "position": size,
            "until": size,
            "round": 0,
        }
    ]


async def test_a_job_takes_the_tiers_that_it_is_given(tmp_path: Path) -> None:
    """Not the bucket objects of a manager that cannot look at them: that is refused at once."""
    async with open_rig(tmp_path) as rig:
        view = await rig.reach(await rig.create(tiers=["directory"]), "Complete")
        params = {"from_shark": "1.stor", "tiers": ["directory", "buckets"]}
        for more in ({}, {"dry_run": True}):
            body = {"action": "evacuate", "params": params, **more}
            reply = await rig.client.post("/jobs", json=body)
            assert reply.status_code == 409
            assert "without buckets_primary" in await reply.get_data(as_text=True)
    assert view["config"]["tiers"] == ["directory"]
    assert view["verdict"]["verdict"] == "empty"


@pytest.mark.row("CRIT-8")
@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        (None, 400, "objects.ndjson: No such file or directory"),
        ("{}", 400, 'objects.ndjson: line 1: expected an object with a string "key"'),
    ],
)
async def test_a_bad_list_of_objects_makes_no_job(
    tmp_path: Path, text: str | None, status: int, message: str
) -> None:
    """The answer names the file and what is wrong with it."""
    path = tmp_path / "objects.ndjson"
    if text is not None:
        path.write_text(text)
    async with open_rig(tmp_path) as rig:
        params = {"from_shark": "1.stor", "objects_file": str(path)}
        reply = await rig.client.post("/jobs", json={"action": "evacuate", "params": params})
        assert reply.status_code == status
        assert message in await reply.get_data(as_text=True)
        params["objects_file"] = "objects.ndjson"
        reply = await rig.client.post("/jobs", json={"action": "evacuate", "params": params})
        assert reply.status_code == 422
        assert await (await rig.client.get("/jobs")).get_json() == []


@pytest.mark.row("IMP-14")
async def test_an_ended_job_can_be_retried(tmp_path: Path) -> None:
    """The new job has the same shark, and takes what the old one could not do."""
    async with open_rig(tmp_path) as rig:
        first = await rig.create()
        await rig.reach(first, "Complete")
        with closing(sqlite3.connect(tmp_path / "db" / f"{first}.sqlite")) as db, db:
            db.execute(
                "INSERT INTO evacuateobjects (id, shard, key, status, error)"
                " VALUES ('a', 1, '/gone', 'error', 'metadata_update_failed')"
            )
        reply = await rig.client.post(f"/jobs/{first}/retry")
        assert reply.status_code == 200
        again = (await reply.get_data(as_text=True)).strip()
        view = await rig.reach(again, "Complete")
        dropped = rows(tmp_path / "db" / f"{again}.sqlite", "SELECT * FROM dropped")

    assert view["config"]["from_shark"]["manta_storage_id"] == "1.stor.lab"
    assert dropped == [(1, "/gone", "does not exist any more")]


@pytest.mark.row("CRIT-8", "IMP-14")
async def test_what_cannot_be_retried_is_refused(tmp_path: Path) -> None:
    """A job that runs, one that is unknown, and what is no job."""
    async with open_rig(tmp_path, objects=3) as rig:
        running = await rig.create()
        await rig.reach(running, "Running")
        for job_id, status, message in (
            (running, 409, "is still running"),
            (UUID, 400, "Could not find job UUID"),
            ("nonsense", 400, "Invalid UUID"),
        ):
            reply = await rig.client.post(f"/jobs/{job_id}/retry")
            assert reply.status_code == status
            assert message in await reply.get_data(as_text=True)
