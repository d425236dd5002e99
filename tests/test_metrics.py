"""What both programs export, after small real jobs, and what the page says of it."""

import re
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import trio

from rebalancer.domain import reasons
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.figures import Figures
from rebalancer.metrics import metrics_app
from tests import families
from tests.agent.scripted import open_rig as open_agent_rig
from tests.families import Family
from tests.manager.http.test_api import open_rig
from tests.manager.world import FakeAgents, object_id
from tests.sources import Answer, ok, task
from tests.web import Client

DESTINATION = "6.stor.lab"


async def scrape_manager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Scrapes of a manager that empties a node, one object skipped and one in error."""
    agents = FakeAgents(failures={object_id(2): reasons.MD5_MISMATCH})
    monkeypatch.setattr(Resources, "agents", lambda _self, _config: agents)
    texts = list[str]()
    async with open_rig(folder, objects=6) as rig:
        with closing(sqlite3.connect(folder / "shard.sqlite")) as db, db:
            db.execute("UPDATE manta SET _value = replace(_value, 'contentLength\":1004', 'x\":1')")
        shared = rig.jobs.resources
        shared.metrics.watch_fleet(shared.fleet_ledger, shared.node_list)
        app = Client(metrics_app(shared.metrics.registry, Figures(rig.jobs.queries).refresh))

        async def scrape() -> None:
            texts.append(await (await app.get("/metrics")).get_data(as_text=True))

        # What seldom happens, and would take minutes.
        shared.node_list.waits.begin("storinfo", "no answer")
        shared.fleet_ledger.health.failed(DESTINATION)
        shared.fleet_ledger.health.set_away(DESTINATION, "no answer")
        await scrape()
        job_id = await rig.create()
        await rig.at_work(job_id)
        running = rig.jobs.running[job_id]
        running.waits.begin("shard 1", "no answer")
        await scrape()
        running.rates.add(trio.current_time() - 1, -1, -1)
        with trio.fail_after(30):
            while (await rig.get(job_id))["state"] == "Running":
                await scrape()
                await trio.sleep(0.05)
        await scrape()
    return texts


async def scrape_agent(folder: Path) -> Sequence[str]:
    """Scrapes of an agent that pulls one object and fails at another."""
    content, come = b"an object", trio.Event()
    gone = Answer(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    texts = list[str]()

    def answer(_request: int, path: str) -> Answer:
        return gone if path.endswith("9") else Answer(ok(content)[:-1], content[-1:], come)

    async with open_agent_rig(folder, answer) as rig:
        app = Client(metrics_app(rig.agent.metrics.registry))
        # What seldom happens.
        rig.agent.worker.waits.begin("assignment 7", "no file handles")
        assert (await rig.post([task(1, content), task(9, content)])).status_code == 200
        with trio.fail_after(20):
            while not rig.agent.metrics.registry.get_sample_value("rebalancer_agent_running_tasks"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        texts.append(await (await app.get("/metrics")).get_data(as_text=True))
        come.set()
        assert len(await rig.finish()) == 1
        texts.append(await (await app.get("/metrics")).get_data(as_text=True))
    return texts


_texts: list[str] = []
_scraped: dict[str, Mapping[str, Family]] = {}


@pytest.fixture
async def scraped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, Mapping[str, Family]]:
    """The families of both programs, each from one small job for all tests."""
    if not _scraped:
        manager = await scrape_manager(tmp_path / "manager", monkeypatch)
        agent = await scrape_agent(tmp_path)
        _texts.extend((*manager[:2], manager[-1], *agent))
        _scraped.update(manager=families.read(*manager), agent=families.read(*agent))
    return _scraped


#: Families that stay 0 after a job that goes well, and why.
STILL = {
    "queue_length": "a message is in a channel for moments only",
    "log_lines_dropped_total": "the log can be written",
    "rebalancer_agent_cleanup_failures_total": "temporary files can be removed",
    "rebalancer_agent_state_write_retries_total": "state can be written",
    "rebalancer_job_bucket_objects": "the region has no bucket objects",
    "rebalancer_agent_quarantined_total": "all state files are assignments",
}


async def test_every_family_moves(scraped: Mapping[str, Mapping[str, Family]]) -> None:
    """A family that nobody counts in is a promise to an operator that is not kept."""
    still = {one.name for all_ in scraped.values() for one in all_.values() if not one.has_moved}
    assert still - {"queue_length"} == STILL.keys() - {"queue_length"}


@pytest.mark.row("IMP-3")
@pytest.mark.parametrize("program", families.PROGRAMS)
async def test_the_page_has_every_family(
    scraped: Mapping[str, Mapping[str, Family]], program: str
) -> None:
    """With its type, labels and text, and no other."""
    assert scraped[program] == families.documented(program)


@pytest.mark.parametrize("program", families.PROGRAMS)
async def test_names_and_texts_of_ours_are_as_they_should_be(
    scraped: Mapping[str, Mapping[str, Family]], program: str
) -> None:
    """A sentence each; counters end in `_total`; a time, a size and a share name their unit."""
    for one in scraped[program].values():
        assert re.fullmatch(r"[A-Z1].*\.", one.text), one
        if one.name not in families.DEPLOYED:
            assert (one.type == "counter") == one.name.endswith("_total"), one
            for word, unit in (("Seconds ", "seconds"), ("Bytes ", "bytes"), ("Share ", "ratio")):
                if one.text.startswith(word) and "per_second" not in one.name:
                    assert unit in one.name, one


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
async def test_promtool_finds_fault_with_older_names_only(
    scraped: Mapping[str, Mapping[str, Family]],
) -> None:
    """`md_thread_gauge` has its type in its name, because the deployed manager has it so."""
    for text in _texts:
        checked = await trio.run_process(
            ["promtool", "check", "metrics"], stdin=text.encode(), capture_stderr=True, check=False
        )
        for line in checked.stderr.decode().splitlines():
            assert line.split()[0] in families.DEPLOYED, line
