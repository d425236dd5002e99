"""The manager's API keeps what its own description promises: schemathesis asks, over a socket.

The description is the test: every operation gets well-formed and malformed requests made from it,
and each answer's code, headers, content type and body must be among those it tells of.  The
manager is a real one with a job in each state; its agents are not there, so nothing is moved.
"""

import itertools
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
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import positive_data_acceptance

from rebalancer.daemon import Listen, listen
from rebalancer.domain.objects import is_loose_uuid, is_storage_id
from rebalancer.manager.openapi import DOCUMENT
from tests.manager.test_api import UUID, Rig, open_rig
from tests.manager.test_openapi import operations

# The manager's thread draws random numbers too, which hypothesis takes for its strategies' doing.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)

CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 1,
        "phases": {"coverage": {"generate-duplicate-query-parameters": True}},
    }
)
schema = schemathesis.openapi.from_dict(dict(DOCUMENT), config=CONFIG)
#: These leave fewer jobs than they found, so they come last.
CHANGING = ["change_job", "delete_job"]
FEW = settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    # It looks at the clock.
    suppress_health_check=[HealthCheck.too_slow],
)


@attrs.frozen
class Served:
    """A manager's API on a socket.  Mutable state: the connection, turns, what was seen."""

    url: str
    #: A file of objects, in which there are none.
    listing: Path
    session: requests.Session
    #: Method, path and code of each answer.
    seen: set[tuple[str, str, int]] = attrs.field(factory=set)

    turns: Iterator[int] = attrs.field(factory=itertools.count)

    def job(self) -> str:
        """The latest job of a state, of another one each time; an unknown one if there is none."""
        jobs = self.session.get(f"{self.url}/jobs").json()
        latest = {job["state"]: job["id"] for job in jobs}
        return str(latest[sorted(latest)[next(self.turns) % len(latest)]]) if latest else UUID


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
    """A manager in a thread of its own, because schemathesis blocks."""
    folder = tmp_path_factory.mktemp("served")
    started = Future[tuple[str, trio.Event, Any]]()

    def run() -> None:
        try:
            trio.run(serve, folder, started)
        except Exception as exc:
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


def check(
    case: schemathesis.Case[Any],
    at: Served,
    accept: str,
    unfit: tuple[CheckFunction, ...] = (),
) -> None:
    """Ask, and make all of schemathesis' checks but those that are `unfit`."""
    aim(case, at)
    headers = {"Accept": accept}
    # A change of bandwidth waits for agents, which are not there, and other changes wait for it.
    answer = case.call_and_validate(
        at.url, at.session, headers, excluded_checks=[*unfit], timeout=90
    )
    at.seen.add((case.method, case.operation.path, answer.status_code))


def aim(case: schemathesis.Case[Any], at: Served) -> None:
    """Let what is well-formed mean something that exists."""
    job_id = case.path_parameters.get("job_id")
    if isinstance(job_id, str) and is_loose_uuid(job_id):
        case.path_parameters["job_id"] = at.job()
    params = case.body.get("params") if isinstance(case.body, dict) else None
    if isinstance(params, dict):
        shark, file = params.get("from_shark"), params.get("objects_file")
        if is_storage_id(shark) and ":" not in str(shark):
            params["from_shark"] = "1.stor"
        if isinstance(file, str) and file.startswith("/") and "\0" not in file:
            params["objects_file"] = str(at.listing)


@schema.exclude(operation_id=CHANGING).parametrize()
@FEW
def test_the_api_keeps_what_its_description_promises(
    case: schemathesis.Case[Any], served: Served
) -> None:
    """Well-formed requests are taken, others not, and every answer is one of those described."""
    # Ids of new jobs are JSON for such clients only.
    check(case, served, "application/json")


@schema.include(operation_id=CHANGING).parametrize()
@FEW
def test_so_do_the_calls_that_change_jobs(case: schemathesis.Case[Any], served: Served) -> None:
    """Errors as text; whether a change is taken depends on the job, which no schema tells."""
    check(case, served, "*/*", (positive_data_acceptance,))


def test_every_call_was_granted_too(served: Served) -> None:
    """The tests above have not met refusals only."""
    if not served.seen:
        pytest.skip("the tests above did not run")
    asked = {(method, path) for method, path, _ in served.seen}

    assert [call for call in operations().keys() & asked if (*call, 200) not in served.seen] == []
