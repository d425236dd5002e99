"""Instructions are counted by whatever works on a machine, and never made up."""

import shutil
import subprocess
from pathlib import Path

import pytest
from instructions import Callgrind, Perf, Uncountable, callgrind_count, find_counter, perf_count

PERF = "# started on Thu Nov 26 00:00:00 2026\n\n{},,instructions:u,1234,100.00,,\n"


def test_what_perf_counted_is_read() -> None:
    """The number before the name of the event."""
    assert perf_count(PERF.format("5120034")) == 5120034


@pytest.mark.parametrize("text", [PERF.format("<not supported>"), PERF.format("<not counted>"), ""])
def test_a_machine_without_counters_is_told_from_one_that_counts(text: str) -> None:
    """Neither as zero nor as anything else."""
    with pytest.raises(Uncountable):
        perf_count(text)


def test_the_parts_of_what_callgrind_counted_are_added() -> None:
    """A file has one for each time that it was written."""
    assert callgrind_count("events: Ir\n1 2\ntotals: 300\npart: 2\ntotals: 4\n") == 304
    with pytest.raises(Uncountable):
        callgrind_count("events: Ir\n")


@pytest.mark.skipif(shutil.which("perf") is None, reason="needs perf")
def test_perf_counts_a_command_and_its_exit(tmp_path: Path) -> None:
    """Tried with an event that needs no hardware: nanoseconds in milliseconds."""
    counter = Perf("perf", event="task-clock:u")
    command = counter.wrap(
        ["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"], tmp_path / "out"
    )
    subprocess.run(command, check=True)

    assert counter.total(tmp_path / "out") > 0


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_callgrind_counts_all_processes_of_a_command(tmp_path: Path) -> None:
    """Not only of the one that was started."""
    counter, totals = Callgrind("valgrind"), list[int]()
    for script in (":", "/bin/true; :"):
        out = tmp_path / f"out{len(totals)}"
        subprocess.run(counter.wrap(["/bin/sh", "-c", script], out), check=True)
        totals.append(counter.total(out))

    assert totals[1] - totals[0] > 50_000


def test_a_machine_with_neither_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, so that somebody can install one."""
    monkeypatch.setattr("instructions.find_program", lambda name: None)

    with pytest.raises(Uncountable, match="neither perf nor valgrind"):
        find_counter(tmp_path)
