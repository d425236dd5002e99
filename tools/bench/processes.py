"""This module measures processes from outside: their CPU time and their memory."""

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

LOOK_S = 0.02
LOOKS_A_PSS = 25  # it costs the process that is looked at more than the rest does


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    except OSError:
        pass
    return found


def cpu_seconds(pid: int) -> float:
    """Return what a process has used, to the nanosecond, and its children that have ended."""
    clock = (~pid << 3) | 2  # the kernel's name of the CPU clock of another process
    own = time.clock_gettime(clock)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Cpu:
    """This has the CPU seconds of a process and of its children."""

    main: float
    children: float

    @classmethod
    def of(cls, pid: int) -> "Cpu":
        """Read what a process and its children have used."""
        main, *children = family(pid)
        return cls(cpu_seconds(main), sum(cpu_seconds(child) for child in children))

    @property
    def total(self) -> float:
        """Return the seconds of both."""
        return self.main + self.children

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.main - other.main, self.children - other.children)


class Memory(threading.Thread):
    """This thread looks for the most that a process and its children had in memory, in bytes.

    `rss` is the sum of their peaks, in which pages that they share count once each; `pss` is the
    greatest sum of their shares.  Each is looked at all the time, so a process that ends by itself
    is known up to its last moments.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._end = pid, threading.Event()
        self._peaks: dict[int, int] = {}
        self.pss = 0

    @property
    def rss(self) -> int:
        return sum(self._peaks.values())

    def run(self) -> None:
        for number in itertools.count():
            self._look(with_pss=number % LOOKS_A_PSS == 2)
            if self._end.wait(LOOK_S):
                break

    def _look(self, *, with_pss: bool) -> None:
        pss = 0
        for one in family(self._pid):
            try:
                peak = field_bytes(Path(f"/proc/{one}/status"), "VmHWM:")
                if with_pss:
                    pss += field_bytes(Path(f"/proc/{one}/smaps_rollup"), "Pss:")
            except OSError:
                continue
            # None is told of a process that is about to end.
            self._peaks[one] = max(peak, self._peaks.get(one, 0))
        self.pss = max(self.pss, pss)

    def stop(self) -> None:
        self._end.set()
        self.join()
        self._look(with_pss=True)


def field_bytes(file: Path, name: str) -> int:
    """Return the bytes that a line of a file in /proc tells, in KiB, behind `name`."""
    for line in file.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


@contextmanager
def watched(pid: int) -> Iterator[Memory]:
    """Watch the memory of a process and its children."""
    memory = Memory(pid)
    memory.start()
    try:
        yield memory
    finally:
        memory.stop()


@contextmanager
def announcing(command: Sequence[str]) -> Iterator[int]:
    """Run a server that prints its port, and kill it in the end."""
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert popen.stdout is not None
        yield int(popen.stdout.readline())
    finally:
        popen.kill()
        popen.wait(10)


@attrs.frozen
class Cost:
    """A cost is what programs took from their start to their end."""

    wall_s: float
    cpu_s: float
    rss: int
    pss: int


def run_programs(*commands: Sequence[str], cwd: Path) -> Cost:
    """Run programs one after the other, as one; each must succeed."""
    begun, cpu, rss, pss = time.monotonic(), 0.0, 0, 0
    for command in commands:
        popen = subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert popen.stderr is not None
        with watched(popen.pid) as memory, popen.stderr:
            errors = popen.stderr.read()
            _, status, usage = os.wait4(popen.pid, 0)
        popen.returncode = os.waitstatus_to_exitcode(status)
        assert popen.returncode == 0, f"{command[0]}: {errors.decode()[-500:]}"
        cpu += usage.ru_utime + usage.ru_stime
        rss, pss = max(rss, memory.rss), max(pss, memory.pss)
    return Cost(time.monotonic() - begun, cpu, rss, pss)
