"""The manager's API keeps what its own description promises: schemathesis asks, over a socket.

The description is the test: every operation gets well-formed and malformed requests made from it,
and each answer's code, headers, content type and body must be among those it tells of.  The
manager is a real one with a job in each state; its agents are not there, so nothing is moved.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
import schemathesis
import trio
from hypothesis import HealthCheck, settings

from rebalancer.daemon import Listen, listen
from rebalancer.domain.objects import is_loose_uuid, is_storage_id
from rebalancer.manager.openapi import DOCUMENT
from tests.manager.test_api import Rig, open_rig

CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 1,
        "phases": {"coverage": {"generate-duplicate-query-parameters": True}},
        "operations": [
            {
                # What a job takes depends on its state, which no schema tells.
                "include-operation-id": "change_job",
                "checks": {"positive_data_acceptance": {"enabled": False}},
            },
        ],
    }
)
schema = schemathesis.openapi.from_dict(dict(DOCUMENT), config=CONFIG)


@attrs.frozen
class Served:
    """A manager's API on a socket, and a file of objects that jobs can take."""

    url: str
    listing: Path
    session: requests.Session

    def job(self, number: int) -> str:
        """The latest job of one of the states there are."""
        jobs = self.session.get(f"{self.url}/jobs").json()
        latest = {job["state"]: job["id"] for job in jobs}
        return str(latest[sorted(latest)[number % len(latest)]])


async def make_jobs(rig: Rig, listing: Path) -> None:
    """One in each state: complete, failed, cancelled, paused, running and waiting."""
    await rig.reach(await rig.create(objects_file=str(listing)), "Complete")
    await rig.reach(await rig.create(from_shark="9.stor"), "Failed")
    cancelled = await rig.create()
    with trio.fail_after(20):
        while not (await rig.get(cancelled))["results"]["Total"]:  # noqa: ASYNC110
            await trio.sleep(0.02)
    await rig.put(cancelled, {"action": "cancel"})
    await rig.reach(cancelled, "Stopped")
    await rig.put(await rig.create(), {"action": "pause"})
    await rig.reach(await rig.create(), "Running")
    await rig.create()


async def serve(folder: Path, started: Future[tuple[str, trio.Event, Any]]) -> None:
    listing = folder / "objects.ndjson"
    listing.touch()
    stopping = trio.Event()
    async with open_rig(folder, objects=5) as rig, trio.open_nursery() as nursery:
        await make_jobs(rig, listing)
        address = await listen(nursery, rig.client.app, Listen("127.0.0.1", 0), stopping)
        started.set_result((address, stopping, trio.lowlevel.current_trio_token()))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """In a thread of its own, because schemathesis blocks."""
    folder = tmp_path_factory.mktemp("served")
    started = Future[tuple[str, trio.Event, Any]]()

    def run() -> None:
        try:
            trio.run(serve, folder, started)
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    thread = threading.Thread(target=run)
    thread.start()
    address, stopping, token = started.result()
    with requests.Session() as session:
        yield Served(f"http://{address}", folder / "objects.ndjson", session)
    trio.from_thread.run_sync(stopping.set, trio_token=token)
    thread.join()


def aim(case: schemathesis.Case[Any], at: Served) -> None:
    """Let what is well-formed mean something that exists."""
    job_id = case.path_parameters.get("job_id")
    if isinstance(job_id, str) and is_loose_uuid(job_id):
        case.path_parameters["job_id"] = at.job(int(job_id.replace("-", ""), 16))
    params = case.body.get("params") if isinstance(case.body, dict) else None
    if isinstance(params, dict):
        shark, file = params.get("from_shark"), params.get("objects_file")
        if is_storage_id(shark) and ":" not in str(shark):
            params["from_shark"] = "1.stor"
        if isinstance(file, str) and file.startswith("/") and "\0" not in file:
            params["objects_file"] = str(at.listing)


@schema.parametrize()
@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_the_api_keeps_what_its_description_promises(
    case: schemathesis.Case[Any], served: Served
) -> None:
    """Every answer is one of those described, and nothing malformed is taken."""
    aim(case, served)
    # Jobs' ids are JSON for such clients only.
    headers = {"accept": "application/json"}
    case.call_and_validate(base_url=served.url, session=served.session, headers=headers)
