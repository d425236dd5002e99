"""The description of the API and the API itself do not drift apart."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
import trio

from rebalancer.daemon import require_token
from rebalancer.manager.http.api import MAX_BODY_BYTES
from rebalancer.manager.http.openapi import DOCUMENT
from rebalancer.tokens import Token
from tests.manager.http.test_api import Rig, open_rig
from tests.manager.jobs.test_control import SMALL, ask, control


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    """By method and path."""
    return {
        (method.upper(), path): operation
        for path, described in DOCUMENT["paths"].items()
        for method, operation in described.items()
        if method != "parameters"
    }


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether `value` is what `schema` tells; raises where not, with the place."""
    whole = {**schema, "components": DOCUMENT["components"]}
    validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    validator.validate(value)
    return True


def shown(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def test_the_document_is_openapi() -> None:
    """By OpenAPI's own schema; every reference leads somewhere, and each operation has words."""
    schemathesis.openapi.from_dict(dict(DOCUMENT)).validate()
    text = json.dumps(DOCUMENT)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        _, kind, name = reference.split("/")
        assert name in DOCUMENT["components"][kind], reference
    for key, operation in operations().items():
        assert len(operation["summary"]) > 10, key
        assert operation["description"].endswith("."), key


async def test_every_route_is_described_and_nothing_else(tmp_path: Path) -> None:
    """By path, method and name; what is served is the document."""
    async with open_rig(tmp_path) as rig:
        rules = list(rig.app.quart.url_map.iter_rules())
        served = (await ask(rig, "GET", "/openapi.json"))[1]
    routes = {
        (method, rule.rule.replace("<", "{").replace(">", "}")): rule.endpoint
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert routes == {key: one["operationId"] for key, one in operations().items()}
    assert served == DOCUMENT


def test_the_examples_of_bodies_are_valid() -> None:
    """A reader can copy them."""
    for operation in operations().values():
        body = operation.get("requestBody", {"content": {}})
        for content in body["content"].values():
            for example in content["examples"].values():
                assert valid(example["value"], content["schema"])


def test_links_lead_to_all_that_can_be_asked_of_a_job() -> None:
    """From the list of jobs, from a retry, and from an import."""
    linked = {
        one["operationId"]: {link["operationId"] for link in links.values()}
        for one in operations().values()
        if (links := one["responses"]["200"].get("links"))
    }
    of_a_job = {one["operationId"] for key, one in operations().items() if "{job_id}" in key[1]}

    assert linked == dict.fromkeys(("list_jobs", "retry_job", "import_job"), of_a_job)


async def test_other_refusals_are_described(tmp_path: Path) -> None:
    """Those of the configuration, and of methods and paths that there are not."""
    body = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
    async with open_rig(tmp_path, snaplink_cleanup_required=True) as rig:
        status, message = await ask(rig, "POST", "/jobs", body)
        slashed = await ask(rig, "POST", "/jobs//retry")
        large = await rig.client.post("/jobs", data=b"1" * (MAX_BODY_BYTES + 1))
        require_token(rig.client.app, Token("", "secret"))
        closed, challenge = await rig.client.get("/jobs"), "WWW-Authenticate"

    described = DOCUMENT["paths"]["/jobs"]["post"]["responses"]
    assert (status, message) == (500, {"message": "Snaplink Cleanup Required"})
    assert slashed[0] == 404
    assert {str(status), str(large.status_code), str(closed.status_code)} <= described.keys()
    assert {"413", "401"} == {str(large.status_code), str(closed.status_code)}
    assert (
        closed.headers[challenge] == DOCUMENT["components"]["headers"][challenge]["schema"]["const"]
    )


async def check_shown(rig: Rig, job_id: str) -> list[str]:
    """Everything that shows this job is as described; the kinds of its report's lines."""
    for part, name in (("", "JobShown"), ("/summary", "Summary"), ("/objects", "Objects")):
        assert valid((await ask(rig, "GET", f"/jobs/{job_id}{part}"))[1], shown(name))
    for path, name in (("/status", "Status"), ("/ping", "Ping")):
        assert valid((await ask(rig, "GET", path))[1], shown(name))
    for one in (await ask(rig, "GET", "/jobs"))[1]:
        assert valid(one, shown("JobListed"))
    report = await (await rig.client.get(f"/jobs/{job_id}/report")).get_data(as_text=True)
    lines = [json.loads(line) for line in report.splitlines()]
    assert all(valid(line, shown("ReportLine")) for line in lines)
    return [line["type"] for line in lines]


async def test_what_is_shown_of_jobs_is_as_described(tmp_path: Path) -> None:
    """Waiting, running, paused, cancelled, complete and failed; with objects and without."""
    async with open_rig(tmp_path, objects=5, options=SMALL) as rig:
        failed = await rig.create(from_shark="9.stor")
        await rig.reach(failed, "Failed")
        await check_shown(rig, failed)
        job_id, waiting = await rig.create(max_objects=4), await rig.create(from_shark="20.stor")
        with trio.fail_after(20):
            while not (await rig.get(job_id))["results"]["Assigned"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
        await rig.put(job_id, {"action": "set_max_sharks", "params": 3})
        await check_shown(rig, job_id)
        await check_shown(rig, waiting)
        await control(rig, waiting, "pause")
        await check_shown(rig, waiting)
        await control(rig, job_id, "cancel")
        await rig.reach(job_id, "Stopped")
        kinds = await check_shown(rig, job_id)
        listing = tmp_path / "objects.ndjson"
        listing.write_text('{"key": "/gone"}')
        listed = await rig.create(objects_file=str(listing))
        await rig.reach(listed, "Complete")
        dropped = await check_shown(rig, listed)
        assert valid((await ask(rig, "DELETE", f"/jobs/{listed}"))[1], shown("Deleted"))

    assert {"job", "warning", "object", "assignment", "end"} <= set(kinds)
    assert "dropped" in dropped


async def test_a_plan_and_an_error_are_as_described(tmp_path: Path) -> None:
    """Also of what does not fit."""
    body = {"action": "evacuate", "params": {"from_shark": "1.stor"}, "dry_run": True}
    prefixes = ("/account/stor/3",)
    async with open_rig(
        tmp_path, objects=5, max_fill_percentage=5, exclude_key_prefixes=prefixes
    ) as rig:
        made = (await ask(rig, "POST", "/jobs", body))[1]
        accept = {"accept": "application/json"}
        reply = await rig.client.post("/jobs", json={"action": "none"}, headers=accept)
        refused = await reply.get_json()

    assert valid(made, shown("Plan"))
    assert made["skipped"]
    assert valid(refused, shown("Message"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Ping", {"ping": "pong", "version": "1", "more": 1}),
        ("Message", {}),
        ("Change", {"action": "set_max_sharks", "params": None}),
        ("Change", {"action": "stop"}),
        ("NewJob", {"action": "evacuate", "params": {"from_shark": ""}}),
        ("ReportLine", {"type": "end"}),
    ],
)
def test_what_is_not_as_described_is_noticed(name: str, value: Any) -> None:
    """The checks above can fail."""
    with pytest.raises(jsonschema_rs.ValidationError):
        valid(value, shown(name))
