"""The agent as a process: who may ask it, what it syncs before it tells, and a long queue."""

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trustme

from rebalancer.agent.state.posted import Posted
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent_protocol import Assignment, Dialect, Task
from rebalancer.domain.objects import Shark
from tests.conftest import require
from tests.process.regions import Alone, agent_alone, reach, run
from tests.sources import ASSIGNMENT, OWNER, Answer, md5, ok, open_source, task, uuid

pytestmark = pytest.mark.process

CONTENT = b"an object"
TOKEN = "f00ba4"


@asynccontextmanager
async def running(folder: Path, source: str, /, **tables: Any) -> AsyncIterator[Alone]:
    """An agent that ends well on SIGTERM."""
    alone = agent_alone(folder, source, **tables)
    await alone.process.start()
    try:
        yield alone
    except BaseException:
        alone.process.kill()
        raise
    status, _ = await alone.process.stop()
    assert status == 0


#: A refused request may end its connection.
UNKEPT = httpx.Limits(max_keepalive_connections=0)

# --- who may ask ---------------------------------------------------------------------------


@pytest.mark.row("A14", "L37")
async def test_only_a_token_opens_the_api(tmp_path: Path) -> None:
    """But for /ping; a wrong one gets 401 as JSON, and changes nothing."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    api = {"token_file": str(tmp_path / "token")}
    async with (
        running(tmp_path, "127.0.0.1:1", api=api) as alone,
        httpx.AsyncClient(base_url=alone.url, limits=UNKEPT) as client,
    ):
        body = {"id": ASSIGNMENT, "tasks": [task(1, CONTENT)]}
        refused = [
            await client.post("/assignments", json=body, headers=headers)
            for headers in (
                {},
                {"authorization": "Bearer f00ba"},
                {"authorization": f"Basic {TOKEN}"},
                {"authorization": f"Bearer {TOKEN}x"},
            )
        ]
        limits = await client.put("/limits", json={"bandwidth_bytes_per_s": 1})
        ping = await client.get("/ping")
        client.headers["authorization"] = f"Bearer {TOKEN}"
        unknown = await client.get(f"/assignments/{ASSIGNMENT}")
        accepted = await client.post("/assignments", json=body)
        told = (await client.get("/status")).json()

    assert [reply.status_code for reply in [*refused, limits]] == [401] * 5
    assert refused[0].headers["www-authenticate"] == "Bearer"
    assert "token" in refused[0].json()["message"]
    assert told["limits"]["bandwidth_bytes_per_s"] is None
    assert (ping.status_code, unknown.status_code, accepted.status_code) == (200, 404, 200)
    assert TOKEN not in alone.process.log.read_text()


async def test_the_api_speaks_tls(tmp_path: Path) -> None:
    """With the operator's certificate; plain HTTP gets no answer there."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    api = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        running(tmp_path, "127.0.0.1:1", api=api) as alone,
        httpx.AsyncClient(verify=trusting) as client,
    ):
        url = alone.url.replace("http://", "https://")
        reply = await client.get(f"{url}/ping")
        with pytest.raises(httpx.TransportError):
            await client.get(f"{alone.url}/ping")

    assert reply.json()["ping"] == "pong"


@pytest.mark.parametrize(
    ("files", "api", "message"),
    [
        ({}, {"token_file": "token"}, "token: No such file"),
        ({"token": " \n"}, {"token_file": "token"}, "token: expected one token"),
        ({"token": "two words"}, {"token_file": "token"}, "token: expected one token"),
        ({}, {"tls_cert": "cert"}, "tls_cert, tls_key: expected both or none"),
        ({}, {"tls_cert": "cert", "tls_key": "key"}, "key: No such file"),
        ({"cert": "x", "key": "y"}, {"tls_cert": "cert", "tls_key": "key"}, "key: [SSL"),
    ],
)
def test_files_that_do_not_serve_are_told(
    tmp_path: Path, files: dict[str, str], api: dict[str, str], message: str
) -> None:
    """One line on stderr that names the file, exit 1: never an open API instead."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {key: str(tmp_path / name) for key, name in api.items()}
    alone = agent_alone(tmp_path, "127.0.0.1:1", api=paths)
    run = subprocess.run(
        [sys.executable, "-m", "rebalancer", *alone.process.args],
        capture_output=True,
        text=True,
        timeout=30,
    )

    last = run.stderr.strip().splitlines()[-1]
    assert (run.returncode, message in last) == (1, True), run.stderr
    assert "Traceback" not in run.stderr


# --- whose folder it is --------------------------------------------------------------------


async def test_a_second_agent_on_one_folder_changes_nothing(tmp_path: Path) -> None:
    """It names the first and ends; temporary files, assignments and the first are as they were."""
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(4_000_000)
    hanging = Answer(begun, hang=True)
    async with (
        open_source(lambda *_: hanging) as source,
        running(tmp_path, f"127.0.0.1:{source.port}") as alone,
        httpx.AsyncClient(base_url=alone.url) as client,
    ):
        body = {"id": ASSIGNMENT, "tasks": [task(1, CONTENT)]}
        assert (await client.post("/assignments", json=body)).status_code == 200
        temporary = tmp_path / "manta" / "rebalancer"
        with trio.fail_after(20):
            while not list(temporary.glob(f"{OWNER}.*")):  # noqa: ASYNC110
                await trio.sleep(0.02)
        saving = tmp_path / "state" / "saving" / uuid(70)
        saving.write_bytes(b"half")
        before = sorted(temporary.iterdir())
        done = await trio.to_thread.run_sync(run, "agent", "-c", str(tmp_path / "agent.toml"))

        assert done.returncode == 1
        pid = alone.process.pid
        expected = f"{tmp_path}/state is in use by rebalancer-agent, process {pid}, since 20"
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
        assert saving.exists()
        assert sorted(temporary.iterdir()) == before
        told = (await client.get(f"/assignments/{ASSIGNMENT}")).json()
        assert told["stats"]["state"] == "Running"


# --- what is synced before it is told --------------------------------------------------------


@attrs.frozen
class Call:
    """A system call that succeeded: when it began and ended, its name and its arguments."""

    begun: float
    ended: float
    name: str
    arguments: str


_WHOLE = re.compile(r"(\d+\.\d+) (\w+)\((.*)\) = \d+[^<]* <(\d+\.\d+)>")
_BEGUN = re.compile(r"(\d+\.\d+ \w+\(.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"\d+\.\d+ <\.\.\. \w+ resumed>(.*)")


def calls(trace: Path) -> Iterator[Call]:
    begun: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if (half := _BEGUN.fullmatch(text)) is not None:
            begun[thread] = half[1]
            continue
        if (rest := _RESUMED.fullmatch(text)) is not None:
            text = begun.pop(thread) + rest[1]
        if (found := _WHOLE.fullmatch(text)) is not None:
            yield Call(float(found[1]), float(found[1]) + float(found[4]), found[2], found[3])


def tracer(pid: int, trace: Path) -> "subprocess.Popen[bytes]":
    """A program that records system calls of a process and its children."""
    strace = require("strace")
    if subprocess.run([strace, "-f", "true"], capture_output=True).returncode:
        pytest.skip("processes cannot be traced here")
    watched = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2,sendto"
    command = [strace, "-f", "-y", "-ttt", "-T", "-s", "200", "-e", watched, "-o", str(trace)]
    pids = [text for one in (pid, *children(pid)) for text in ("-p", str(one))]
    return subprocess.Popen([*command, *pids], stderr=subprocess.DEVNULL)


@pytest.mark.row("CRIT-11", "DEF-13", "A5")
@pytest.mark.parametrize("objects", [2, 40], ids=["one by one", "many at once"])
async def test_nothing_is_told_before_it_is_synced(tmp_path: Path, objects: int) -> None:
    """By the kernel's own record of a run of the real agent, with all its processes.

    For every object: its file, then the rename, then its folder, and only then the file of the
    assignment; for that one, the same, before the answer to POST and before `completed`.
    """
    trace = tmp_path / "trace"
    async with (
        open_source(lambda *_: Answer(ok(CONTENT))) as source,
        running(tmp_path, f"127.0.0.1:{source.port}") as alone,
        httpx.AsyncClient() as client,
    ):
        recorder = tracer(alone.process.pid, trace)
        with trio.fail_after(10):
            while not (trace.exists() and traced(alone.process.pid)):  # noqa: ASYNC110
                await trio.sleep(0.02)
        tasks = [task(number, CONTENT) for number in range(objects)]
        reply = await client.post(
            f"{alone.url}/assignments", json={"id": ASSIGNMENT, "tasks": tasks}
        )
        assert reply.status_code == 200
        await reach(client, alone, ASSIGNMENT, objects)
        recorder.send_signal(signal.SIGINT)
        await trio.to_thread.run_sync(recorder.wait)

    seen = list(calls(trace))
    syncs = [call for call in seen if call.name in ("fsync", "fdatasync", "syncfs")]
    renames = [call for call in seen if call.name.startswith("rename")]

    def synced(path: Path, after: float, before: float) -> bool:
        """Whether `path`, or its whole file system, was synced between the two times."""
        return any(
            after <= call.begun and call.ended <= before
            for call in syncs
            if call.name == "syncfs" or f"<{path}>" in call.arguments
        )

    def rename(text: str) -> tuple[Call, Path]:
        (found,) = [
            (call, old) for call in renames for old, new in [ends(call)] if new == Path(text)
        ]
        return found

    state, folder = tmp_path / "state", tmp_path / "manta" / OWNER
    completed, _ = rename(f"{state}/completed/{ASSIGNMENT}")
    placed = [
        (call, old)
        for call in renames
        for old, new in [ends(call)]
        if new == state / "scheduled" / ASSIGNMENT
    ]
    assert len(placed) >= 2  # as posted, and as ended; on a slow machine there is progress between
    for call, source_path in placed:
        assert synced(source_path, 0, call.begun)
    answered = min(call.begun for call in seen if "HTTP/1.1 200" in call.arguments)
    assert synced(state / "scheduled", placed[0][0].ended, answered)
    for number in range(objects):
        call, temporary = rename(f"{folder}/{uuid(number)}")
        assert synced(temporary, 0, call.begun), number
        assert synced(folder, call.ended, placed[-1][0].begun), number
    assert completed.begun > placed[-1][0].ended


def ends(call: Call) -> tuple[Path, Path]:
    """The old and the new path of a rename, whether by whole paths or from open folders."""
    found = re.findall(r'(?:<([^>]*)>, )?"([^"]*)"', call.arguments)
    old, new = (Path(folder, name) for folder, name in found)
    return old, new


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for one in tasks for child in (one / "children").read_text().split()]


def traced(pid: int) -> bool:
    """Whether all of its processes are being traced, by the kernel's record."""
    status = [Path(f"/proc/{one}/status").read_text() for one in (pid, *children(pid))]
    return len(status) == 3 and not any("TracerPid:\t0\n" in text for text in status)


# --- fetchers that die -----------------------------------------------------------------------


async def test_what_a_killed_fetcher_had_begun_is_removed(tmp_path: Path) -> None:
    """At once, and not at the agent's next start: it may be large."""
    large = os.urandom(3 << 20)
    half = Answer(ok(large)[: 2 << 20], hang=True)
    temporary = tmp_path / "manta" / "rebalancer"

    async with (
        open_source(lambda n, _: half if n == 0 else Answer(ok(large))) as source,
        running(tmp_path, f"127.0.0.1:{source.port}") as alone,
        httpx.AsyncClient() as client,
    ):
        body = {"id": ASSIGNMENT, "tasks": [task(1, large)]}
        await client.post(f"{alone.url}/assignments", json=body)
        with trio.fail_after(20):
            while not (first := list(temporary.glob("[!.]*"))):  # noqa: ASYNC110
                await trio.sleep(0.02)
        for child in children(alone.process.pid):
            os.kill(child, signal.SIGKILL)
        await reach(client, alone, ASSIGNMENT, 1)
        left = list(temporary.glob("[!.]*"))

    assert (len(first), left) == (1, [])
    assert (tmp_path / "manta" / OWNER / uuid(1)).read_bytes() == large


# --- a long queue ----------------------------------------------------------------------------

BACKLOG, LINKS = 100_000, 25_000


def backlog(folder: Path) -> None:
    """A hundred thousand assignments of one task each: a few files by many names."""
    store = AssignmentStore(folder)
    store.prepare()
    one = Task(uuid(1), OWNER, md5(CONTENT), Shark("dc1", "2.stor.lab"))
    for start in range(0, BACKLOG, LINKS):
        first = store.scheduled / uuid(start)
        store.save(Posted.of(Assignment(first.name, (one,)), Dialect.LEGACY))
        for number in range(start + 1, start + LINKS):
            os.link(first, store.scheduled / uuid(number))


def resident_mib(pid: int) -> float:
    """Of the agent itself: its fetchers have no part in this."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@pytest.mark.row("DEF-15", "N24")
async def test_a_long_queue_is_taken_up_at_once(tmp_path: Path) -> None:
    """A hundred thousand stored assignments: in order, in flat memory, and never read at once."""
    hanging = Answer(b"", hang=True)
    async with open_source(lambda *_: hanging) as source:
        address = f"127.0.0.1:{source.port}"
        async with running(made(tmp_path, "empty"), address) as alone:
            empty_mib = resident_mib(alone.process.pid)
        folder = made(tmp_path, "full")
        await trio.to_thread.run_sync(backlog, folder / "state")
        begun = trio.current_time()
        async with running(folder, address) as alone:
            seconds = trio.current_time() - begun
            async with httpx.AsyncClient(base_url=alone.url, timeout=30) as client:
                status = (await client.get("/status")).json()
                newest = (await client.get("/assignments?limit=2")).json()
            grown_mib = resident_mib(alone.process.pid) - empty_mib

    print(f"{BACKLOG} assignments: started in {seconds:.1f} s, {grown_mib:.0f} MiB more")
    assert status["waiting"] + len(status["running"]) == BACKLOG
    assert status["running"] == [uuid(0)]
    assert [one["uuid"] for one in newest] == [uuid(BACKLOG - 1), uuid(BACKLOG - 2)]
    assert grown_mib < 15


def made(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name
