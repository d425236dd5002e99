"""This benchmark tells whether what an object costs the manager grows with the job.

The manager is the real one, with all its parts, in a process of its own.  Another process is the
region: a thousand agents that copy nothing, and a hundred shards that store nothing but what became
of each object.  At the end that process tells whether every object was moved exactly once, to a
place that may have it, in a record that is right.

Before the wanted run there may be others to compare it with: a small job, the same job without
others beside it, or without slow agents.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import trio
from harness import Session, parser, session
from processes import cpu_seconds, field_bytes
from results import Figure
from rich.console import Console
from rich.table import Table
from simulated import region
from simulated.jobfile import fill
from simulated.objects import DOMAIN, FIRST_ORIGIN, Objects, Shape

from rebalancer.config import load_manager
from rebalancer.domain.states import ObjectStatus
from rebalancer.log import configure
from rebalancer.manager import main as manager_main
from rebalancer.manager.store.views import Overview, read_job
from rebalancer.sqlite import Database

#: Seconds between two looks at how far all is.
LOOK_S = 0.25
#: Looks into the file of a job, for the cost of one.
VIEWS = 10


# --- the two processes -----------------------------------------------------------------------


@contextmanager
def running(*arguments: str, log: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run another process of this program, which ends with the block."""
    with open(os.devnull if log is None else log, "w") as errors:
        popen = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors if log else None,
            text=True,
        )
        try:
            yield popen
        finally:
            popen.send_signal(signal.SIGTERM if log else signal.SIGKILL)
            popen.wait(60)


def manage(file: Path, times: Path) -> None:
    """Run the manager, and write down how long each commit of a job's file takes."""
    config = load_manager(file)
    configure(manager_main.LOG_NAME, config.log_level)
    commit = Database._commit
    with open(times, "w", buffering=1) as out:

        def timed(self: Database) -> Any:
            begun: list[float] = []
            self.before_commit = lambda: begun.append(time.perf_counter())
            seen = commit(self)
            now = time.perf_counter()
            out.write(f"{time.time():.3f} {now - begun[-1]:.6f}\n")
            return seen

        Database._commit = timed  # type: ignore[method-assign]
        trio.run(manager_main.run, config, file)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_config(folder: Path, shape: Shape, ports: dict[str, int], tasks: int, port: int) -> Path:
    config = {
        "domain_name": DOMAIN,
        "shards": [{"host": region.moray_name(n)} for n in range(1, shape.shards + 1)],
        "listen_host": "127.0.0.1",
        "listen_port": port,
        "metrics_host": "127.0.0.1",
        "metrics_port": free_port(),
        "log_level": "info",
        "data_dir": str(folder / "manager"),
        "discovery": "moray",
        "storinfo_url": f"http://{region.STORINFO}",
        "max_concurrent_jobs": shape.jobs,
        "options": {"max_tasks_per_assignment": tasks},
        "hosts": region.hosts_of(shape, ports),
    }
    file = folder / "manager.json"
    file.write_text(json.dumps(config))
    return file


def ask(port: int, path: str, body: Any = None, host: str = "localhost") -> Any:
    """Return what a server here answers to GET, or with a body to POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Host": host, "Content-Type": "application/json", "Accept": "application/json"}
        method, sent = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, path, sent, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, f"{path}: {answer.status} {text[:300]!r}"
        return json.loads(text)
    finally:
        connection.close()


# --- looking ---------------------------------------------------------------------------------


@attrs.frozen
class Look:
    """A look tells how far all is, and what it has cost so far: seconds, and bytes."""

    at: float
    moved: int
    to_slow: int
    cpu_s: float
    rss: int
    #: Of all jobs together.
    file_bytes: int
    wal_bytes: int
    #: What the manager has had its file system write.
    written: int
    #: Objects that are at their end, by job.
    settled: tuple[int, ...]
    #: CPU of reading what GET shows of a job, and how long its answer took, where it was asked.
    view_s: float = 0.0
    get_s: float = 0.0


@attrs.frozen
class Watched:
    """This watches a manager at work, its jobs, and the region around it."""

    pid: int
    port: int
    region_port: int
    folder: Path
    jobs: tuple[str, ...]
    #: Objects that each job had behind it when it began.
    done: int = 0

    def look(self, *, closely: bool) -> Look:
        """See how far all is; `closely` measures a view of the first job too."""
        told = ask(self.region_port, "/", host=region.CONTROL)
        files = [self.folder / f"{job}.sqlite" for job in self.jobs]
        known = [read_job(file) for file in files] if len(files) > 1 else []
        view_s, get_s = self._view(files[0]) if closely else (0.0, 0.0)
        return Look(
            time.time(),
            told["moved"],
            told["moved_to_slow"],
            cpu_seconds(self.pid),
            field_bytes(Path(f"/proc/{self.pid}/status"), "VmRSS:"),
            sum(map(_size, files)),
            sum(_size(file.with_name(f"{file.name}-wal")) for file in files),
            written_by(self.pid),
            tuple(_moved(one) - self.done for one in known) or (told["moved"],),
            view_s,
            get_s,
        )

    def _view(self, file: Path) -> tuple[float, float]:
        views, gets = [], []
        for _ in range(VIEWS):
            begun = time.thread_time()
            read_job(file)
            views.append(time.thread_time() - begun)
        for _ in range(3):
            begun = time.perf_counter()
            ask(self.port, f"/jobs/{self.jobs[0]}")
            gets.append(time.perf_counter() - begun)
        return min(views), min(gets)

    def states(self) -> list[str]:
        return [ask(self.port, f"/jobs/{job}")["state"].lower() for job in self.jobs]


def _moved(known: Overview) -> int:
    return known.status.objects(ObjectStatus.COMPLETE)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def written_by(pid: int) -> int:
    """Return the bytes that a process has had written to disks."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


# --- a run -----------------------------------------------------------------------------------


@attrs.frozen
class Run:
    """This is what became of a run: looks at it, and what the region found wrong at its end."""

    shape: Shape
    tasks: int
    folder: str
    looks: tuple[Look, ...]
    #: When each job was at its end, and what it was then.
    ends: tuple[tuple[float, str], ...]
    #: Seconds of the clock and of each commit.
    commits: tuple[tuple[float, float], ...]
    load: tuple[float, float, float]
    #: Of the whole: CPU seconds, and bytes.
    cpu_s: float
    file_bytes: int
    region_cpu_s: float
    left_assignments: int
    wrong: dict[str, int]
    #: Objects that the jobs had behind them when they began.
    done: int = 0


def run(
    shape: Shape, tasks: int, folder: str, parts: int, *, done: int = 0, keep: Path | None
) -> Run:
    """Run jobs to their end, each of which has `done` objects behind it already."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as made:
        here = Path(made)
        told = json.dumps(attrs.asdict(shape))
        with running("--region", told) as world:
            assert world.stdout is not None
            ports = json.loads(world.stdout.readline())
            port = free_port()
            file = write_config(here, shape, ports, tasks, port)
            log, times = here / "manager.log", here / "commits"
            start = partial(running, "--manage", str(file), str(times), log=log)
            jobs = begin_behind(start, port, shape, here / "manager", done) if done else ()
            with start() as manager:
                wait_for(port)
                jobs = jobs or create(port, shape)
                watched = Watched(manager.pid, port, ports["nodes"], here / "manager", jobs, done)
                looks, ends = watch(watched, shape.objects, parts)
                cpu_s = cpu_seconds(manager.pid)
                state = ask(ports["nodes"], "/", host=region.CONTROL)
            wrong = ask(ports["nodes"], "/audit", host=region.CONTROL)
            if wrong or any(state != "complete" for _, state in ends):
                print(log.read_text()[-4000:], file=sys.stderr)
            if keep is not None:
                keep.write_text(log.read_text())
        files = [watched.folder / f"{job}.sqlite" for job in jobs]
        return Run(
            shape,
            tasks,
            folder,
            tuple(looks),
            tuple(ends),
            tuple(read_times(times)),
            os.getloadavg(),
            cpu_s,
            sum(map(_size, files)),
            state["cpu_s"],
            state["assignments"],
            wrong,
            done * shape.jobs,
        )


def begin_behind(
    start: Callable[[], AbstractContextManager[object]],
    port: int,
    shape: Shape,
    data_dir: Path,
    done: int,
) -> tuple[str, ...]:
    """Begin jobs, stop their manager, and put `done` objects behind each; returns their ids."""
    with start():
        wait_for(port)
        jobs = create(port, shape)
        wait_for_scans(port, jobs)
    for job in jobs:
        fill(data_dir / f"{job}.sqlite", Objects(shape), done)
    return jobs


def create(port: int, shape: Shape) -> tuple[str, ...]:
    """Create a job for each evacuated node; returns their ids."""
    names = [f"{FIRST_ORIGIN + job}.stor.{DOMAIN}" for job in range(shape.jobs)]
    wanted = [{"action": "evacuate", "params": {"from_shark": name}} for name in names]
    return tuple(ask(port, "/jobs", one) for one in wanted)


def wait_for_scans(port: int, jobs: Sequence[str]) -> None:
    """Wait until each job has begun, for what it does once takes longer with more rows."""
    while not all(ask(port, f"/jobs/{job}")["scans"] for job in jobs):
        time.sleep(0.05)


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            ask(port, "/ping")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the manager does not answer")


def watch(watched: Watched, objects: int, parts: int) -> tuple[list[Look], list[tuple[float, str]]]:
    """Look until all jobs are at their end: closely whenever another part is done."""
    looks = [watched.look(closely=True)]
    ends: dict[str, tuple[float, str]] = {}
    next_part = 1
    while len(ends) < len(watched.jobs):
        time.sleep(LOOK_S)
        closely = looks[-1].moved * parts >= next_part * objects
        looks.append(watched.look(closely=closely))
        if closely:
            next_part = looks[-1].moved * parts // objects + 1
        if any(done * len(watched.jobs) >= objects for done in looks[-1].settled):
            for job, state in zip(watched.jobs, watched.states(), strict=True):
                if state in ("complete", "failed", "stopped"):
                    ends.setdefault(job, (time.time(), state))
    looks.append(watched.look(closely=True))
    return looks, [ends[job] for job in watched.jobs]


def read_times(times: Path) -> Iterator[tuple[float, float]]:
    for line in times.read_text().splitlines():
        at, took = line.split()
        yield float(at), float(took)


# --- what it comes to --------------------------------------------------------------------------


@attrs.frozen
class Part:
    """A part of a run is what happened from one close look to the next."""

    moved: int
    objects_per_s: float
    cpu_us: float
    rss: int
    view_us: float
    get_ms: float
    file_bytes: int
    wal_bytes: int
    commits_per_s: float
    commit_p50_ms: float
    commit_p99_ms: float
    commit_max_ms: float


def parts_of(made: Run) -> list[Part]:
    """Cut a run at its close looks, up to the last object's move."""
    close = [look for look in made.looks if look.view_s]
    parts = []
    for before, after in pairwise(close):
        moved, seconds = after.moved - before.moved, after.at - before.at
        within = [look for look in made.looks if before.at < look.at <= after.at]
        took = sorted(took for at, took in made.commits if before.at < at <= after.at) or [0.0]
        if moved:
            parts.append(
                Part(
                    after.moved,
                    moved / seconds,
                    (after.cpu_s - before.cpu_s) / moved * 1e6,
                    max(look.rss for look in within),
                    after.view_s * 1e6,
                    after.get_s * 1e3,
                    after.file_bytes,
                    max(look.wal_bytes for look in within),
                    len(took) / seconds,
                    took[len(took) // 2] * 1e3,
                    took[len(took) * 99 // 100] * 1e3,
                    took[-1] * 1e3,
                )
            )
    return parts


@attrs.frozen
class Summary:
    """This sums up a whole run."""

    objects: int
    objects_per_s: float
    cpu_us: float
    peak_rss: int
    bytes_per_object: float
    written_per_object: float
    final_scan_s: float
    final_scan_cpu_us: float
    #: Objects a second of each job until the first was at its end, and of healthy nodes while
    #: from a tenth to four fifths of all objects were moved.
    job_rates: tuple[float, ...]
    healthy_per_s: float
    healthy_per_cpu_s: float


def summary_of(made: Run) -> Summary:
    objects = made.shape.objects
    first, last = made.looks[0], made.looks[-1]
    done = next((look for look in made.looks if look.moved >= objects), last)
    begun = next((look for look in made.looks if look.moved * 10 >= objects), first)
    late = next((look for look in made.looks if look.moved * 10 >= objects * 8), last)
    healthy = (late.moved - late.to_slow) - (begun.moved - begun.to_slow)
    first_end = min(at for at, _ in made.ends)
    together = [look for look in made.looks if look.at <= first_end and look is not first]
    until = next((k for k in together if max(k.settled) * made.shape.jobs >= objects), together[-1])
    return Summary(
        objects,
        objects / (done.at - first.at),
        # Without its start, which a small job would pay for more.
        (done.cpu_s - first.cpu_s) / objects * 1e6,
        max(look.rss for look in made.looks),
        made.file_bytes / (objects + made.done),
        (done.written - first.written) / objects,
        last.at - done.at,
        (last.cpu_s - done.cpu_s) / objects * 1e6,
        tuple(count / (until.at - first.at) for count in until.settled),
        healthy / max(late.at - begun.at, 1e-9),
        healthy / max(late.cpu_s - begun.cpu_s, 1e-9),
    )


FIGURES = {
    "objects": Figure("/s", "more"),
    "CPU": Figure("us/object", "less"),
    "RSS": Figure("MiB", "less"),
    "file": Figure("bytes/object", "less"),
    "written": Figure("bytes/object", "less"),
    "final scan": Figure("s", "less"),
    "wrong": Figure("objects", "less"),
    "WAL": Figure("MiB", "less"),
    "view": Figure("CPU us", "less"),
    "GET": Figure("ms", "less"),
    "commit": Figure("ms", "less"),
    "commit, 99 of 100": Figure("ms", "less"),
}


def setting_of(shape: Shape) -> str:
    slow = f", {shape.slow} of them slow" if shape.slow else ""
    jobs = "1 job" if shape.jobs == 1 else f"{shape.jobs} jobs"
    return f"{shape.nodes:,} nodes{slow}, {shape.shards} shards, {jobs}"


def keep(session: Session, made: Run) -> None:
    """Keep the figures of a run, and of each of its parts."""
    setting, whole = setting_of(made.shape), summary_of(made)
    figures = {
        "objects": whole.objects_per_s,
        "CPU": whole.cpu_us,
        "RSS": whole.peak_rss / 2**20,
        "file": whole.bytes_per_object,
        "written": whole.written_per_object,
        "final scan": whole.final_scan_s,
        "wrong": sum(made.wrong.values()),
    }
    contender = f"{whole.objects:,} objects{_behind(made)}"
    session.record(setting, contender, figures)
    for part in parts_of(made):
        share = round(part.moved / whole.objects * 100)
        figures = {
            "objects": part.objects_per_s,
            "CPU": part.cpu_us,
            "RSS": part.rss / 2**20,
            "file": part.file_bytes / (part.moved + made.done),
            "WAL": part.wal_bytes / 2**20,
            "view": part.view_us,
            "GET": part.get_ms,
            "commit": part.commit_p50_ms,
            "commit, 99 of 100": part.commit_p99_ms,
        }
        session.record(f"{setting}: of {contender}", f"{share} % moved", figures)


def _behind(made: Run) -> str:
    return f" behind {made.done:,}" if made.done else ""


def show(console: Console, made: Run) -> None:
    shape, whole = made.shape, summary_of(made)
    slow = f", {shape.slow} of them answer in {shape.slow_s:g} s" if shape.slow else ""
    table = Table(
        *("moved", "objects/s", "CPU us", "RSS MiB", "view us", "GET ms", "file MiB", "WAL MiB"),
        *("commits/s", "p50 ms", "p99 ms", "max ms"),
        title=f"{shape.objects:,} objects, {shape.nodes:,} nodes{slow}, {shape.shards} shards,"
        f" {shape.jobs} jobs, {made.tasks} tasks{_behind(made)}; load {made.load[0]:.1f}",
    )
    for part in parts_of(made):
        table.add_row(
            f"{part.moved:,}",
            f"{part.objects_per_s:,.0f}",
            f"{part.cpu_us:.0f}",
            f"{part.rss / 2**20:.0f}",
            f"{part.view_us:.0f}",
            f"{part.get_ms:.1f}",
            f"{part.file_bytes / 2**20:,.0f}",
            f"{part.wal_bytes / 2**20:.1f}",
            f"{part.commits_per_s:.0f}",
            f"{part.commit_p50_ms:.2f}",
            f"{part.commit_p99_ms:.1f}",
            f"{part.commit_max_ms:.0f}",
        )
    console.print(table)
    console.print(
        f"whole: {whole.objects_per_s:,.0f} objects/s, {whole.cpu_us:.1f} us of CPU an object,"
        f" peak RSS {whole.peak_rss / 2**20:.0f} MiB, {whole.bytes_per_object:,.0f} bytes of file"
        f" an object, {whole.written_per_object:,.0f} bytes written an object;"
        f" final scan {whole.final_scan_s:.1f} s, {whole.final_scan_cpu_us:.1f} us;"
        f" region {made.region_cpu_s / shape.objects * 1e6:.0f} us an object;"
        f" {made.left_assignments} assignments left at agents"
    )
    console.print("audit: " + (json.dumps(made.wrong) if made.wrong else "every check holds"))


def compare(console: Console, base: Run, made: Run) -> None:
    """Show what the wanted run costs beside one that came before it."""
    one, two = summary_of(base), summary_of(made)
    told = {
        "cpu_ratio": two.cpu_us / one.cpu_us,
        "rss_ratio": two.peak_rss / one.peak_rss,
        "healthy_rate_ratio": two.healthy_per_s / max(one.healthy_per_s, 1e-9),
        "healthy_cpu_rate_ratio": two.healthy_per_cpu_s / max(one.healthy_per_cpu_s, 1e-9),
        # What a job gets, times their number, of what one alone gets.
        "least_share": min(two.job_rates) * len(two.job_rates) / max(one.job_rates),
        "greatest_share": max(two.job_rates) * len(two.job_rates) / max(one.job_rates),
    }
    name = f"{base.shape.objects:,} objects, {base.shape.nodes:,} nodes, {base.shape.jobs} jobs"
    told_text = ", ".join(f"{what} {ratio:.2f}" for what, ratio in told.items())
    console.print(f"beside {name}: {told_text}")


def bases_of(shape: Shape, against: Sequence[int]) -> list[Shape]:
    """Return the runs that a wanted one is compared with."""
    bases = [attrs.evolve(shape, objects=count) for count in against if count < shape.objects]
    if shape.jobs > 1:
        bases.append(attrs.evolve(shape, jobs=1, objects=shape.objects // shape.jobs))
    if shape.slow:
        bases.append(attrs.evolve(shape, nodes=shape.nodes - shape.slow, slow=0, slow_s=0.0))
    return bases


def parse_options() -> argparse.Namespace:
    options_of = parser(__doc__, rounds=1)
    options_of.add_argument("--objects", type=int, default=100_000, help="of all jobs together")
    options_of.add_argument("--nodes", type=int, default=1000)
    options_of.add_argument("--shards", type=int, default=100)
    options_of.add_argument("--jobs", type=int, default=1, help="at once, each from another node")
    options_of.add_argument("--tasks", type=int, default=50, help="of an assignment")
    options_of.add_argument("--stride", type=int, default=50, help="ids of a shard for each object")
    options_of.add_argument("--slow-share", type=float, default=0.0, help="of nodes that are slow")
    options_of.add_argument("--slow-s", type=float, default=5.0, help="that they take to answer")
    options_of.add_argument(
        "--against", type=int, nargs="*", default=[], help="smaller jobs before it"
    )
    options_of.add_argument(
        "--done", type=int, nargs="*", default=[], help="the same, with so many behind each job"
    )
    options_of.add_argument("--no-bases", action="store_true", help="no runs to compare it with")
    options_of.add_argument("--parts", type=int, default=20, help="to cut a run into")
    options_of.add_argument("--folder", default=None, help="of the jobs' files")
    options_of.add_argument("--log", type=Path, help="file for the manager's log of the last run")
    options_of.add_argument("--region", help=argparse.SUPPRESS)
    options_of.add_argument("--manage", type=Path, nargs=2, help=argparse.SUPPRESS)
    return options_of.parse_args()


def main() -> None:
    options = parse_options()
    if options.manage:
        manage(*options.manage)
        return
    configure("bench", "error")
    if options.region:
        trio.run(region.serve, Shape(**json.loads(options.region)))
        return
    slow = round(options.nodes * options.slow_share)
    shape = Shape(
        options.nodes,
        options.shards,
        options.objects,
        options.jobs,
        slow,
        options.slow_s if slow else 0.0,
        options.stride,
    )
    folder = options.folder or tempfile.gettempdir()
    with session("scale", FIGURES, options, {"of the jobs' files": Path(folder)}) as kept:
        is_right = measure(kept, shape, folder, options)
    sys.exit(not is_right)


def measure(kept: Session, shape: Shape, folder: str, options: argparse.Namespace) -> bool:
    """Run what was asked for, and return whether all of it came to a right end."""
    console, is_right = Console(width=130), True
    for _ in range(options.rounds):
        bases = list[Run]()
        before = [] if options.no_bases else bases_of(shape, options.against)
        wanted_runs = [*((one, 0) for one in before), *((shape, n) for n in (0, *options.done))]
        for wanted, done in wanted_runs:
            made = run(wanted, options.tasks, folder, options.parts, done=done, keep=options.log)
            show(console, made)
            keep(kept, made)
            is_right &= not made.wrong and all(state == "complete" for _, state in made.ends)
            for base in bases:
                compare(console, base, made)
            if not done:
                bases.append(made)
    return is_right


if __name__ == "__main__":
    main()
