"""This module finds out what is measured on: versions, machine, load and file systems."""

import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import attrs
from results import Heading, Noise

from rebalancer import __version__
from rebalancer_devregion.processes import find_program

ROOT = Path(__file__).parents[2]
#: More than this share of the CPUs' time used by others is no quiet machine.
QUIET = 0.05
#: Program -> how it tells its version.
PROGRAMS = {
    "nginx": "-v",
    "curl": "--version",
    "rclone": "--version",
    "aria2c": "--version",
    "psql": "--version",
}


def make_heading(folders: Mapping[str, Path]) -> Heading:
    """Return the heading of a run that begins now and works in `folders`; takes a second."""
    return Heading(
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        arguments=sys.argv[1:],
        version=__version__,
        commit=_git("rev-parse", "--short", "HEAD"),
        is_dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        programs=programs(),
        cpu=_cpu(),
        cpus=os.cpu_count() or 1,
        file_systems={name: file_system(folder) for name, folder in folders.items()},
        noise=noise_at_start(),
    )


def programs() -> dict[str, str]:
    """Return the versions of what the benchmarks use, of those that are installed."""
    found = {"kernel": platform.release(), "Python": platform.python_version()}
    try:
        import pycurl
    except ImportError:
        pass
    else:
        found |= dict(part.split("/") for part in pycurl.version.split()[:2])
    for name, option in PROGRAMS.items():
        if program := find_program(name):
            done = subprocess.run([program, option], capture_output=True, text=True)
            version = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
            found[name] = version[0] if version else "unknown"
    return found


def _git(*arguments: str) -> str:
    if not (ROOT / ".git").exists():  # unpacked from a source distribution
        return "unknown"
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def file_system(folder: Path) -> str:
    """Return the type of the file system that `folder` is on."""
    best, kind = Path("/"), "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4])
        if folder.resolve().is_relative_to(mounted) and mounted.is_relative_to(best):
            best, kind = mounted, after.split()[0]
    return kind


# --- noise ---------------------------------------------------------------------------------


@attrs.frozen
class Ticks:
    """This has the seconds of all CPUs since the start of the machine."""

    total: float
    busy: float
    stolen: float
    ours: float  # by this process and by those that it has waited for

    @classmethod
    def now(cls) -> "Ticks":
        """Read the seconds of now."""
        line = Path("/proc/stat").read_text().splitlines()[0]
        times = [int(field) / os.sysconf("SC_CLK_TCK") for field in line.split()[1:9]]
        idle, stolen = times[3] + times[4], times[7]
        used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ours = sum(one.ru_utime + one.ru_stime for one in used)
        return cls(sum(times), sum(times) - idle - stolen, stolen, ours)

    def share(self, seconds: float, since: "Ticks") -> float:
        """Return `seconds` as a share of the CPUs' time since then."""
        return max(seconds / ((self.total - since.total) or 1.0), 0.0)


_start: list[Ticks] = []


def noise_at_start() -> Noise:
    """Look at what the machine does by itself for a second, and remember when this was."""
    before = Ticks.now()
    time.sleep(1)
    after = Ticks.now()
    _start[:] = [after]
    return Noise(os.getloadavg(), after.share(after.busy - before.busy, before))


def noise_at_end(start: Noise) -> Noise:
    """Complete what `noise_at_start` returned."""
    then, now = _start[0], Ticks.now()
    others = (now.busy - then.busy) - (now.ours - then.ours)
    return attrs.evolve(
        start,
        load_at_end=os.getloadavg(),
        others=now.share(others, then),
        stolen=now.share(now.stolen - then.stolen, then),
    )


def warning(noise: Noise) -> str | None:
    """Return the line that tells a reader of an unquiet machine, or None for a quiet one."""
    if noise.busy_at_start <= QUIET:
        return None
    return (
        f"WARNING: this machine is not quiet: {noise.busy_at_start:.0%} of its CPUs' time is used"
        f" by others, load average {noise.load_at_start[0]:.2f}"
    )
