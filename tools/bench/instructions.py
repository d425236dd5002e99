"""This module counts the instructions of programs, where times are too noisy.

`perf stat` counts them in hardware, at full speed.  Virtual machines and containers often have no
such counters; there valgrind's callgrind counts what it executes, fifty times slower.  Both count
instructions in user space, of a command and all processes that descend from it.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from rebalancer_devregion.processes import find_program

EVENT = "instructions:u"
_UNKNOWN = "instructions cannot be counted here: {}"


class Uncountable(Exception):
    """Nothing on this machine counts instructions."""


@attrs.frozen
class Perf:
    """This counter is `perf stat`; it can count any other event in place of instructions."""

    program: str
    event: str = EVENT
    name = "perf stat"

    def wrap(self, command: Sequence[str], out: Path) -> list[str]:
        """Return the command that runs `command` and writes its count below `out`."""
        return [self.program, "stat", "-x", ",", "-e", self.event, "-o", str(out), "--", *command]

    def total(self, out: Path) -> int:
        """Return what was counted."""
        return perf_count(out.read_text(), self.event)


@attrs.frozen
class Callgrind:
    """This counter is valgrind's callgrind."""

    program: str
    name = "callgrind"

    def wrap(self, command: Sequence[str], out: Path) -> list[str]:
        """Return the command that runs `command` and writes its count below `out`."""
        options = ["--tool=callgrind", "--quiet", "--trace-children=yes"]
        return [self.program, *options, f"--callgrind-out-file={out}.%p", *command]

    def total(self, out: Path) -> int:
        """Return the sum over all processes."""
        files = list(out.parent.glob(f"{out.name}.*"))
        if not files:
            raise Uncountable(_UNKNOWN.format("callgrind has written nothing"))
        return sum(callgrind_count(file.read_text()) for file in files)


Counter = Perf | Callgrind


def perf_count(text: str, event: str = EVENT) -> int:
    """Return the count in what `perf stat -x ,` has written."""
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2] == event:
            if not re.fullmatch(r"[\d.]+", fields[0]):
                raise Uncountable(_UNKNOWN.format(f"perf says {fields[0]}"))
            return int(float(fields[0]))
    raise Uncountable(_UNKNOWN.format("perf tells of no such event"))


def callgrind_count(text: str) -> int:
    """Return the count in a file that callgrind has written, of all its parts."""
    found = re.findall(r"^totals: (\d+)$", text, re.MULTILINE)
    if not found:
        raise Uncountable(_UNKNOWN.format("callgrind's file has no total"))
    return sum(map(int, found))


def find_counter(folder: Path) -> Counter:
    """Return the fastest counter that works here; tried in `folder`.

    Raises:
      Uncountable: none does; its text says why.
    """
    reasons = []
    if perf := find_program("perf"):
        try:
            return _tried(Perf(perf), folder / "perf")
        except Uncountable as exc:
            reasons.append(str(exc).removeprefix(_UNKNOWN.format("")))
    if valgrind := find_program("valgrind"):
        try:
            return _tried(Callgrind(valgrind), folder / "callgrind")
        except Uncountable as exc:
            reasons.append(str(exc).removeprefix(_UNKNOWN.format("")))
    raise Uncountable(_UNKNOWN.format("; ".join(reasons) or "neither perf nor valgrind is there"))


def _tried(counter: Counter, out: Path) -> Counter:
    done = subprocess.run(counter.wrap(["true"], out), capture_output=True, text=True)
    if done.returncode:
        raise Uncountable(_UNKNOWN.format(done.stderr.strip()[-200:]))
    counter.total(out)
    return counter
