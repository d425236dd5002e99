"""The agent's API keeps what its own description promises: schemathesis asks, over a socket.

As `tests/manager/http/test_contract.py` does with the manager's.  The agent is a real one that
pulls from a source, with an assignment that is complete and one that never is.
"""

import json
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
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

from rebalancer.agent.openapi import description
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.serving.app import Application
from tests.agent.scripted import open_rig
from tests.contracts import few, make_whole
from tests.sources import Answer, ok, task, uuid
from tests.web import served_in_thread

# The agent's thread draws random numbers too, which hypothesis takes for its strategies' doing.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)

OBJECT = b"an object"
KNOWN = COMPLETE, STUCK, UNKNOWN = uuid(1001), uuid(1002), uuid(1003)
CONFIG = schemathesis.Config.from_dict({"seed": 1})
schema = schemathesis.openapi.from_dict(deepcopy(description()), config=CONFIG)
FEW = few(5)


@attrs.define
class Served:
    """An agent's API on a socket.  Mutable state: the connection, and what has been seen."""

    url: str
    session: requests.Session
    #: What was asked, by the name of the call, and the code of the answer.
    seen: set[tuple[str, int]] = attrs.field(factory=set)
    #: Assignments that were named.
    turns: int = 0


@asynccontextmanager
async def open_app(folder: Path) -> AsyncIterator[Application]:
    def answer(_number: int, path: str) -> Answer:
        return Answer(b"", hang=True) if path.endswith(uuid(9)) else Answer(ok(OBJECT))

    async with open_rig(folder, answer) as rig:
        await rig.post([task(1, OBJECT)], COMPLETE)
        await rig.finish(COMPLETE)
        await rig.post([task(9, OBJECT)], STUCK)
        yield rig.client.app


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An agent in a thread of its own, because schemathesis blocks."""
    folder = tmp_path_factory.mktemp("served")
    with served_in_thread(partial(open_app, folder)) as url, requests.Session() as session:
        yield Served(url, session)


def aim(case: schemathesis.Case[Any], at: Served) -> None:
    """Let a well-formed id be that of an assignment, or a new one in a body."""
    at.turns += 1
    if is_loose_uuid(case.path_parameters.get("assignment_id")):
        case.path_parameters["assignment_id"] = KNOWN[at.turns % len(KNOWN)]
    if not isinstance(case.body, dict):
        return
    if isinstance(case.body.get("id"), str):
        case.body["id"] = uuid(2000 + at.turns)
    make_whole(case.body)


def has_status(body: Any) -> bool:
    """Tell whether a posted task has a status, in which the agent overlooks most of what is odd."""
    tasks = body.get("tasks") if isinstance(body, dict) else None
    return isinstance(tasks, list) and any(isinstance(t, dict) and "status" in t for t in tasks)


def has_nul(body: Any) -> bool:
    """Tell whether there is NUL in a text or a key, which no schema forbids and no file takes."""
    return not isinstance(body, bytes) and "\\u0000" in json.dumps(body, default=str)


def contract_of(name: str, unfit: tuple[CheckFunction, ...] = ()) -> Any:
    """The test of a call: what is well-formed is taken, other requests are not."""

    @schema.include(operation_id=name).parametrize()
    @FEW
    def test(case: schemathesis.Case[Any], served: Served) -> None:
        aim(case, served)
        excluded = [
            *unfit,
            *[negative_data_rejection] * has_status(case.body),
            *[positive_data_acceptance] * has_nul(case.body),
        ]
        answer = case.call_and_validate(
            served.url, served.session, excluded_checks=excluded, timeout=20
        )
        served.seen.add((name, answer.status_code))

    return test


test_ping = contract_of("ping")
test_status = contract_of("status")
test_describe = contract_of("describe")
test_get_limits = contract_of("get_limits")
test_put_limits = contract_of("put_limits")
test_reset_bandwidth = contract_of("reset_bandwidth")
test_post_assignment = contract_of("post_assignment")
test_list_assignments = contract_of("list_assignments")
# Whether there is such an assignment, no schema tells.
test_get_assignment = contract_of("get_assignment", (positive_data_acceptance,))
test_delete_assignment = contract_of("delete_assignment", (positive_data_acceptance,))


def test_every_call_was_granted_too(served: Served) -> None:
    """The tests above have not met refusals only."""
    if not served.seen:
        pytest.skip("the tests above did not run")
    calls = [
        call["operationId"]
        for path in description()["paths"].values()
        for method, call in path.items()
        if method != "parameters"
    ]
    assert {(name, 200) for name in calls} - served.seen == set()
