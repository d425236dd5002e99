"""Real processes, with clients that mean no good and logs that cannot be written."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from tests.process.regions import agent_alone
from tests.process.test_manager import configured
from tests.sources import ASSIGNMENT, Answer, ok, open_source, task

pytestmark = pytest.mark.process

#: No program takes longer to start on a busy machine, and none may to end, in seconds.
START_S, END_S = 60.0, 15.0
PROGRAMS = ("manager", "agent")
#: Whatever the process does with SIGPIPE, or its stdout at its end, stderr stays empty.
QUIET = ""


@attrs.frozen
class Program:
    """A daemon with known ports."""

    process: "subprocess.Popen[bytes]"
    api: str
    metrics: str

    async def end(self) -> tuple[int, float]:
        """SIGTERM; the exit status, and the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = await trio.to_thread.run_sync(self.process.wait, END_S)
        return status, time.monotonic() - begun


def free_ports() -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        return [one.getsockname()[1], other.getsockname()[1]]


@asynccontextmanager
async def program(
    name: str,
    folder: Path,
    *,
    stdout: int | None = None,
    before: Callable[[], None] = lambda: None,
    source: str = "127.0.0.1:1",
) -> AsyncIterator[Program]:
    """A daemon that answers; its stdout is what the test gives it."""
    api, metrics = free_ports()
    if name == "manager":
        path = configured(folder, listen_port=api, metrics_port=metrics)
    else:
        agent_alone(
            folder,
            source,
            server={"host": "127.0.0.1", "port": api},
            metrics={"host": "127.0.0.1", "port": metrics},
        )
        path = folder / "agent.toml"
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "rebalancer", name, "-c", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
            stderr=stderr,
            preexec_fn=before,
        )
    made = Program(process, f"http://127.0.0.1:{api}", f"http://127.0.0.1:{metrics}")
    try:
        await answers(made)
        yield made
    finally:
        process.kill()
        process.wait()


async def answers(made: Program) -> None:
    """Return when it answers on both ports."""
    with trio.fail_after(START_S):
        async with httpx.AsyncClient() as client:
            for url in (f"{made.api}/ping", f"{made.metrics}/metrics"):
                while made.process.poll() is None:
                    try:
                        assert (await client.get(url)).status_code == 200
                        break
                    except httpx.TransportError:
                        await trio.sleep(0.05)
                assert made.process.poll() is None


async def dropped(made: Program) -> int:
    """How many lines of its log a program says it could not write."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{made.metrics}/metrics")).text
    found = re.search(r"^log_lines_dropped_total (\S+)", text, re.MULTILINE)
    assert found
    return int(float(found[1]))


# --- a log that cannot be written ----------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("kind", ["closed", "no_reader", "full_disk"])
async def test_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, name: str, kind: str
) -> None:
    """Not at the start, not at the end, with the right status and without a word on stderr."""
    before: Callable[[], None] = lambda: None  # noqa: E731
    out, end = os.pipe()
    os.close(out)
    if kind == "closed":
        before = lambda: os.close(1)  # noqa: E731
    elif kind == "full_disk":
        os.close(end)
        end = os.open("/dev/full", os.O_WRONLY)
    async with program(name, tmp_path, stdout=end, before=before) as made:
        os.close(end)
        with trio.fail_after(20):
            while not await dropped(made):  # noqa: ASYNC110
                await trio.sleep(0.05)
        status, _ = await made.end()

    assert status == 0
    assert (tmp_path / "stderr").read_text() == QUIET


async def test_work_goes_on_while_nobody_reads_the_log(tmp_path: Path) -> None:
    """A pipe is full and its reader asleep: objects are pulled; later a line tells what is lost."""
    content = b"an object"
    out, end = os.pipe()
    os.set_blocking(end, False)
    while True:  # until not one byte fits
        try:
            os.write(end, b" " * 100)
        except BlockingIOError:
            break
    os.set_blocking(end, True)
    async with (
        open_source(lambda *_: Answer(ok(content))) as source,
        program("agent", tmp_path, stdout=end, source=f"127.0.0.1:{source.port}") as made,
        httpx.AsyncClient(base_url=made.api) as client,
    ):
        body = {"id": ASSIGNMENT, "tasks": [task(number, content) for number in range(5)]}
        assert (await client.post("/assignments", json=body)).status_code == 200
        with trio.fail_after(30):
            while True:
                stats = (await client.get(f"/assignments/{ASSIGNMENT}")).json()["stats"]
                if stats["complete"] == 5:
                    break
                await trio.sleep(0.05)
        status, _ = await made.end()
    os.close(end)
    os.close(out)

    assert status == 0
    assert (tmp_path / "stderr").read_text() == QUIET


# --- clients -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "port", "path"),
    [
        ("manager", "api", "/openapi.json"),
        ("manager", "metrics", "/metrics"),
        ("agent", "api", "/ping"),
        ("agent", "metrics", "/metrics"),
    ],
)
async def test_sigterm_ends_a_process_whose_client_reads_nothing(
    tmp_path: Path, name: str, port: str, path: str
) -> None:
    """However much is on its way to the client."""
    async with program(name, tmp_path) as made:
        host, _, number = getattr(made, port).partition("//")[2].partition(":")
        async with await trio.open_tcp_stream(host, int(number)) as stream:
            with trio.move_on_after(3) as stuck:
                while True:  # until the server, which must answer first, takes no more
                    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 1000)
            assert stuck.cancelled_caught
            status, _ = await made.end()

    assert status == 0


async def test_clients_that_wait_leave_files_to_the_work(tmp_path: Path) -> None:
    """341 of them, each within a body: with 256 files all objects are pulled all the same."""
    content = b"an object"

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    body = {"id": ASSIGNMENT, "tasks": [task(number, content) for number in range(40)]}
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(open_source(lambda *_: Answer(ok(content))))
        made = await stack.enter_async_context(
            program("agent", tmp_path, before=before, source=f"127.0.0.1:{source.port}")
        )
        host, _, port = made.api.partition("//")[2].partition(":")
        for _ in range(341):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(host, int(port)))
            await stream.send_all(
                b"POST /assignments HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n["
            )
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=made.api, timeout=30))
        assert (await client.post("/assignments", json=body)).status_code == 200
        with trio.fail_after(30):
            while True:
                stats = (await client.get(f"/assignments/{ASSIGNMENT}")).json()["stats"]
                if stats["complete"] == 40:
                    break
                await trio.sleep(0.05)
        files = len(os.listdir(f"/proc/{made.process.pid}/fd"))
        status, _ = await made.end()

    assert stats["failed"] == 0, json.dumps(stats)
    assert files < 128
    assert status == 0
