"""What both predecessors' managers send, byte for byte, and what their programs read of ours."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.agent.state.statefile import image, parse
from rebalancer.agent_protocol import (
    COMPLETE,
    PENDING,
    Dialect,
    Task,
    TaskStatus,
    failed,
    read_assignment,
)
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from tests.agent.scripted import open_rig, stored_of
from tests.domain.test_reasons import SPELLINGS
from tests.sources import Answer, ok, uuid

ID = "9d8d4ee5-2a9c-4b3d-8f36-0d3b8a3a0a11"
OBJECT, OWNER = "c5d9bd36-9b8c-4d7e-a0a5-6f3ed8bb9d9c", "17b64f1c-7d1b-4a0c-8a7c-9c5a0b1d2e3f"
TASK = (
    f'"object_id":"{OBJECT}","owner":"{OWNER}","md5sum":"1B2M2Y8AsgTpgAmY7PhCfg==",'
    '"source":{"datacenter":"dc1","manta_storage_id":"2.stor.lab"}'
)
ARRAY = f'["{OBJECT}","{OWNER}","1B2M2Y8AsgTpgAmY7PhCfg==",["dc1","2.stor.lab"]'
LEGACY_404, TAGGED_404 = (
    '{"Failed":{"HTTPStatusCode":404}}',
    '{"state":"Failed","reason":{"type":"HTTPStatusCode","status_code":404}}',
)
#: By who sends it: the body, and how the failed task's status is told afterwards.
POSTS = {
    "the deployed manager": (
        f'{{"id":"{ID}","tasks":[{{{TASK},"status":"Pending"}}]}}',
        LEGACY_404,
    ),
    "the rewrite's manager": (
        f'{{"id":"{ID}","tasks":[{{{TASK},"status":{{"state":"Pending"}}}}]}}',
        TAGGED_404,
    ),
    "ours": (f'{{"id":"{ID}","tasks":[{{{TASK}}}]}}', LEGACY_404),
    "old documentation": (f'["{ID}",[{{{TASK},"status":"Pending"}}]]', LEGACY_404),
    "serde's arrays": (f'["{ID}",[{ARRAY},"Pending"]]]', LEGACY_404),
    "serde's arrays, tagged": (f'["{ID}",[{ARRAY},{{"state":"Pending"}}]]]', TAGGED_404),
    "a manager with fields of its own": (
        f'{{"id":"{ID}","tasks":[{{{TASK},"bucket_id":null,"status":"Pending"}}],"more":[1]}}',
        LEGACY_404,
    ),
}
NO = Answer(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(("body", "status"), POSTS.values(), ids=POSTS)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_posted_assignment_is_answered_as_by_the_predecessors(
    tmp_path: Path, body: str, status: str, content_type: str
) -> None:
    """From the post to the end: the answers' statuses, types and bodies."""
    asked, headers = trio.Event(), {"content-type": content_type}
    late = Answer(b"", late=NO.data, until=asked)
    async with open_rig(tmp_path, lambda *_: late) as rig:
        posted = await rig.client.post("/assignments", data=body, headers=headers)
        again = await rig.client.post("/assignments", data=body, headers=headers)
        before = await rig.stats(ID)
        early = await rig.client.delete(f"/assignments/{ID}")
        asked.set()
        await rig.finish(ID)
        told = await rig.client.get(f"/assignments/{ID}")
        deleted = [await rig.client.delete(f"/assignments/{ID}") for _ in "12"]

        assert (posted.status_code, await posted.get_data()) == (200, f'"{ID}"'.encode())
        assert posted.content_type == told.content_type == "application/json"
        assert [again.status_code, early.status_code] == [409, 403]
        assert before["state"] in ("Scheduled", "Running")
        assert {**before, "state": None} == {"state": None, "failed": 0, "complete": 0, "total": 1}
        assert json.dumps(await told.get_json(), separators=(",", ":")) == (
            f'{{"uuid":"{ID}","stats":{{"state":{{"Complete":[{{{TASK},"status":{status}}}]}},'
            '"failed":1,"complete":1,"total":1}}'
        )
        assert [(reply.status_code, await reply.get_data()) for reply in deleted[:1]] == [
            (200, b"")
        ]
        assert deleted[1].status_code == 404


async def test_an_assignment_without_failures_or_tasks_is_complete_with_null(
    tmp_path: Path,
) -> None:
    """As both tell it."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(b""))) as rig:
        for name, tasks in ((ID, f"{{{TASK}}}"), (uuid(70), "")):
            await rig.client.post("/assignments", data=f'{{"id":"{name}","tasks":[{tasks}]}}')
            await rig.finish(name)
            told = await rig.stats(name)
            count = 1 if tasks else 0
            assert told == {
                "state": {"Complete": None},
                "failed": 0,
                "complete": count,
                "total": count,
            }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/assignments/{uuid(5)}", 404),
        ("DELETE", f"/assignments/{uuid(5)}", 404),
        ("GET", "/assignments/etc", 400),
        ("DELETE", "/assignments/etc", 400),
        ("PUT", "/assignments", 405),
        ("POST", f"/assignments/{uuid(5)}", 405),
        ("GET", "/", 404),
        ("POST", "/assignments", 400),
    ],
)
async def test_refusals_have_the_predecessors_statuses(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    """The managers look at nothing else of them."""
    async with open_rig(tmp_path, lambda *_: NO) as rig:
        reply = await rig.client.open(path, method=method, data=b"{}" if method == "POST" else None)
        assert reply.status_code == status


# --- the deployed agent, put back on our files -------------------------------------------------


def deployed_status(status: Any) -> None:
    """As serde reads it there; whatever else it meets ends that program."""
    match json.loads(status):
        case "Pending" | "Complete":
            return
        case {"Failed": str(name)} if name in SPELLINGS:
            return
        case {"Failed": {"HTTPStatusCode": int(code)}} if 0 <= code < 1 << 16:
            return
    raise AssertionError(status)


def deployed_ends_with(content: bytes) -> dict[str, int]:
    """The counts of the deployed agent after it has done the assignment of a file again.

    It reads all JSON as bytes, counts on from the stats, and does every task.
    """
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(content)
        columns = "object_id, owner, md5sum, datacenter, manta_storage_id, status"
        rows = db.execute(f"SELECT {columns} FROM tasks").fetchall()
        ((told,),) = db.execute("SELECT * FROM stats").fetchall()
    for *texts, status in rows:
        assert all(isinstance(text, str) for text in texts)
        assert isinstance(status, bytes)
        deployed_status(status)
    assert isinstance(told, bytes)
    stats = json.loads(told)
    assert list(stats) == ["state", "failed", "complete", "total"]
    return {"total": stats["total"], "complete": stats["complete"] + len(rows)}


STATUSES = st.sampled_from(
    [
        PENDING,
        COMPLETE,
        failed(reasons.http_status_code(404)),
        *(failed(Reason(name)) for name in SPELLINGS),
    ]
)


@given(st.lists(STATUSES, min_size=1, max_size=70), st.booleans())
def test_the_deployed_agent_counts_right_on_our_files(
    statuses: list[TaskStatus], is_legacy: bool
) -> None:
    """In the middle of whatever progress it is put back: it ends with as many as there are."""
    tasks = tuple(
        Task(uuid(number), OWNER, "1B2M2Y8AsgTpgAmY7PhCfg==", Shark("dc1", "2.stor.lab"), status)
        for number, status in enumerate([*statuses, PENDING])
    )
    stored = stored_of(ID, tasks, Dialect.TAGGED, 5, is_legacy)
    count = len(tasks)
    assert deployed_ends_with(image(stored)) == {"total": count, "complete": count}


def test_a_reason_of_another_program_does_not_come_from_a_post(tmp_path: Path) -> None:
    """What is posted as failed for a reason nobody knows is stored as pending."""
    body = json.loads(POSTS["ours"][0])
    body["tasks"][0]["status"] = {"Failed": "Foo"}
    posted = read_assignment(body)
    content = image(stored_of(ID, posted.tasks, Dialect.LEGACY, 5))
    assert deployed_ends_with(content) == {"total": 1, "complete": 1}
    assert attrs.evolve(parse(ID, content, 5)).tasks[0].status == PENDING
