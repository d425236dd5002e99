"""The manager's API keeps what its own description promises: schemathesis asks, over a socket.

The description is the test: every operation gets well-formed and malformed requests made from it,
and each answer's code, headers, content type and body must be among those it tells of.  The
manager is a real one with a job in each state; its agents are not there, so nothing is moved.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
import schemathesis
import trio
from hypothesis import settings
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from rebalancer.domain.objects import is_loose_uuid, is_storage_id
from rebalancer.manager.http.openapi import DOCUMENT
from rebalancer.manager.http.requests import ACTIONS_ON_JOBS, SETTINGS
from rebalancer.serving.app import Application
from tests.contracts import few, make_whole
from tests.manager.http.test_api import Rig, open_rig
from tests.manager.http.test_openapi import operations
from tests.web import served_in_thread

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
schema = schemathesis.openapi.from_dict(deepcopy(dict(DOCUMENT)), config=CONFIG)
FEW = few(10)


_ENDED, _GOING = ("Complete", "Failed", "cancelled"), ("Running", "Setup")
#: The jobs of which something can be asked, by what it is: an action, or an operation.
GRANTED = {
    "delete_job": _ENDED,
    "retry_job": _ENDED,
    "pause": _GOING,
    "cancel": _GOING,
    "resume": ("paused",),
    **dict.fromkeys(SETTINGS, ("Running",)),
}


#: Nodes to name: each can have one job at a time.
FREE = tuple(f"{number}.stor.lab" for number in range(20, 50))


@attrs.define
class Served:
    """A manager's API on a socket.  Mutable state: the connection, and what has been seen."""

    url: str
    #: A file of objects, in which there are none.
    listing: Path
    session: requests.Session
    #: What was asked, by `name_of`, and the code of the answer.
    seen: set[tuple[str, int]] = attrs.field(factory=set)
    #: Jobs that were aimed at.
    turns: int = 0
    #: Requests that named a shark.
    named: int = 1

    def jobs(self) -> list[tuple[str, str]]:
        """What each job is, and its id; oldest first."""
        listed = self.session.get(f"{self.url}/jobs").json()
        return [(self._kind(job), job["id"]) for job in listed]

    def evacuation(self) -> str:
        """The id of an evacuation that has ended."""
        listed = self.session.get(f"{self.url}/jobs").json()
        return next(
            str(job["id"])
            for job in listed
            if (job["action"], job["state"]) == ("Evacuate", "Complete")
        )

    def _kind(self, job: dict[str, str]) -> str:
        if job["state"] != "Stopped":
            return job["state"]
        view = self.session.get(f"{self.url}/jobs/{job['id']}").json()
        return "paused" if view.get("wish") == "pause" else "cancelled"

    def job(self, name: str) -> str:
        """By turns a job of which this can be asked, if there is any, and one of each kind."""
        self.turns += 1
        jobs = self.jobs()
        fit = [job_id for kind, job_id in jobs if kind in GRANTED.get(name, ())]
        if fit and self.turns % 2:
            # The latest ones may be retried by others, which keeps them from being removed.
            return fit[0] if name == "delete_job" else fit[-1]
        latest = dict(jobs)
        return latest[sorted(latest)[self.turns // 2 % len(latest)]]


async def make_jobs(rig: Rig, listing: Path) -> None:
    """One in each state: complete, failed, cancelled, paused, running and waiting."""
    for _ in range(3):
        await rig.reach(await rig.create(objects_file=str(listing)), "Complete")
    await rig.reach(await rig.create(from_shark="9.stor"), "Failed")
    cancelled = await rig.create()
    with trio.fail_after(20):
        while not (await rig.get(cancelled))["results"]["Total"]:  # noqa: ASYNC110
            await trio.sleep(0.02)
    await rig.put(cancelled, {"action": "cancel"})
    await rig.reach(cancelled, "Stopped")
    await rig.put(await rig.create(from_shark=FREE[0]), {"action": "pause"})
    await rig.reach(await rig.create(), "Running")
    await rig.create(from_shark=FREE[1])


@asynccontextmanager
async def open_app(folder: Path) -> AsyncIterator[Application]:
    (folder / "objects.ndjson").touch()
    async with open_rig(folder, objects=5, also=FREE) as rig:
        await make_jobs(rig, folder / "objects.ndjson")
        yield rig.app


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A manager in a thread of its own, because schemathesis blocks."""
    folder = tmp_path_factory.mktemp("served")
    with served_in_thread(partial(open_app, folder)) as url, requests.Session() as session:
        yield Served(url, folder / "objects.ndjson", session)


def check(
    case: schemathesis.Case[Any],
    at: Served,
    accept: str,
    unfit: tuple[CheckFunction, ...] = (),
) -> None:
    """Ask, and make all of schemathesis' checks but those that are `unfit`."""
    aim(case, at)
    headers = {"Accept": accept}
    # A change of bandwidth waits for agents, which are not there.
    answer = case.call_and_validate(
        at.url, at.session, headers, excluded_checks=[*unfit], timeout=90
    )
    at.seen.add((name_of(case), answer.status_code))


def name_of(case: schemathesis.Case[Any]) -> str:
    """What is asked: an action on a job, or else an operation; empty for a method of none."""
    operation = operations().get((case.method, case.operation.path), {})
    if case.method == "PUT" and isinstance(case.body, dict):
        action = case.body.get("action")
        return str(action) if action in ACTIONS_ON_JOBS else ""
    return str(operation.get("operationId", ""))


def aim(case: schemathesis.Case[Any], at: Served) -> None:
    """Let what is well-formed mean something that exists."""
    job_id = case.path_parameters.get("job_id")
    if is_loose_uuid(job_id):
        case.path_parameters["job_id"] = at.job(name_of(case))
    if is_storage_id(shark := case.path_parameters.get("shark")) and ":" not in str(shark):
        at.named += 1
        case.path_parameters["shark"] = FREE[at.named % len(FREE)]
    if name_of(case) == "list_jobs" and is_loose_uuid((case.query or {}).get("after")):
        case.query["after"] = at.evacuation()
    params = case.body.get("params") if isinstance(case.body, dict) else None
    if isinstance(params, dict):
        make_whole(params, but=("sample",))
        for name in ("from_shark", "shark"):
            if is_storage_id(shark := params.get(name)) and ":" not in str(shark):
                at.named += 1
                params[name] = FREE[at.named % len(FREE)]
        if is_loose_uuid(params.get("job")):
            params["job"] = at.evacuation()
        file = params.get("objects_file")
        if isinstance(file, str) and file.startswith("/") and "\0" not in file:
            params["objects_file"] = str(at.listing)


def contract_of(
    name: str, accept: str = "application/json", unfit: tuple[CheckFunction, ...] = ()
) -> Any:
    """The test of an operation.

    Well-formed requests are taken, others not, and every answer is one of those described.
    """

    @schema.include(operation_id=name).parametrize()
    @FEW
    def test(case: schemathesis.Case[Any], served: Served) -> None:
        check(case, served, accept, unfit)

    return test


# Each has a name of its own: of tests that share one, pytest-xdist runs one.  Ids of new jobs are
# JSON only for clients that ask for it.
test_list_jobs = contract_of("list_jobs")
test_create_job = contract_of("create_job")
test_get_job = contract_of("get_job")
test_retry_job = contract_of("retry_job")
test_list_objects = contract_of("list_objects")
test_summarize_job = contract_of("summarize_job")
test_report_job = contract_of("report_job")
test_check_node = contract_of("check_node")
# Which strings lead to a PostgreSQL, no schema tells; where none is there, the answer is 503.
_OF_IMPORTS = (positive_data_acceptance, not_a_server_error)
test_list_imports = contract_of("list_imports", unfit=_OF_IMPORTS)
test_import_job = contract_of("import_job", unfit=_OF_IMPORTS)
test_ping = contract_of("ping")
test_status = contract_of("status")
test_describe = contract_of("describe")
# Errors as text.  Whether a change is taken depends on the job, which no schema tells.  These leave
# fewer jobs than they found, so they come last.
test_change_job = contract_of("change_job", "*/*", (positive_data_acceptance,))
test_delete_job = contract_of("delete_job", "*/*", (positive_data_acceptance,))


def test_calls_that_follow_one_another_keep_it(served: Served) -> None:
    """Along the links: from the list, or a job made by a retry, to what is asked of that job."""
    config = schemathesis.Config.from_dict(
        {
            "seed": 1,
            "base-url": served.url,
            "headers": {"Accept": "application/json"},
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    )
    linked = schemathesis.openapi.from_dict(deepcopy(dict(DOCUMENT)), config=config)
    granted = set[str]()

    @linked.hook
    def after_call(_context: Any, case: schemathesis.Case[Any], answer: Any) -> None:
        if answer.status_code == 200 and "job_id" in case.path_parameters:
            granted.add(name_of(case))

    linked.as_state_machine().run(settings=settings(FEW, stateful_step_count=5))

    assert len(granted) > 2


def test_every_call_was_granted_too(served: Served) -> None:
    """Of each operation, and each action on jobs, the tests above have not met refusals only."""
    if not served.seen:
        pytest.skip("the tests above did not run")
    # Imports need a PostgreSQL, with which `tests/manager/jobs/test_imports.py` asks.
    elsewhere = {"change_job", "list_imports", "import_job"}
    names = {one["operationId"] for one in operations().values()} - elsewhere
    every = {(name, 200) for name in (*names, *ACTIONS_ON_JOBS)}

    assert every - served.seen == set()
