"""The agent's API in both dialects, by golden JSON."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer import wire
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.errors import BadRequest
from rebalancer.wire import Dialect
from tests.domain.test_reasons import SPELLINGS

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
MD5 = "L9NrIZXTY37AYVZN9+gZ7w=="
SOURCE = {"datacenter": "dc1", "manta_storage_id": "2.stor.lab"}
TASK = {"object_id": ID, "owner": ID, "md5sum": MD5, "source": SOURCE}

STATUSES: list[tuple[wire.TaskStatus, Any, Any]] = [
    (wire.PENDING, "Pending", {"state": "Pending"}),
    (wire.COMPLETE, "Complete", {"state": "Complete"}),
    (
        wire.failed(reasons.MD5_MISMATCH),
        {"Failed": "MD5Mismatch"},
        {"state": "Failed", "reason": {"type": "MD5Mismatch"}},
    ),
    (
        wire.failed(reasons.http_status_code(404)),
        {"Failed": {"HTTPStatusCode": 404}},
        {"state": "Failed", "reason": {"type": "HTTPStatusCode", "status_code": 404}},
    ),
    (
        wire.failed(Reason("Unheard")),
        {"Failed": "Unheard"},
        {"state": "Failed", "reason": {"type": "Unheard"}},
    ),
]


@pytest.mark.row("TEST-TYPES-1", "TEST-TYPES-2", "N26")
@pytest.mark.parametrize(("status", "legacy", "tagged"), STATUSES)
def test_statuses_in_both_dialects(status: wire.TaskStatus, legacy: Any, tagged: Any) -> None:
    """Each spelling is the deployed programs', and both are read."""
    assert legacy == wire.status_to_wire(status, Dialect.LEGACY)
    assert tagged == wire.status_to_wire(status, Dialect.TAGGED)
    assert status == wire.status_from_wire(legacy)
    assert status == wire.status_from_wire(tagged)


@pytest.mark.row("TEST-TYPES-2", "N26", "DEF-15")
@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_reason_in_both_dialects(name: str, dialect: Dialect) -> None:
    """Each comes back as it went, as a word or with its type, and from either reader."""
    sent = wire.status_to_wire(wire.failed(Reason(name)), dialect)
    words = {Dialect.LEGACY: {"Failed": name}, Dialect.TAGGED: {"type": name}}

    assert words[dialect] in (sent, sent.get("reason"))
    assert wire.status_from_wire(sent) == wire.failed(Reason(name))
    coded = wire.failed(reasons.http_status_code(599))
    assert wire.status_from_wire(wire.status_to_wire(coded, dialect)) == coded


def test_running_and_missing_mean_pending() -> None:
    """A task status of old prose, and no status at all."""
    assert wire.status_from_wire("Running") == wire.PENDING
    assert wire.read_assignment({"id": ID, "tasks": [TASK]}).tasks[0].status == wire.PENDING


def test_both_shapes_of_an_assignment_are_read() -> None:
    """The object that is posted and the array of the old documentation."""
    as_object = wire.read_assignment({"id": ID, "tasks": [TASK], "unknown": 1})
    assert as_object == wire.read_assignment([ID, [TASK]])
    assert as_object.tasks[0].source == Shark("dc1", "2.stor.lab")


REPORTS = [
    (("Scheduled", 0, 0, 3, None), "Scheduled"),
    (("Running", 0, 1, 3, None), "Running"),
    (("Complete", 0, 3, 3, ()), {"Complete": None}),
]


@pytest.mark.parametrize(("stats", "state"), REPORTS)
def test_reports_in_legacy(stats: Any, state: Any) -> None:
    """What the deployed manager reads."""
    report = wire.AssignmentReport(ID, wire.AssignmentStats(*stats))
    told = wire.report_to_wire(report, Dialect.LEGACY)
    _, failed, complete, total, _ = stats
    assert told == {
        "uuid": ID,
        "stats": {"state": state, "failed": failed, "complete": complete, "total": total},
    }
    assert report == wire.read_report(told)


@pytest.mark.parametrize("dialect", Dialect)
def test_failed_tasks_are_listed_in_full(dialect: Dialect) -> None:
    """The manager learns which tasks failed, why and from which source."""
    (task,) = wire.read_assignment({"id": ID, "tasks": [TASK]}).tasks
    bad = wire.Task(task.object_id, task.owner, task.md5sum, task.source, STATUSES[3][0])
    report = wire.AssignmentReport(ID, wire.AssignmentStats("Complete", 1, 1, 1, (bad,)))
    assert report == wire.read_report(wire.report_to_wire(report, dialect))


@pytest.mark.row("A1", "A2")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"owner": "../../etc"}, 'expected a UUID, got "../../etc" at $.tasks[0].owner'),
        ({"object_id": 5}, "expected a UUID, got 5 at $.tasks[0].object_id"),
        ({"md5sum": "AAAA"}, "at $.tasks[0].md5sum"),
        ({"source": {"datacenter": "dc1", "manta_storage_id": "a/b"}}, "a host name"),
        ({"source": {"datacenter": "dc1", "manta_storage_id": "u@h"}}, "source"),
        ({"source": {"datacenter": "dc1", "manta_storage_id": "h?x"}}, "source"),
        ({"source": {"datacenter": "dc1", "manta_storage_id": "h h"}}, "source"),
        ({"source": 7}, "source"),
        ({"status": {"Failed": 7}}, "expected a reason"),
    ],
)
def test_a_task_that_cannot_be_used_is_named(change: dict[str, Any], told: str) -> None:
    """The message says which task, which field and what was expected."""
    with pytest.raises(BadRequest, match=".+") as caught:
        wire.read_assignment({"id": ID, "tasks": [{**TASK, **change}]})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "body", [None, 5, "x", [], [ID], {}, {"id": ID}, {"id": "x", "tasks": []}, {"tasks": []}]
)
def test_what_is_no_assignment_is_refused(body: Any) -> None:
    """Whatever JSON is posted, the answer is a message."""
    with pytest.raises(BadRequest):
        wire.read_assignment(body)


@pytest.mark.row("A3", "DEF-4")
def test_one_object_twice_is_refused() -> None:
    """Two tasks with one object would race for one file."""
    with pytest.raises(BadRequest, match=r"tasks\[1\]"):
        wire.read_assignment({"id": ID, "tasks": [TASK, {**TASK, "object_id": ID.upper()}]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "tasks", "owner", "source", "state"]), inner)
    ),
    max_leaves=10,
)


@pytest.mark.row("A3")
@given(JSON)
def test_no_json_is_a_traceback(body: Any) -> None:
    """Reading an assignment or a report ends in a value or in BadRequest."""
    for read in (wire.read_assignment, wire.read_report):
        try:
            read(body)
        except BadRequest as exc:
            assert str(exc)


@given(st.text(max_size=20))
def test_text_that_is_no_json_is_told(text: str) -> None:
    """Parsing never raises anything else."""
    try:
        wire.parse_json(text)
    except BadRequest as exc:
        assert "not JSON" in str(exc)


def test_a_posted_task_has_no_status_unless_the_dialect_is_known() -> None:
    """Each predecessor refuses the other's spelling of a pending task, and both take none."""
    assignment = wire.read_assignment({"id": ID, "tasks": [TASK]})
    (plain,) = wire.assignment_to_wire(assignment, wire.PostForm.LEGACY)["tasks"]
    (tagged,) = wire.assignment_to_wire(assignment, wire.PostForm.TAGGED)["tasks"]
    assert plain == TASK
    assert tagged == {**TASK, "status": {"state": "Pending"}}
