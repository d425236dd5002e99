"""The description of the agent's API and the API itself do not drift apart."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis

from rebalancer.agent.api import make_api
from rebalancer.agent.openapi import description
from tests.agent.scripted import open_rig
from tests.sources import ASSIGNMENT, Answer, ok, task, uuid

OBJECT = b"an object"
RATE = "/limits/bandwidth_bytes_per_s"


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = description()["paths"][path][method.lower()]
    return found


def check(value: Any, schema: dict[str, Any]) -> None:
    """Raise where `value` is not what `schema` says, with the place."""
    whole = {**schema, "components": description()["components"]}
    jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(value)


async def check_answer(rig: Any, method: str, path: str, of: str, body: Any = None) -> int:
    """Ask, and hold status, headers and body of the answer to the description of the call `of`."""
    send = getattr(rig.client, method.lower())
    reply = await (send(path) if body is None else send(path, json=body))
    described = operation(method, of)["responses"][str(reply.status_code)]
    # The connection adds `Server`, and there is none here.
    for name in described["headers"].keys() - {"Server"}:
        assert name in reply.headers, name
    content = described["content"].get("application/json")
    text = await reply.get_data(as_text=True)
    if content is None:
        assert text == ""
    else:
        check(json.loads(text), content["schema"])
    return int(reply.status_code)


def test_the_document_is_openapi() -> None:
    """By OpenAPI's own schema; every reference leads somewhere, and examples are valid."""
    schemathesis.openapi.from_dict(description()).validate()
    text = json.dumps(description())
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        _, kind, name = reference.split("/")
        assert name in description()["components"][kind], reference
    for path in ("/assignments", "/limits"):
        method = "post" if path == "/assignments" else "put"
        (content,) = operation(method, path)["requestBody"]["content"].values()
        for example in content["examples"].values():
            check(example["value"], content["schema"])


async def test_every_route_is_described_and_nothing_else(tmp_path: Path) -> None:
    """By path and method, and the name of the call is that of its handler."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(OBJECT))) as rig:
        routes = {
            (route.method, route.path.replace("<", "{").replace(">", "}")): route.handler.__name__
            for route in make_api(rig.agent).routes
        }
        served = await (await rig.client.get("/openapi.json")).get_json()

    assert served == description()
    assert routes == {
        (method.upper(), path): call["operationId"]
        for path, calls in description()["paths"].items()
        for method, call in calls.items()
        if method != "parameters"
    }


@pytest.mark.parametrize("status", [None, "Pending", {"state": "Pending"}])
async def test_answers_about_assignments_are_as_described(tmp_path: Path, status: Any) -> None:
    """In both dialects, with a failed task; and each refusal."""
    one = "/assignments/{assignment_id}"
    refused = Answer(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    tasks = [task(number, OBJECT, status=status) for number in (1, 9)]
    body = {"id": ASSIGNMENT, "tasks": tasks}
    check(
        body,
        operation("post", "/assignments")["requestBody"]["content"]["application/json"]["schema"],
    )
    async with open_rig(
        tmp_path, lambda _, path: refused if path.endswith("9") else Answer(ok(OBJECT))
    ) as rig:
        asked = [
            await check_answer(rig, "POST", "/assignments", "/assignments", body),
            await check_answer(rig, "POST", "/assignments", "/assignments", body),
            await check_answer(rig, "POST", "/assignments", "/assignments", {"id": 5}),
            await check_answer(rig, "GET", f"/assignments/{ASSIGNMENT}", one),
        ]
        assert len(await rig.finish()) == 1
        asked += [
            await check_answer(rig, "GET", f"/assignments/{ASSIGNMENT}", one),
            await check_answer(rig, "GET", "/assignments", "/assignments"),
            await check_answer(rig, "GET", "/assignments?limit=x", "/assignments"),
            await check_answer(rig, "DELETE", f"/assignments/{ASSIGNMENT}", one),
            await check_answer(rig, "DELETE", f"/assignments/{ASSIGNMENT}", one),
            await check_answer(rig, "GET", f"/assignments/{uuid(5)}", one),
            await check_answer(rig, "GET", "/assignments/5", one),
        ]

    assert asked == [200, 409, 400, 200, 200, 200, 400, 200, 404, 404, 400]


async def test_answers_for_operators_are_as_described(tmp_path: Path) -> None:
    """The agent's status, its limits, and a change of them that cannot be made."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(OBJECT))) as rig:
        asked = [
            await check_answer(rig, "GET", "/ping", "/ping"),
            await check_answer(rig, "GET", "/status", "/status"),
            await check_answer(rig, "GET", "/limits", "/limits"),
            await check_answer(rig, "PUT", "/limits", "/limits", {"workers_per_assignment": 2}),
            await check_answer(rig, "PUT", "/limits", "/limits", {"workers": 2}),
            await check_answer(rig, "DELETE", RATE, RATE),
        ]

    assert asked == [200, 200, 200, 200, 400, 200]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AgentReport", {"uuid": ASSIGNMENT}),
        ("AgentLimits", {"bandwidth_bytes_per_s": 0, "workers_per_assignment": 1}),
        ("PostedAssignment", {"id": ASSIGNMENT, "tasks": [{}]}),
    ],
)
def test_what_is_not_as_described_is_noticed(name: str, value: Any) -> None:
    """The checks above can fail."""
    with pytest.raises(jsonschema_rs.ValidationError):
        check(value, {"$ref": f"#/components/schemas/{name}"})
