"""What benchmarks measure with: processes seen from outside, and a client that costs little."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agentclient import TASKS, Client, assignments
from heading import QUIET, file_system, warning
from objects import Object, check, make_set
from processes import Cpu, cpu_seconds, family, run_programs
from results import Noise

BUSY = "import time\nwhile time.process_time() < 0.1: pass\n"


def test_the_cpu_of_a_process_is_what_it_says_itself() -> None:
    """To the nanosecond: ticks of 10 ms are too coarse for what an object costs."""
    before = time.process_time()
    found = cpu_seconds(os.getpid()) - sum(os.times()[2:4])

    assert before - 0.02 <= found <= time.process_time() + 0.02


@pytest.mark.process
def test_a_process_and_its_children_are_told_apart() -> None:
    """The child is busy, the parent waits for it."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY + 'input()'!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as popen:
        deadline = time.monotonic() + 30
        while (cpu := Cpu.of(popen.pid)).children < 0.1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(family(popen.pid)) == 2
        popen.communicate(b"\n")

    assert cpu.children >= 0.1
    assert cpu.total == cpu.main + cpu.children


@pytest.mark.process
def test_programs_cost_what_all_of_them_used(tmp_path: Path) -> None:
    """CPU time is their sum, memory that of the largest; one that fails is no measurement."""
    large = "held = bytearray(50 << 20)\n"
    cost = run_programs(
        [sys.executable, "-c", BUSY], [sys.executable, "-c", large + BUSY], cwd=tmp_path
    )

    assert cost.cpu_s >= 0.2
    assert 50 << 20 < cost.rss < 120 << 20
    with pytest.raises(AssertionError, match="false"):
        run_programs(["false"], cwd=tmp_path)


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_an_answer_may_come_in_pieces_and_with_another_one(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads as many bytes as an answer has, and keeps the rest for the next."""
    monkeypatch.setattr("agentclient.READ", piece)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(f"127.0.0.1:{server.getsockname()[1]}")
        peer, _ = server.accept()
        with peer:
            first, second = (
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            )
            peer.sendall(first + second + b"HTTP/1.1 404 Not Found\r\n\r\n")

            assert client.receive() == b"one"
            assert client.receive() == b""
            with pytest.raises(AssertionError, match="404"):
                client.receive()
        client.close()


def test_every_object_is_asked_for_once() -> None:
    """In assignments that have so many tasks, each with its own id."""
    objects = [Object(f"object{number}", 1, bytes(16)) for number in range(TASKS + 1)]
    made = assignments(objects, "127.0.0.1:1", "1.stor.lab")

    assert [post.count(b'"object_id"') for post in made.posts] == [TASKS, 1]
    assert len(set(made.gets)) == len(set(made.deletes)) == 2
    assert all(b"".join(made.posts).count(f'"{one.name}"'.encode()) == 1 for one in objects)


def test_what_was_not_pulled_whole_is_found(tmp_path: Path) -> None:
    """A contender that left something out would be the fastest."""
    dataset = make_set("few", tmp_path, 3, 10)
    folder = next(dataset.root.iterdir())
    check(dataset, folder)

    (folder / dataset.objects[1].name).write_bytes(b"cut")
    with pytest.raises(AssertionError, match="not whole"):
        check(dataset, folder)
    (folder / dataset.objects[1].name).write_bytes(bytes(10))
    (folder / "more").touch()
    with pytest.raises(AssertionError):
        check(dataset, folder)


def test_a_machine_that_is_not_quiet_is_warned_of_with_its_load() -> None:
    """And a quiet one is not, whatever its load average still remembers."""
    assert warning(Noise((9.0, 9.0, 9.0), QUIET)) is None
    loud = warning(Noise((1.5, 0.0, 0.0), 0.5))
    assert loud is not None
    assert "50%" in loud
    assert "1.50" in loud


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount() -> None:
    """Not that of the root."""
    assert file_system(Path("/proc/self")) == "proc"


BENCH = Path(__file__).parents[2] / "tools" / "bench"


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        (["agent.py", "--only", "4q"], "--only: expected a part of one of 4k tmpfs, "),
        (["agent.py", "--peers", "crul"], "--peers: expected some of curl+md5sum, "),
        (["agent.py", "--rounds", "0"], "--rounds: expected a whole number of 1 or more, got 0"),
        (["compare.py", "none.json", "none.json"], "none.json cannot be read: "),
        (["compare.py", __file__, __file__], "cannot be read: "),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(command: list[str], trouble: str) -> None:
    """And at once, not after minutes of measuring something else."""
    program, *arguments = command
    told = subprocess.run(
        [sys.executable, BENCH / program, *arguments], capture_output=True, text=True, timeout=60
    )
    assert told.returncode != 0
    assert not told.stdout
    assert trouble in told.stderr.splitlines()[-1]
    assert "Traceback" not in told.stderr


def test_a_commit_that_is_none_is_said_in_one_line() -> None:
    """Before an environment is made for it."""
    told = subprocess.run(
        [BENCH / "versus", "no-such-commit", "agent"], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 2
    assert told.stderr.splitlines() == ["versus: no-such-commit is no commit of this repository"]
