"""What the API takes, and what it says to what it does not."""

from typing import Any

import attrs
import pytest

from rebalancer.actions.evacuate import EvacuateParams
from rebalancer.api.requests import Control
from rebalancer.config import ManagerConfig, Shard
from rebalancer.domain.states import ObjectStatus
from rebalancer.errors import BadRequest, RequestError, Unprocessable
from rebalancer.manager.http.requests import (
    SETTINGS,
    NewJob,
    ObjectsQuery,
    Range,
    Setting,
    check_range,
    read_change,
    read_new_job,
    read_objects_query,
)
from rebalancer.manager.jobs.tuning import Tuning, tuned


def new(**params: Any) -> dict[str, Any]:
    return {"action": "evacuate", "params": {"from_shark": "1.stor", **params}}


def test_a_job_is_asked_for() -> None:
    """All that is left out has its default; a dry run is a wish of its own."""
    params = EvacuateParams("1.stor")
    assert read_new_job(new()) == NewJob("evacuate", params)
    assert read_new_job({**new(), "dry_run": True}) == NewJob("evacuate", params, dry_run=True)


def test_parameters_may_be_an_array_of_the_deployed_two() -> None:
    """The node and how many objects, as serde reads structs; nothing else has a place in it."""
    for count in (5, None):
        body = {"action": "evacuate", "params": ["1.stor", count]}
        assert read_new_job(body) == read_new_job(new(max_objects=count))
    for params in ([], ["1.stor"], ["1.stor", 5, True], [5, "1.stor"]):
        with pytest.raises(Unprocessable, match="params"):
            read_new_job({"action": "evacuate", "params": params})


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (None, Unprocessable, "action: expected the name of one"),
        ({"action": 1}, Unprocessable, "action: expected the name of one"),
        ({"action": "rebalance"}, Unprocessable, "action: expected one of evacuate"),
        ({"action": "evacuate"}, Unprocessable, "params: "),
        (new(max_objects="ten"), Unprocessable, "max_objects"),
        (new(max_objects=-1), Unprocessable, "params.max_objects: expected a number not below 0"),
        (
            new(max_objects=1 << 63),
            Unprocessable,
            "params.max_objects: expected a number not below 0",
        ),
        (new(objects_file="x"), Unprocessable, "params.objects_file: expected the absolute path"),
        (new(objects_file="/\0"), Unprocessable, "params.objects_file: expected the absolute path"),
        (
            new(objects_file="/\ud83d"),
            Unprocessable,
            "params: expected text, got half of a character in .* at \\$.objects_file",
        ),
        (new(tiers=[]), Unprocessable, "params.tiers: expected directory or buckets, or both"),
        (new(tiers=["moray"]), Unprocessable, "params.tiers: expected directory or buckets"),
        (new(tiers=["buckets"] * 2), Unprocessable, "params.tiers: expected .* each once"),
        (new(tiers="buckets"), Unprocessable, "params: expected .* at \\$.tiers"),
        ({**new(), "dry_run": 1}, Unprocessable, "dry_run: expected true or false"),
        ({**new(), "dryrun": True}, Unprocessable, r"^dryrun: unknown key; did you mean dry_run\?"),
        (new(max_object=5), Unprocessable, "^params.max_object: unknown key; did you mean max_obj"),
        (new(Max_Objects=5), Unprocessable, "^params.Max_Objects: unknown key; did you mean max_o"),
        (new(x=5, **{"y" * 9999: 1}), Unprocessable, "^params.x: unknown key; expected one of fro"),
        (new(from_shark="1 stor"), BadRequest, "is no name of a storage node"),
        (new(from_shark=""), BadRequest, "is no name of a storage node"),
        (new(from_shark="1.stor:80"), BadRequest, "is no name of a storage node"),
    ],
)
def test_what_is_no_job_is_named(body: Any, kind: type[RequestError], message: str) -> None:
    """The field, and what was expected of it."""
    with pytest.raises(kind, match=message):
        read_new_job(body)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"action": "pause"}, Control.PAUSE),
        ({"action": "resume", "params": None}, Control.RESUME),
        ({"action": "cancel"}, Control.CANCEL),
        (
            {"action": "set_metadata_threads", "params": 30},
            Setting("max_metadata_update_threads", 30),
        ),
        ({"action": "set_max_sharks", "params": 7}, Setting("max_sharks", 7)),
        (
            {"action": "set_max_tasks_per_assignment", "params": 200},
            Setting("max_tasks_per_assignment", 200),
        ),
        ({"action": "set_bandwidth", "params": 10**9}, Setting("bandwidth_bytes_per_s", 10**9)),
        ({"action": "set_bandwidth", "params": None}, Setting("bandwidth_bytes_per_s", None)),
    ],
)
def test_a_change_is_read(body: Any, wanted: Control | Setting) -> None:
    """Each action that the API has."""
    assert read_change(body) == wanted


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"action": 1},
        {"action": ["pause"]},
        {"action": "stop"},
        {"action": "set_max_sharks"},
        {"action": "set_max_sharks", "params": None},
        {"action": "set_max_sharks", "params": True},
        {"action": "set_max_sharks", "params": 2.0},
        {"action": "set_max_sharks", "params": "2"},
        {"action": "set_bandwidth"},
    ],
)
def test_what_is_no_change_is_unprocessable(body: Any) -> None:
    """Wrong types and unknown actions."""
    with pytest.raises(Unprocessable):
        read_change(body)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting("max_metadata_update_threads", 0), "Cannot set metadata update threads below 1"),
        (
            Setting("max_metadata_update_threads", 251),
            "Cannot set metadata update threads above 250",
        ),
        (Setting("max_sharks", 0), "Cannot set max_sharks below 1"),
        (Setting("max_tasks_per_assignment", 1 << 40), "Cannot set max_tasks_per_assignment above"),
        (Setting("bandwidth_bytes_per_s", -1), "Cannot set bandwidth_bytes_per_s below 1"),
    ],
)
def test_what_is_out_of_range_is_refused(setting: Setting, message: str) -> None:
    """In the predecessor's words where it has any."""
    with pytest.raises(BadRequest, match=message):
        check_range(setting)


@pytest.mark.parametrize("allowed", SETTINGS.values(), ids=lambda allowed: allowed.name)
def test_a_configuration_can_have_whatever_a_setting_may_be(allowed: Range) -> None:
    """What is taken is on disk before it is in force, so it must be possible in every process."""
    config = ManagerConfig("lab", (Shard("1.moray.lab"),))
    for value in (allowed.minimum, allowed.maximum):
        tuning = Tuning(**{allowed.name: value})
        in_file = attrs.asdict(tuned(config, tuning).options)
        assert in_file.get(allowed.name, value) == value


def test_objects_are_asked_for() -> None:
    """By status and reason, behind a row, so many."""
    assert read_objects_query([]) == ObjectsQuery(None, None, 0, 100)
    asked = {"status": "skipped", "reason": "md5_mismatch", "after": "17", "limit": "1000"}
    wanted = ObjectsQuery(ObjectStatus.SKIPPED, "md5_mismatch", 17, 1000)
    assert read_objects_query(asked.items()) == wanted


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ([("status", "lost")], "status"),
        ([("after", "-1")], "after"),
        ([("after", "\u00b2")], "after"),
        ([("after", "9" * 30)], "after"),
        ([("limit", "0")], "limit"),
        ([("limit", "1001")], "limit"),
        ([("limit", "")], "limit"),
        ([("offset", "1")], "offset"),
        ([("after", "1"), ("limit", "2"), ("after", "1")], "after"),
    ],
)
def test_a_bad_query_names_its_parameter(query: list[tuple[str, str]], name: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(BadRequest, match=f"{name}: expected"):
        read_objects_query(query)
