"""This module starts agents: of this project, of any version, and the deployed one in Rust."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
from processes import Cpu
from products import THIS

TRANSFERS = 16
WORKERS = 4
#: Until its fetchers are up: an agent runs for months.
SETTLE_S = 1.0
#: It answers within this many seconds of its start, also where its instructions are counted.
START_S = 300.0
LOOK_S = 0.005
#: Where the deployed agent has its files, whatever its configuration says.
RUST_ROOT, RUST_STATE = Path("/manta"), Path("/var/tmp/rebalancer")

#: Changes a command into one that counts what it does.
Wrap = Callable[[Sequence[str]], Sequence[str]]


@attrs.frozen
class RunningAgent:
    """This agent runs and answers: it has an address, a process, a cost of its start, a root.

    `source` is the storage node that it is to pull from.
    """

    address: str
    pid: int
    start: Cpu
    root: Path
    source: str


@contextmanager
def running_agent(
    place: Path,
    port: int,
    *,
    durable: bool,
    program: str = THIS.rebalancer,
    wrap: Wrap = list,
) -> Iterator[RunningAgent]:
    """Run an agent of this project in a new folder; it pulls from `port`."""
    (place / "manta").mkdir(parents=True)
    config = place / "agent.toml"
    config.write_text(
        f"""
        [server]
        host = "127.0.0.1"
        port = 0
        workers = {WORKERS}
        workers_per_assignment = {TRANSFERS // WORKERS}
        [metrics]
        host = "127.0.0.1"
        port = 0
        [storage]
        manta_root = "{place}/manta"
        state_dir = "{place}/state"
        reserve_mb = 0
        durable = {str(durable).lower()}
        [source]
        port = {port}
        [hosts]
        "1.stor.lab" = "127.0.0.1"
        """
    )
    command = wrap([program, "agent", "-c", str(config)])
    with _running(command, place) as popen:
        address = _listening(place / "log", popen)
        start = Cpu.of(popen.pid)
        time.sleep(SETTLE_S)
        yield RunningAgent(address, popen.pid, start, place / "manta", "1.stor.lab")


@contextmanager
def running_rust_agent(place: Path, port: int, *, program: str) -> Iterator[RunningAgent]:
    """Run the deployed agent, whose folders are made to lie in `place` by links."""
    root, state = place / "manta", place / "state"
    for folder in (root, state / "scheduled", state / "completed"):
        folder.mkdir(parents=True)
    api, metrics = _free_port(), _free_port()
    config = place / "agent.toml"
    config.write_text(
        f"""
        [server]
        host = "127.0.0.1"
        port = {api}
        workers = {WORKERS}
        workers_per_assignment = {TRANSFERS // WORKERS}
        [metrics]
        host = "127.0.0.1"
        port = {metrics}
        datacenter = "dc1"
        service = "1.rebalancer-agent.lab"
        server = "bench"
        """
    )
    for link in (RUST_ROOT, RUST_STATE):
        if link.exists():
            sys.exit(f"{link} is there: not on a machine that has an agent")
    try:
        RUST_ROOT.symlink_to(root)
        RUST_STATE.symlink_to(state)
        with _running([program, "-c", str(config)], place) as popen:
            _accepting(api, popen)
            start = Cpu.of(popen.pid)
            time.sleep(SETTLE_S)
            yield RunningAgent(f"127.0.0.1:{api}", popen.pid, start, root, f"127.0.0.1:{port}")
    finally:
        for link in (RUST_ROOT, RUST_STATE):
            with suppress(FileNotFoundError):
                link.unlink()


@contextmanager
def _running(command: Sequence[str], place: Path) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (place / "log").open("wb") as log:
        # Not in the checkout: Python looks for modules there before it looks at its own.
        popen = subprocess.Popen(command, cwd=place, stdout=log, stderr=log, env=environment)
    try:
        yield popen
    finally:
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(60)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
            raise


def _listening(log: Path, popen: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + START_S
    while popen.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            with suppress(ValueError, TypeError):
                if (told := json.loads(line))["msg"] == "listening":
                    return str(told["api"])
        time.sleep(LOOK_S)
    sys.exit(f"the agent did not start: {log.read_text()[-2000:]}")


def _accepting(port: int, popen: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while popen.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(LOOK_S)
    sys.exit("the deployed agent did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
