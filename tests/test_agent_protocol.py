"""The agent's API in both dialects, by golden JSON."""

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer import converter
from rebalancer.agent_protocol import (
    COMPLETE,
    MAX_TASKS,
    PENDING,
    Assignment,
    AssignmentReport,
    AssignmentStats,
    Dialect,
    PostForm,
    ReportedState,
    Task,
    TaskStatus,
    assignment_body,
    detect_dialect,
    failed,
    read_assignment,
    read_report,
    report_to_wire,
    status_from_wire,
    status_to_wire,
)
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.errors import BadRequest, TooLarge
from tests.domain.test_reasons import SPELLINGS

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
MD5 = "L9NrIZXTY37AYVZN9+gZ7w=="
SOURCE = {"datacenter": "dc1", "manta_storage_id": "2.stor.lab"}
TASK = {"object_id": ID, "owner": ID, "md5sum": MD5, "source": SOURCE}

STATUSES: list[tuple[TaskStatus, Any, Any]] = [
    (PENDING, "Pending", {"state": "Pending"}),
    (COMPLETE, "Complete", {"state": "Complete"}),
    (
        failed(reasons.MD5_MISMATCH),
        {"Failed": "MD5Mismatch"},
        {"state": "Failed", "reason": {"type": "MD5Mismatch"}},
    ),
    (
        failed(reasons.http_status_code(404)),
        {"Failed": {"HTTPStatusCode": 404}},
        {"state": "Failed", "reason": {"type": "HTTPStatusCode", "status_code": 404}},
    ),
    (
        failed(Reason("Unheard")),
        {"Failed": "Unheard"},
        {"state": "Failed", "reason": {"type": "Unheard"}},
    ),
]


@pytest.mark.row("TEST-TYPES-1", "TEST-TYPES-2", "N26")
@pytest.mark.parametrize(("status", "legacy", "tagged"), STATUSES)
def test_statuses_in_both_dialects(status: TaskStatus, legacy: Any, tagged: Any) -> None:
    """Each spelling is the deployed programs', and both are read."""
    assert legacy == status_to_wire(status, Dialect.LEGACY)
    assert tagged == status_to_wire(status, Dialect.TAGGED)
    assert status == status_from_wire(legacy)
    assert status == status_from_wire(tagged)


@pytest.mark.row("TEST-TYPES-2", "N26", "DEF-15")
@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_reason_in_both_dialects(name: str, dialect: Dialect) -> None:
    """Each comes back as it went, as a word or with its type, and from either reader."""
    sent = status_to_wire(failed(Reason(name)), dialect)
    words = {Dialect.LEGACY: {"Failed": name}, Dialect.TAGGED: {"type": name}}

    assert words[dialect] in (sent, sent.get("reason"))
    assert status_from_wire(sent) == failed(Reason(name))
    coded = failed(reasons.http_status_code(599))
    assert status_from_wire(status_to_wire(coded, dialect)) == coded


def test_running_and_missing_mean_pending() -> None:
    """A task status of old prose, and no status at all."""
    assert status_from_wire("Running") == PENDING
    assert read_assignment({"id": ID, "tasks": [TASK]}).tasks[0].status == PENDING


def test_both_shapes_of_an_assignment_are_read() -> None:
    """The object that is posted and the array of the old documentation."""
    as_object = read_assignment({"id": ID, "tasks": [TASK], "unknown": 1})
    assert as_object == read_assignment([ID, [TASK]])
    assert as_object.tasks[0].source == Shark("dc1", "2.stor.lab")


REPORTS = [
    (("Scheduled", 0, 0, 3, None), "Scheduled"),
    (("Running", 0, 1, 3, None), "Running"),
    (("Complete", 0, 3, 3, ()), {"Complete": None}),
]


@pytest.mark.parametrize(("stats", "state"), REPORTS)
def test_reports_in_legacy(stats: Any, state: Any) -> None:
    """What the deployed manager reads."""
    report = AssignmentReport(ID, AssignmentStats(*stats))
    told = report_to_wire(report, Dialect.LEGACY)
    _, failed, complete, total, _ = stats
    assert told == {
        "uuid": ID,
        "stats": {"state": state, "failed": failed, "complete": complete, "total": total},
    }
    assert report == read_report(told)


@pytest.mark.parametrize("dialect", Dialect)
def test_failed_tasks_are_listed_in_full(dialect: Dialect) -> None:
    """The manager learns which tasks failed, why and from which source."""
    (task,) = read_assignment({"id": ID, "tasks": [TASK]}).tasks
    bad = Task(task.object_id, task.owner, task.md5sum, task.source, STATUSES[3][0])
    report = AssignmentReport(ID, AssignmentStats(ReportedState.COMPLETE, 1, 1, 1, (bad,)))
    assert report == read_report(report_to_wire(report, dialect))


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
        read_assignment({"id": ID, "tasks": [{**TASK, **change}]})
    assert told in str(caught.value)


OF_BUCKET = {"bucket_id": ID, "object_name_hash": "d41d8cd98f00b204e9800998ecf8427e"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"object_name_hash": None}, "expected both bucket_id and object_name_hash, or neither"),
        ({"bucket_id": None}, "expected both bucket_id and object_name_hash, or neither"),
        ({"bucket_id": "../../etc"}, "expected a UUID in lower case"),
        ({"bucket_id": ID.upper()}, "expected a UUID in lower case"),
        ({"bucket_id": ""}, "expected a UUID in lower case"),
        ({"object_name_hash": "../x"}, "expected 32 hexadecimal digits in lower case"),
        ({"object_name_hash": "D" * 32}, "expected 32 hexadecimal digits in lower case"),
        ({"owner": ID.upper()}, "expected owner and object_id of a bucket object in lower case"),
        ({"object_id": ID.upper()}, "expected owner and object_id of a bucket object in lower"),
    ],
)
def test_half_a_bucket_object_is_refused_with_the_whole_assignment(
    change: dict[str, Any], told: str
) -> None:
    """One field alone would make a copy where no record of either tier names it."""
    with pytest.raises(BadRequest, match=r"at \$\.tasks\[1\]") as caught:
        read_assignment({"id": ID, "tasks": [TASK, {**TASK, **OF_BUCKET, **change}]})
    assert told in str(caught.value)


@pytest.mark.parametrize("form", PostForm)
def test_a_task_of_a_bucket_object_says_its_bucket_and_hash(form: PostForm) -> None:
    """In every form; a task of an object of the directory tier says neither."""
    assignment = read_assignment({"id": ID, "tasks": [TASK, {**TASK, **OF_BUCKET}]})
    body = json.loads(assignment_body(assignment, form))
    plain, of_bucket = body[1] if form is PostForm.TAGGED_ARRAY else body["tasks"]

    assert of_bucket == plain | OF_BUCKET
    assert not OF_BUCKET.keys() & plain.keys()
    assert read_assignment(body) == assignment


@pytest.mark.parametrize("dialect", Dialect)
def test_a_report_names_bucket_objects(dialect: Dialect) -> None:
    """Else nobody knows which of two tasks of one id has failed."""
    why = failed(reasons.MD5_MISMATCH)
    read = read_assignment({"id": ID, "tasks": [TASK, {**TASK, **OF_BUCKET}]}).tasks
    failures = tuple(attrs.evolve(task, status=why) for task in read)
    stats = AssignmentStats(ReportedState.COMPLETE, 2, 2, 2, failures)
    wire = report_to_wire(AssignmentReport(ID, stats), dialect)

    plain, of_bucket = wire["stats"]["state"]["Complete"]
    assert of_bucket == plain | OF_BUCKET
    assert read_report(wire).stats == stats


@pytest.mark.parametrize(
    "body", [None, 5, "x", [], [ID], {}, {"id": ID}, {"id": "x", "tasks": []}, {"tasks": []}]
)
def test_what_is_no_assignment_is_refused(body: Any) -> None:
    """Whatever JSON is posted, the answer is a message."""
    with pytest.raises(BadRequest):
        read_assignment(body)


@pytest.mark.row("A3", "DEF-4")
def test_one_object_twice_is_refused() -> None:
    """Two tasks with one object would race for one file."""
    with pytest.raises(BadRequest, match=r"tasks\[1\]"):
        read_assignment({"id": ID, "tasks": [TASK, {**TASK, "object_id": ID.upper()}]})
    of_bucket = {**TASK, **OF_BUCKET}
    with pytest.raises(BadRequest, match=r"tasks\[2\]\.object_id: .* is the object of tasks\[1\]"):
        read_assignment({"id": ID, "tasks": [TASK, of_bucket, of_bucket]})


@pytest.mark.parametrize(
    "status", [*(s[1] for s in STATUSES), *(s[2] for s in STATUSES), "Running", None]
)
def test_a_posted_task_is_pending_whatever_its_status(status: Any) -> None:
    """Nobody's word is taken for a copy, and no reason that others do not know is kept."""
    read = read_assignment({"id": ID, "tasks": [{**TASK, "status": status}]})
    assert read.tasks[0].status == PENDING


@pytest.mark.parametrize("status", [5, {"Failed": 7}, "Done", {"state": 1}, []])
def test_a_posted_status_that_nobody_knows_is_refused(status: Any) -> None:
    """Ignored is what predecessors would take; both refuse the rest."""
    with pytest.raises(BadRequest, match=r"tasks\[0\]\.status"):
        read_assignment({"id": ID, "tasks": [{**TASK, "status": status}]})


def test_objects_may_be_arrays_of_their_values() -> None:
    """As serde reads structs: the assignment, its tasks, their sources; a status may be missing."""
    source = list(SOURCE.values())
    as_array: list[Any] = [ID, ID, MD5, source]
    expected = read_assignment({"id": ID, "tasks": [TASK]})
    for task in (as_array, [*as_array, "Pending"], [*as_array, {"state": "Pending"}]):
        assert read_assignment([ID, [task]]) == expected
    assert detect_dialect([ID, [[*as_array, {"state": "Pending"}]]]) is Dialect.TAGGED
    assert detect_dialect([ID, [[*as_array, "Pending"]]]) is Dialect.LEGACY
    for task in (as_array[:3], [*as_array, None, 5], [ID, ID, MD5, ["dc1"]]):
        with pytest.raises(BadRequest, match=r"\$\.tasks\[0\]"):
            read_assignment([ID, [task]])


@pytest.mark.parametrize(
    "name", [ID, ID.upper(), ID.replace("-", ""), f"urn:uuid:{ID}", f"{{{ID}}}"]
)
def test_an_assignment_has_one_key_however_its_id_is_written(name: str) -> None:
    """It is kept and found under that; what is answered is what was posted."""
    assignment = read_assignment({"id": name, "tasks": []})
    assert (assignment.id, assignment.key) == (name, ID)


@pytest.mark.parametrize("name", [f"{{{ID}", f"{ID}}}", ID[:-1], ID.replace("-", "", 1), f" {ID}"])
def test_what_is_nearly_an_id_is_refused(name: str) -> None:
    """A brace alone, a digit too few, hyphens here and there."""
    with pytest.raises(BadRequest, match="a UUID"):
        read_assignment({"id": name, "tasks": []})


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (b'{"id": "x", "tasks": [' + b"1," * 9000 + b"1]}", 10),
        (b'["x", [' + b"[]," * 9000 + b"{}]]", 10),
        (b'{"id": "x", "tasks": [' + b'{"object_id": 1},' * 9000 + b"{}]}", 10),
    ],
)
def test_faults_are_told_up_to_ten(
    monkeypatch: pytest.MonkeyPatch, text: bytes, faults: int
) -> None:
    """However many there are: no more of them are even looked for."""
    looked = list[BaseException]()
    whole = converter._format_fault

    def look(exc: BaseException, kind: type | None) -> str:
        looked.append(exc)
        return whole(exc, kind)

    monkeypatch.setattr(converter, "_format_fault", look)
    with pytest.raises(BadRequest, match=r"\.\.\.$") as caught:
        read_assignment(converter.parse_json(text))
    assert str(caught.value).count("; ") == faults
    assert len(str(caught.value)) < 2000
    # One of the id, and at most five of each of ten tasks.
    assert len(looked) <= 1 + 5 * converter.MAX_FAULTS


def test_an_assignment_has_ten_thousand_tasks_at_most() -> None:
    """As many as a manager can be configured to send are read, one more is refused."""
    tasks = [
        {**TASK, "object_id": f"{number:08x}{ID[8:]}", "status": {"state": "Pending"}}
        for number in range(MAX_TASKS + 1)
    ]
    most = converter.parse_json(json.dumps({"id": ID, "tasks": tasks[1:]}))
    assert len(read_assignment(most).tasks) == MAX_TASKS
    with pytest.raises(TooLarge, match=r"10001 are more than 10000"):
        read_assignment({"id": ID, "tasks": tasks})


@pytest.mark.parametrize("depth", [100, 500, 900])
def test_a_deep_value_where_another_is_expected_is_told(depth: int) -> None:
    """What can be parsed can be told, however deep."""
    deep = converter.parse_json("[" * depth + "]" * depth)
    with pytest.raises(BadRequest, match=r"owner"):
        read_assignment({"id": ID, "tasks": [{**TASK, "owner": deep}]})


def test_half_a_character_is_no_text() -> None:
    """JSON can name one; a file cannot hold it."""
    source = {**SOURCE, "datacenter": json.loads('"\\ud800"')}
    with pytest.raises(
        BadRequest, match=r"half of a character .* \$\.tasks\[0\]\.source\.datacenter"
    ):
        read_assignment({"id": ID, "tasks": [{**TASK, "source": source}]})


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
    for read in (read_assignment, read_report):
        try:
            read(body)
        except BadRequest as exc:
            assert str(exc)


def test_a_posted_task_has_no_status_unless_the_dialect_is_known() -> None:
    """Each predecessor refuses the other's spelling of a pending task, and both take none."""
    assignment = read_assignment({"id": ID, "tasks": [TASK]})
    tagged = {**TASK, "status": {"state": "Pending"}}
    bodies: dict[PostForm, Any] = {
        PostForm.LEGACY: {"id": ID, "tasks": [TASK]},
        PostForm.TAGGED: {"id": ID, "tasks": [tagged]},
        PostForm.TAGGED_ARRAY: [ID, [tagged]],
    }
    for form, body in bodies.items():
        assert assignment_body(assignment, form) == json.dumps(body).encode()


@given(
    name=st.text(),
    datacenter=st.text(),
    ids=st.lists(st.text(), max_size=3),
    form=st.sampled_from(PostForm),
)
def test_whatever_an_assignment_says_its_body_is_json(
    name: str, datacenter: str, ids: list[str], form: PostForm
) -> None:
    """Its text is put together, not encoded."""
    source = {"datacenter": datacenter, "manta_storage_id": name}
    tasks = [Task(one, name, one, Shark(datacenter, name)) for one in ids]
    body = json.loads(assignment_body(Assignment(name, tuple(tasks)), form))
    told = body if isinstance(body, dict) else dict(zip(("id", "tasks"), body, strict=True))
    status = {} if form is PostForm.LEGACY else {"status": {"state": "Pending"}}
    listed = [
        {"object_id": one, "owner": name, "md5sum": one, "source": source, **status} for one in ids
    ]
    assert told == {"id": name, "tasks": listed}
