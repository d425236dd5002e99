"""This module runs a job in a region of its own, brings about faults, and looks at everything."""

import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import attrs
import trio

from rebalancer.errors import PeerError, RebalancerError
from rebalancer.peers.http import open_http
from rebalancer_devregion import layout as layouts
from rebalancer_devregion.audit import audit
from rebalancer_devregion.chaos import disks
from rebalancer_devregion.chaos.injection import Injector, start_all, stop_all
from rebalancer_devregion.chaos.links import Link, linked
from rebalancer_devregion.chaos.monitor import Monitor
from rebalancer_devregion.chaos.network import hosts, make_links
from rebalancer_devregion.chaos.operator import Operator
from rebalancer_devregion.chaos.parts import Part, watch
from rebalancer_devregion.chaos.schedule import (
    HORIZON_S,
    NODES,
    PARTS,
    SHARDS,
    Fault,
    Schedule,
)
from rebalancer_devregion.contents import write
from rebalancer_devregion.frontend import leak
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.processes import ProcessError
from rebalancer_devregion.region import Region, make_region, server_parts
from rebalancer_devregion.writer import change_objects

#: A job is over within so many seconds of the last fault's end; waits of the job included.
END_S = 300.0
#: Seconds between two looks of the monitor.
LOOK_S = 0.2
#: MiB of a disk that can be full.
DISK_MB = 48
#: Users change so many of the objects, one every so many seconds.
CHANGED, CHANGE_EVERY_S = 0.15, 0.05

Prepare = Callable[[Layout], Awaitable[None]]


@attrs.define
class Result:
    """A result is what became of a run.  Mutable state: all of it, while the run is under way."""

    seed: int
    #: Those that began while the job ran.
    faults: Counter[str] = attrs.field(factory=Counter)
    #: How the job ended: its state, or `hung` or `lost`.
    end: str = "hung"
    records: int = 0
    seconds: float = 0.0
    job_s: float = 0.0
    looks: int = 0
    violations: list[str] = attrs.field(factory=list)

    @property
    def ok(self) -> bool:
        """Tell whether nothing was wrong."""
        return self.end == "Complete" and not self.violations


async def run(
    schedule: Schedule, folder: Path, *, mounts: bool = False, meddle: Prepare | None = None
) -> Result:
    """Run `schedule` in a new region in `folder`, which is left as it is.

    With `mounts` its disks are file systems of their own, which can be filled.  `meddle` is for
    tests of this harness: it is started with the job, and breaks what must not break.
    """
    begun = time.monotonic()
    result = Result(schedule.seed)
    layout = layouts.plan(folder, nodes=NODES, shards=SHARDS, seed=schedule.seed)
    layout.save()
    with ExitStack() as stack:
        if mounts:
            small = {folder / "manager": DISK_MB}
            for node in layout.nodes[1:]:
                small[folder / "nodes" / node.manta_storage_id] = DISK_MB
            await trio.to_thread.run_sync(stack.enter_context, disks.mounted(small))
        await trio.to_thread.run_sync(write, layout, schedule.objects)
        chaos = _Chaos(schedule, layout, result, _region(schedule, layout))
        try:
            await chaos.run(meddle)
        except (ProcessError, PeerError) as exc:
            result.violations.append(f"{type(exc).__name__}: {exc}")
        except BaseExceptionGroup as group:
            ours, others = group.split(RebalancerError)
            if others is not None:
                raise
            result.violations.append(f"{type(ours).__name__}: {_first(ours)}")
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(chaos.end)
    result.seconds = time.monotonic() - begun
    return result


def _first(exc: BaseException | None) -> BaseException | None:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _region(schedule: Schedule, layout: Layout) -> Region:
    table = hosts(layout)
    options = {**schedule.manager_options, "hosts": table}
    return make_region(
        layout,
        manager_options=options,
        agent_server=schedule.agent_server,
        agent_hosts=table,
        agent_storage={"reserve_mb": 1},
    )


@attrs.define(eq=False)
class _Chaos:
    """A run has a region under way and the faults of its schedule.  Mutable state: the result."""

    schedule: Schedule
    layout: Layout
    result: Result
    region: Region
    parts: dict[str, Part] = attrs.field(init=False)
    links: dict[str, Link] = attrs.field(init=False)
    injector: Injector = attrs.field(init=False)
    _over: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.parts = _parts(self.region)
        self.links = make_links(self.layout, self.schedule.late_s)
        self.injector = Injector(self.layout, self.parts, self.links, self.result.violations.append)

    async def run(self, meddle: Prepare | None) -> None:
        """Run the job and its faults from start to audit; what is wrong is in the result."""
        async with linked(list(self.links.values())):
            await start_all(part for name, part in self.parts.items() if name != "manager")
            await self.parts["manager"].start()
            async with open_http({}) as http, trio.open_nursery() as nursery:
                operator = Operator(self.region.url, http)
                await operator.create(self.layout.evacuated)
                nursery.start_soon(self._warden, nursery.cancel_scope)
                if meddle is not None:
                    nursery.start_soon(meddle, self.layout)
                await self._job(operator)
                nursery.cancel_scope.cancel()
            seen = sum(link.parts_seen for link in self.links.values())
            self._check(not seen, f"{seen} connections to Moray ended within a message")
            await self._stop()
        if self.result.end == "Complete":
            await self._audit(self.region.job_file(operator.job_id))

    def end(self) -> None:
        """Let nothing of the region run any more.  Blocking."""
        processes = (part.process for part in self.parts.values())
        for process in [*self.injector.started, *processes]:
            if process.is_running:
                process.kill()

    def _check(self, holds: bool, text: str) -> None:
        if not holds:
            self.result.violations.append(text)

    async def _warden(self, scope: trio.CancelScope) -> None:
        """End the run when a part that is meant to run does not."""
        self._check(False, await watch(self.parts))
        self.result.end = "lost"
        scope.cancel()

    async def _job(self, operator: Operator) -> None:
        job_file = self.region.job_file(operator.job_id)
        monitor = Monitor(self.layout)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._monitor, monitor, job_file)
            async with trio.open_nursery() as faults:
                if self.schedule.users:
                    faults.start_soon(change_objects, self.layout, CHANGED, CHANGE_EVERY_S)
                    faults.start_soon(leak, self.layout, END_S)
                began = trio.current_time()
                for fault in self.schedule.faults:
                    faults.start_soon(self._at, began + fault.at, fault, operator)
                with trio.move_on_after(HORIZON_S + END_S):
                    self.result.end = await operator.wait_for_end()
                self.result.job_s = trio.current_time() - began
                self._over.set()
            if self.result.end == "Complete":
                await trio.to_thread.run_sync(monitor.look_at_end, job_file)
            nursery.cancel_scope.cancel()
        self.result.violations += monitor.findings.violations

    async def _at(self, when: float, fault: Fault, operator: Operator) -> None:
        """Bring a fault about at its time, unless the job is over by then."""
        await trio.sleep_until(when)
        if not self._over.is_set():
            self.result.faults[fault.kind] += 1
            await self.injector.inject(fault, operator)

    async def _monitor(self, monitor: Monitor, job_file: Path) -> None:
        while True:
            self.result.looks += await trio.to_thread.run_sync(_look, monitor, job_file)
            await trio.sleep(LOOK_S)

    async def _stop(self) -> None:
        """End every process by SIGTERM, first those that need others."""
        ours = [name for name in self.parts if name == "manager" or name.startswith("agent-")]
        await stop_all(self.parts[name] for name in ours)
        await stop_all(part for name, part in self.parts.items() if name not in ours)

    async def _audit(self, job_file: Path) -> None:
        look = partial(audit, self.layout, job_file, disturbed=True)
        report = await trio.to_thread.run_sync(look)
        self.result.records = report.checks[1].checked
        for check in report.checks:
            offenders = "; ".join(check.offenders)
            text = f"audit: {check.number}, {check.title}: {check.violations} of"
            self._check(check.ok, f"{text} {check.checked}: {offenders}")


def _look(monitor: Monitor, job_file: Path) -> bool:
    """Have the monitor look, if there is something to look at; return whether it has."""
    # While its disk is full, a file cannot be read either: sqlite wants to map some.
    with suppress(sqlite3.OperationalError):
        if job_file.exists():
            monitor.look(job_file)
            return True
    return False


def _parts(region: Region) -> dict[str, Part]:
    """Return the processes that faults can hit, by the names that faults use."""
    agents = list(region.agents.values())
    processes = {
        **server_parts(region.layout),
        # The agent of the evacuated node is given nothing.
        **{f"agent-{number}": agent for number, agent in enumerate(agents, 1) if number > 1},
        "manager": region.manager,
    }
    assert processes.keys() == set(PARTS)
    return {name: Part(name, process) for name, process in processes.items()}


def remove(folder: Path) -> None:
    """Remove what a run has left.  Blocking."""
    shutil.rmtree(folder, ignore_errors=True)
