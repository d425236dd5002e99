"""Requests and files that cannot be used: the answer of the specification, and no change."""

import json
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from rebalancer_devregion.layout import AGENT_PORT, Layout
from rebalancer_devregion.region import running
from tests.process.regions import adm, new_region, run, snapshot
from tests.sources import task

pytestmark = pytest.mark.process

UUID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
GOOD = task(1, b"some content")
EVACUATE = {"action": "evacuate", "params": {"from_shark": "1.stor"}}


@attrs.frozen
class Asked:
    """A bad request and the answer it must have: status, and words of the message."""

    method: str
    path: str
    body: bytes
    status: int
    words: str

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body[:40]!r}"


def asked(method: str, path: str, body: Any, status: int, words: str) -> Asked:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Asked(method, path, content, status, words)


def job(**changes: Any) -> dict[str, Any]:
    return {**EVACUATE, **changes}


def assignment(**changes: Any) -> dict[str, Any]:
    return {"id": UUID, "tasks": [{**GOOD, **changes}]}


MANAGER = [
    asked("POST", "/jobs", b"", 422, "not JSON"),
    asked("POST", "/jobs", b'{"action":', 422, "not JSON"),
    asked("POST", "/jobs", b"\xff\xfe", 422, "not JSON"),
    asked("POST", "/jobs", [], 422, "action: expected the name"),
    asked("POST", "/jobs", job(action="dance"), 422, "expected one of evacuate, verify, got dance"),
    asked("POST", "/jobs", job(params=7), 422, "params"),
    asked("POST", "/jobs", job(params={}), 422, "from_shark is missing"),
    asked("POST", "/jobs", job(params={"from_shark": 5}), 422, "expected a string, got 5"),
    asked(
        "POST",
        "/jobs",
        job(params={"from_shark": "1.stor", "max_objects": "many"}),
        422,
        "max_objects",
    ),
    asked("POST", "/jobs", job(params={"from_shark": ""}), 400, "no name of a storage node"),
    asked("POST", "/jobs", job(params={"from_shark": "../../etc"}), 400, "no name of a"),
    asked("GET", "/jobs/7", b"", 400, "Invalid UUID: 7"),
    asked("GET", "/jobs/..%2f..%2fetc", b"", 404, "not found"),
    asked("GET", f"/jobs/{UUID}", b"", 400, f"Could not find job UUID: {UUID}"),
    asked(
        "PUT",
        f"/jobs/{UUID}",
        {"action": "set_metadata_threads", "params": 3},
        400,
        f"Could not find job {UUID}",
    ),
    asked("PUT", f"/jobs/{UUID}", b"{", 422, "not JSON"),
    asked("PUT", f"/jobs/{UUID}", {"action": "sing"}, 422, "expected one of set_metadata_threads"),
    asked("DELETE", "/jobs", b"", 405, "not allowed"),
]
AGENT = [
    asked("POST", "/assignments", b"", 400, "not JSON"),
    asked("POST", "/assignments", b"{]", 400, "not JSON"),
    asked("POST", "/assignments", {"tasks": []}, 400, "required field id is missing"),
    asked("POST", "/assignments", {"id": "x", "tasks": []}, 400, "expected a UUID"),
    asked("POST", "/assignments", {"id": UUID, "tasks": {}}, 400, "expected a list, got"),
    asked("POST", "/assignments", {"id": UUID, "tasks": "all"}, 400, "expected a list, got"),
    asked("POST", "/assignments", {"id": UUID, "tasks": [5]}, 400, "tasks[0]"),
    asked("POST", "/assignments", {"id": UUID, "tasks": [None]}, 400, "tasks[0]"),
    asked("POST", "/assignments", assignment(owner="../../etc"), 400, "tasks[0].owner"),
    asked("POST", "/assignments", assignment(object_id="passwd"), 400, "tasks[0].object_id"),
    asked("POST", "/assignments", assignment(md5sum="abc"), 400, "tasks[0].md5sum"),
    asked(
        "POST",
        "/assignments",
        assignment(source={"datacenter": "dc1", "manta_storage_id": "a/b@c"}),
        400,
        "tasks[0].source.manta_storage_id",
    ),
    asked("POST", "/assignments", {"id": UUID, "tasks": [GOOD, GOOD]}, 400, "tasks[1].object_id"),
    asked("GET", "/assignments/7", b"", 400, "'7' is no UUID"),
    asked("GET", f"/assignments/{UUID}", b"", 404, "there is no assignment"),
    asked("DELETE", "/assignments/etc", b"", 400, "no UUID"),
    asked("DELETE", f"/assignments/{UUID}", b"", 404, "there is no assignment"),
]


@attrs.frozen
class Answers:
    """What a running region made of all bad requests."""

    replies: Mapping[Asked, httpx.Response]
    before: dict[str, bytes]
    after: dict[str, bytes]
    unknown_job: tuple[int, str, str]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return trio.run(ask_all, tmp_path_factory.mktemp("requests"))


async def ask_all(folder: Path) -> Answers:
    region = await trio.to_thread.run_sync(new_region, folder, 5)
    layout = region.layout
    agent = f"http://{layout.nodes[1].address}:{AGENT_PORT}"
    replies = {}
    async with running(region), httpx.AsyncClient() as client:
        before = await trio.to_thread.run_sync(states, layout)
        for base, requests in ((region.url, MANAGER), (agent, AGENT)):
            for one in requests:
                replies[one] = await client.request(one.method, base + one.path, content=one.body)
        after = await trio.to_thread.run_sync(states, layout)
        listed = await client.get(f"{region.url}/jobs")
        got = await trio.to_thread.run_sync(lambda: adm("--url", region.url, "job", "get", UUID))
        await region.stop()
    assert listed.json() == []
    return Answers(replies, before, after, (got.returncode, got.stdout, got.stderr))


def states(layout: Layout) -> dict[str, bytes]:
    """All state of the manager and of the agents, and all objects."""
    return snapshot(layout.folder / "manager") | snapshot(layout.folder / "nodes")


@pytest.mark.row("CRIT-8", "TEST-STATUS-2", "L1", "L35", "A1", "N28", "N31")
@pytest.mark.parametrize("one", MANAGER + AGENT, ids=str)
def test_a_bad_request_gets_its_answer(answers: Answers, one: Asked) -> None:
    """The status of the specification, and a message that says what was expected and where."""
    reply = answers.replies[one]

    assert (reply.status_code, one.words in reply.text) == (one.status, True), reply.text
    assert "Traceback" not in reply.text
    program = "rebalancer-agent" if one in AGENT else "rebalancer-manager"
    assert reply.headers["server"].startswith(f"{program} ")
    kind = "application/json" if one in AGENT else "text/plain"
    assert reply.headers["content-type"].startswith(kind)
    if one in AGENT:
        assert list(reply.json()) == ["message", "request_id"]


@pytest.mark.row("DEF-13", "A1", "A3")
def test_bad_requests_change_nothing(answers: Answers) -> None:
    """Every file of every state folder and object root is as it was."""
    assert answers.before == answers.after
    assert len(answers.before) > 10


def test_the_operators_command_passes_the_message_on(answers: Answers) -> None:
    """One line on stderr, nothing on stdout, status 1."""
    status, out, err = answers.unknown_job

    expected = f"rebalancer: Could not find job UUID: {UUID} (status 400)\n"
    assert (status, out, err) == (1, "", expected)


# --- files and addresses -------------------------------------------------------------------


def test_the_operators_command_says_that_there_is_no_manager() -> None:
    """One line, status 1."""
    done = adm("--url", "http://127.0.0.1:1", "job", "list")

    assert done.returncode == 1
    assert done.stderr.startswith("rebalancer: no answer from the manager: ")
    assert done.stderr.count("\n") == 1


MANAGER_FILE = {
    "domain_name": "lab",
    "shards": [{"host": "1.moray.lab"}],
    "listen_host": "127.0.0.1",
    "metrics_host": "127.0.0.1",
    "metrics_port": 0,
}


@pytest.mark.row("DEF-4")
@pytest.mark.parametrize(
    ("program", "text", "words"),
    [
        ("manager", None, "No such file or directory"),
        ("manager", "{", "Expecting property name"),
        ("manager", "[]", "expected an object"),
        ("manager", "{}", "domain_name: required, and missing"),
        ("manager", json.dumps({**MANAGER_FILE, "listen_port": "x"}), "expected a whole number"),
        ("manager", json.dumps({**MANAGER_FILE, "listen_port": 70000}), "at most 65535"),
        ("manager", json.dumps({**MANAGER_FILE, "shards": []}), "expected at least one"),
        ("manager", json.dumps({**MANAGER_FILE, "log_level": "loud"}), "expected one of trace"),
        ("agent", None, "No such file or directory"),
        ("agent", "[server", "Expected ']'"),
        ("agent", '[server]\nport = "x"', "expected a whole number"),
        ("agent", "[storage]\ndurable = 1", "expected true or false"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_line(
    tmp_path: Path, program: str, text: str | None, words: str
) -> None:
    """On stderr, naming the file and what was expected; status 1."""
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    done = run(program, "-c", str(file))

    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") or done.stderr.startswith("rebalancer: ")
    assert str(file) in done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("program", ["manager", "agent"])
def test_an_address_in_use_is_one_line(tmp_path: Path, program: str) -> None:
    """On stderr, naming the address; status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "config"
        if program == "manager":
            options = {"listen_port": port, "data_dir": str(tmp_path / "db")}
            file.write_text(json.dumps({**MANAGER_FILE, **options}))
        else:
            (tmp_path / "manta").mkdir()
            storage = f'manta_root = "{tmp_path}/manta"\nstate_dir = "{tmp_path}/state"'
            server = f'host = "127.0.0.1"\nport = {port}'
            file.write_text(f"[server]\n{server}\n[storage]\n{storage}")
        done = run(program, "-c", str(file))

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "in use" in done.stderr
    assert f"127.0.0.1:{port}" in done.stderr


@pytest.mark.row("L30")
def test_state_of_a_newer_version_is_one_line(tmp_path: Path) -> None:
    """The list of jobs is one that this program does not know: it is named, and left as it is."""
    (tmp_path / "db").mkdir()
    path = tmp_path / "db" / "rebalancer.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")  # as of every version
        db.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    file = tmp_path / "config"
    options = {"listen_port": 0, "data_dir": str(tmp_path / "db")}
    file.write_text(json.dumps({**MANAGER_FILE, **options}))
    done = run("manager", "-c", str(file))

    assert done.returncode == 1
    assert "rebalancer.sqlite is a list of jobs of version 99, made by a newer" in done.stderr
    assert done.stderr.count("\n") == 1
    assert path.read_bytes() == before


@pytest.mark.row("IMP-11")
def test_a_command_without_its_parts_shows_help() -> None:
    """No subcommand: the help on stderr, and failure."""
    for args in ((), ("adm",), ("adm", "job"), ("adm", "job", "create")):
        done = run(*args)
        assert done.returncode == 2, args
        assert done.stdout == ""
        assert done.stderr.startswith("Usage: rebalancer")


def test_versions_are_one_line() -> None:
    """The first word is the program's name, which the deployed tools drop."""
    for args, name in ((("manager",), "rebalancer-manager"), (("agent",), "rebalancer-agent")):
        done = run(*args, "--version")
        assert done.returncode == 0
        assert done.stdout.split()[0] == name
        assert done.stdout.count("\n") == 1
