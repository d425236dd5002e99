"""Posted assignments: the quick way of reading takes no body otherwise than the careful one."""

import base64
import json
import random
from typing import Any

import pytest

from rebalancer.agent.state import posted as module
from rebalancer.agent.state.posted import Posted, read_posted
from rebalancer.agent_protocol import (
    MAX_TASKS,
    Assignment,
    Dialect,
    PostForm,
    assignment_body,
    detect_dialect,
    read_assignment,
)
from rebalancer.bodies import read_body
from rebalancer.errors import RequestError
from tests.agent.test_interplay import POSTS
from tests.sources import ASSIGNMENT, BUCKET, OWNER, bucket_task, hash_of, md5, task, uuid

GOOD = {"id": ASSIGNMENT, "tasks": [task(0, b"x"), task(1, b"x"), bucket_task(1, b"x")]}
#: Put into the place of any value, or beside it.
ODD: list[Any] = [
    None,
    True,
    5,
    1.5,
    "",
    "x",
    "a\0b",
    "ü",
    "\ud83d",
    "a" * 300,
    "Running",
    "Complete",
    "Failed",
    uuid(1),
    uuid(1).upper(),
    uuid(1).replace("-", ""),
    f"urn:uuid:{uuid(1)}",
    "{" + uuid(1) + "}",
    uuid(1) + "\n",
    "host",
    "host:80",
    "a/b",
    base64.b64encode(b"x" * 15).decode(),
    "A" * 21 + "B==",
    "A" * 22 + "=",
    "A" * 22 + "==\n",
    [],
    {},
    {"state": "Pending"},
    {"state": "Complete"},
    {"state": "Pending", "more": 1},
    {"Failed": "MD5Mismatch"},
    {"state": "Failed", "reason": {"type": "X"}},
    [[[{"a": []}]]],
    hash_of(1),
    hash_of(1).upper(),
    f"{BUCKET}/{uuid(1)},{hash_of(1)}",
]
OF_BUCKETS = ("bucket_id", "object_name_hash")


def carefully(body: bytes) -> Posted:
    value = read_body(body)
    return Posted.of(read_assignment(value), detect_dialect(value))


def outcome(read: Any, body: bytes) -> Posted | tuple[type, str]:
    try:
        made: Posted = read(body)
    except RequestError as exc:
        return type(exc), str(exc)
    return made


def places(value: Any) -> list[tuple[Any, Any]]:
    """Where a value is in another: containers and their keys."""
    keys = value if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def changed(rng: random.Random) -> bytes:
    """A good body, but for one to three things and the way in which it is written."""
    body = json.loads(json.dumps(GOOD))
    if rng.random() < 0.5:
        for number, one in enumerate(body["tasks"]):
            one["status"] = rng.choice(["Pending", {"state": "Pending"}]) if number else "Pending"
    for _ in range(rng.randint(0, 2)):
        container, key = rng.choice(places(body))
        match rng.choice(["replace", "replace", "remove", "add", "repeat"]):
            case "replace":
                container[key] = rng.choice(ODD)
            case "remove":
                del container[key]
            case "add" if isinstance(container, dict):
                container[rng.choice(["status", *OF_BUCKETS, "id", "\0"])] = rng.choice(ODD)
            case "repeat" if isinstance(container, list):
                container.append(container[key])
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.3:
        where = rng.randrange(len(text))
        text = text[:where] + rng.choice(["", " ", "{", "}", "[", ",", '"', "\\u0000", "01", "NaN"]
                                         ) + text[where + rng.randint(0, 2) :]  # fmt: skip
    return text.encode(errors="surrogatepass")


def test_any_body_is_read_as_the_careful_way_reads_it() -> None:
    """Taken as the same, or refused with the same words."""
    rng, taken = random.Random(20261126), 0
    for _ in range(4000):
        body = changed(rng)
        found = outcome(read_posted, body)
        assert found == outcome(carefully, body), body
        taken += isinstance(found, Posted)
    assert 1000 < taken < 3000


@pytest.mark.native("msgspec")
@pytest.mark.parametrize("form", [PostForm.LEGACY, PostForm.TAGGED])
def test_what_managers_send_is_read_quickly(
    form: PostForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours in both dialects, the deployed one, and the rewrite's."""
    assignment = read_assignment(GOOD)
    ours = assignment_body(assignment, form)
    bodies = [ours, *(POSTS[name][0].encode() for name in list(POSTS)[:3])]
    expected = [carefully(body) for body in bodies]
    monkeypatch.delattr(module, "read_body")

    assert [read_posted(body) for body in bodies] == expected


@pytest.mark.native("msgspec")
def test_a_body_of_too_many_tasks_is_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As every text of as many values is."""
    rows = tuple((uuid(n), OWNER, md5(b"x"), "dc1", "2.stor.lab") for n in range(MAX_TASKS))
    tasks = tuple(map(module.task_of, rows))
    most = assignment_body(Assignment(ASSIGNMENT, tasks), PostForm.LEGACY)
    assert read_posted(most) == Posted(ASSIGNMENT, ASSIGNMENT, rows, Dialect.LEGACY)
    monkeypatch.delattr("rebalancer.agent.state.quick._DECODER", raising=False)
    many = b'{"id":"x","tasks":[' + b"{}," * 30_001 + b"{}]}"

    assert outcome(read_posted, many) == outcome(carefully, many)
