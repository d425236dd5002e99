"""A body is declared once: what is written, read and described follows from its class."""

import json

import attrs
import pytest

from rebalancer.api.fields import Count, about, key_of
from rebalancer.api.jobs import JobShown, Results, SummaryRates, Wait
from rebalancer.api.objects import REPORT_LINES, Object, ReportObject
from rebalancer.api.requests import SETTINGS
from rebalancer.api.schemas import schemas_of
from rebalancer.converter import structure, unstructure
from rebalancer.errors import BadRequest
from rebalancer.manager.http.requests import SETTINGS as RANGES
from rebalancer.manager.jobs.tuning import Tuning
from rebalancer.manager.store import views

RESULTS = {
    "Total": 3,
    "Unprocessed": 0,
    "Assigned": 0,
    "Skipped": 1,
    "Error": 0,
    "Post Processing": 0,
    "Complete": 2,
    "Duplicates": 0,
}


@attrs.frozen(kw_only=True)
class Part:
    """A part of a whole."""

    size: Count = about("Bytes of the part.", maximum=9)


@attrs.frozen(kw_only=True)
class Whole:
    """A body with a field of each kind."""

    name: str = about("The name.", key="full name", examples=["x"])
    parts: tuple[Part, ...] = about(if_missing=())
    known: Part | None = about(if_missing=None, is_never_null=True)
    error: str | None = about("Why it failed.", default=None)
    limit: int | None = about("null: none.", minimum=1)


def test_a_body_is_described_by_its_class() -> None:
    """Types, bounds and words, which keys are always there, and nothing besides them."""
    schema = schemas_of(Whole)

    assert list(schema) == ["Part", "Whole"]
    assert schema["Whole"] == {
        "type": "object",
        "properties": {
            "full name": {"type": "string", "examples": ["x"], "description": "The name."},
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}},
            "known": {"$ref": "#/components/schemas/Part"},
            "error": {
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "description": "Why it failed.",
            },
            "limit": {
                "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
                "description": "null: none.",
            },
        },
        "required": ["full name", "parts", "known", "limit"],
        "additionalProperties": False,
        "description": "A body with a field of each kind.",
    }
    assert schema["Part"]["properties"]["size"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 9,
        "description": "Bytes of the part.",
    }


def test_a_body_is_written_in_the_order_of_its_fields() -> None:
    """Under its keys; what may be left out comes last."""
    body = Whole(name="x", limit=None, parts=(Part(size=1),))

    told = '{"full name": "x", "parts": [{"size": 1}], "known": null, "limit": null}'
    assert json.dumps(unstructure(body)) == told
    assert list(unstructure(attrs.evolve(body, error="e"))) == [
        "full name",
        "parts",
        "known",
        "limit",
        "error",
    ]


def test_an_answer_of_another_version_is_read() -> None:
    """What it has besides is ignored, what it lacks is as declared; the rest must fit."""
    assert structure({"full name": "x", "limit": 1, "news": 5}, Whole) == Whole(name="x", limit=1)
    with pytest.raises(BadRequest, match=r"expected a whole number, got \"1\" at \$\.limit"):
        structure({"full name": "x", "limit": "1"}, Whole)
    with pytest.raises(BadRequest, match=r"required field"):
        structure({"full name": "x"}, Whole)


def test_the_predecessors_view_of_a_job_is_one() -> None:
    """It has the configuration, the counts and the state, and nothing else."""
    view = {
        "config": {
            "action": "Evacuate",
            "from_shark": {"datacenter": "", "manta_storage_id": "1.stor"},
            "max_objects": None,
        },
        "results": RESULTS,
        "state": "Running",
    }
    job = structure(view, JobShown)

    assert (job.scans, job.rounds, job.bytes.complete) == (None, (), 0)
    assert unstructure(job.results) == RESULTS
    assert [key_of(field) for field in attrs.fields(Results)] == list(RESULTS)


def test_names_that_are_no_names_of_fields_are_keys() -> None:
    """A reserved word, and rates that nobody has measured."""
    wait = {"for": "shard 2", "since": "2026-11-25T12:04:00Z", "detail": "refused"}

    assert structure(wait, Wait).subject == "shard 2"
    assert unstructure(structure(wait, Wait)) == wait
    assert unstructure(SummaryRates()) == {}


def test_lines_of_a_report_are_the_rows_of_a_jobs_file() -> None:
    """Each kind of row has a class, whose `type` names it."""
    assert set(REPORT_LINES) == {"job", *views.REPORT, "end"}
    for kind, line in REPORT_LINES.items():
        assert schemas_of(line)[line.__name__]["properties"]["type"]["const"] == kind
    assert {field.name for field in attrs.fields(ReportObject)} - {"type"} == {
        field.name for field in attrs.fields(Object)
    }


def test_a_setting_has_one_range() -> None:
    """The body of a change declares it, and every setting of a running job has one."""
    assert {allowed.name for allowed in RANGES.values()} == set(SETTINGS)
    assert set(SETTINGS) == set(attrs.fields_dict(Tuning))
    assert [name for name, allowed in RANGES.items() if allowed.or_null] == ["set_bandwidth"]
