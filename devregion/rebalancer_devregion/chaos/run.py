"""One run makes a region and a job, brings about faults, and looks at everything."""

import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.errors import PeerError, RebalancerError
from rebalancer.peers.http import HttpClient, open_http
from rebalancer_devregion import layout as layouts
from rebalancer_devregion.audit import audit
from rebalancer_devregion.chaos import disks
from rebalancer_devregion.chaos.links import Link, linked
from rebalancer_devregion.chaos.monitor import Monitor
from rebalancer_devregion.chaos.parts import Part, holding, signal_all, watch
from rebalancer_devregion.chaos.schedule import (
    HORIZON_S,
    NODES,
    PARTS,
    SHARDS,
    Fault,
    FaultKind,
    Schedule,
)
from rebalancer_devregion.contents import write
from rebalancer_devregion.frontend import leak
from rebalancer_devregion.layout import (
    AGENT_PORT,
    MORAY_PORT,
    SOURCE_PORT,
    STORINFO_PORT,
    Layout,
)
from rebalancer_devregion.processes import Process, ProcessError
from rebalancer_devregion.region import Region, make_region, server_parts
from rebalancer_devregion.writer import change_objects

#: A job is over within so many seconds of the last fault's end; waits of the job included.
END_S = 300.0
#: Seconds between two looks of the monitor, and between two questions how the job stands.
LOOK_S, ASK_S = 0.2, 0.2
#: Words of the API for a job that is over.
ENDED = ("Complete", "Failed")
#: MiB of a disk that can be full.
DISK_MB = 48
#: Users change so many of the objects, one every so many seconds.
CHANGED, CHANGE_EVERY_S = 0.15, 0.05
#: Proxies have the last number of the address behind them and so much.
_BEYOND = {"agent": 60, "source": 60, "moray": 20, "storinfo": 1}

Prepare = Callable[[Layout], Awaitable[None]]


@attrs.define
class Result:
    """The outcome of a run.  Mutable state: all of it, while it runs."""

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
        """Whether nothing was wrong."""
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


def _beyond(address: str, kind: str) -> str:
    network, _, last = address.rpartition(".")
    return f"{network}.{int(last) + _BEYOND[kind]}"


def make_links(layout: Layout, late_s: float) -> dict[str, Link]:
    """Make a link before every server of a region, by the names that faults use."""
    links = []
    for number, node in enumerate(layout.nodes, 1):
        for kind, port in (("agent", AGENT_PORT), ("source", SOURCE_PORT)):
            host = _beyond(node.address, kind)
            late = late_s if kind == "agent" else 0.0
            name = f"{kind}-{number}"
            links.append(Link(name, host, port, node.address, port, late_s=late))
    for number in layout.shards:
        address = layout.moray_address(number)
        host = _beyond(address, "moray")
        name, port = f"moray-{number}", MORAY_PORT
        links.append(Link(name, host, port, address, port, framed=True, late_s=late_s))
    address = layout.storinfo_address
    host = _beyond(address, "storinfo")
    links.append(Link("storinfo", host, STORINFO_PORT, address, STORINFO_PORT))
    return {link.name: link for link in links}


def _hosts(layout: Layout) -> dict[str, str]:
    """Make the `hosts` table that leads everybody through the links."""
    table = {node.manta_storage_id: _beyond(node.address, "agent") for node in layout.nodes}
    for number in layout.shards:
        host = _beyond(layout.moray_address(number), "moray")
        table[layout.moray_host(number)] = f"{host}:{MORAY_PORT}"
    host = _beyond(layout.storinfo_address, "storinfo")
    table[f"storinfo.{layout.domain}"] = f"{host}:{STORINFO_PORT}"
    return table


def _region(schedule: Schedule, layout: Layout) -> Region:
    hosts = _hosts(layout)
    options = {**schedule.manager_options, "hosts": hosts}
    return make_region(
        layout,
        manager_options=options,
        agent_server=schedule.agent_server,
        agent_hosts=hosts,
        agent_storage={"reserve_mb": 1},
    )


@attrs.define(eq=False)
class _Chaos:
    """One run under way.  Mutable state: its parts and links, and the result."""

    schedule: Schedule
    layout: Layout
    result: Result
    region: Region
    parts: dict[str, Part] = attrs.field(factory=dict)
    links: dict[str, Link] = attrs.field(factory=dict)
    others: list[Process] = attrs.field(factory=list)
    job_id: str = ""
    _over: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        agents = list(self.region.agents.values())
        processes = {
            **server_parts(self.layout),
            # The agent of the evacuated node is given nothing.
            **{f"agent-{number}": agent for number, agent in enumerate(agents, 1) if number > 1},
            "manager": self.region.manager,
        }
        assert processes.keys() == set(PARTS)
        self.parts = {name: Part(name, process) for name, process in processes.items()}
        self.links = make_links(self.layout, self.schedule.late_s)

    async def run(self, meddle: Prepare | None) -> None:
        """Run the job and its faults from start to audit; what is wrong is in the result."""
        async with linked(list(self.links.values())):
            await self._start(name for name in self.parts if name != "manager")
            await self.parts["manager"].start()
            async with open_http({}) as http, trio.open_nursery() as nursery:
                self.job_id = await self._create(http)
                nursery.start_soon(self._warden, nursery.cancel_scope)
                if meddle is not None:
                    nursery.start_soon(meddle, self.layout)
                await self._job(http)
                nursery.cancel_scope.cancel()
            seen = sum(link.parts_seen for link in self.links.values())
            self._check(not seen, f"{seen} connections to Moray ended within a message")
            await self._stop()
        if self.result.end == "Complete":
            look = partial(audit, self.layout, self._job_file, disturbed=True)
            report = await trio.to_thread.run_sync(look)
            self.result.records = report.checks[1].checked
            for check in report.checks:
                offenders = "; ".join(check.offenders)
                text = f"audit: {check.number}, {check.title}: {check.violations} of"
                self._check(check.ok, f"{text} {check.checked}: {offenders}")

    def end(self) -> None:
        """Let nothing of the region run any more.  Blocking."""
        for process in [*self.others, *(part.process for part in self.parts.values())]:
            if process.is_running:
                process.kill()

    @property
    def _job_file(self) -> Path:
        return self.region.job_file(self.job_id)

    def _check(self, holds: bool, text: str) -> None:
        if not holds:
            self.result.violations.append(text)

    async def _start(self, names: Any) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self.parts[name].start)

    async def _stop(self) -> None:
        """End every process by SIGTERM, first those that need others."""
        servers = [part for name, part in self.parts.items() if name not in self._ours]
        ours = [self.parts[name] for name in self._ours]
        for together in (ours, servers):
            async with trio.open_nursery() as nursery:
                for part in together:
                    if part.process.is_running:
                        nursery.start_soon(part.stop)

    @property
    def _ours(self) -> list[str]:
        return [name for name in self.parts if name == "manager" or name.startswith("agent-")]

    async def _warden(self, scope: trio.CancelScope) -> None:
        self._check(False, await watch(self.parts))
        self.result.end = "lost"
        scope.cancel()

    # --- the job -------------------------------------------------------------------------

    async def _create(self, http: HttpClient) -> str:
        body = {"action": "evacuate", "params": {"from_shark": self.layout.evacuated}}
        reply = await self._ask(http, "POST", "/jobs", body)
        return str(reply).strip()

    async def _ask(self, http: HttpClient, method: str, path: str, body: Any = None) -> Any:
        host, _, port = self.region.url.removeprefix("http://").partition(":")
        reply = await http.request(method, host, path, port=int(port), body=body, within_s=60)
        if reply.status != 200:
            raise ProcessError(f"{method} {path}: {reply.status} {reply.text[:300]}")
        return reply.json() if method == "GET" else reply.text

    async def _state(self, http: HttpClient) -> str:
        """Ask for the job's state, and why it failed; empty while the manager cannot tell."""
        try:
            view = await self._ask(http, "GET", f"/jobs/{self.job_id}")
        except (PeerError, ProcessError):
            return ""
        why = view.get("error")
        return str(view["state"]) + (f": {why}" if why else "")

    async def _operate(self, http: HttpClient, action: str, *, paused: bool) -> None:
        """Pause or resume the job, as an operator who tries until it is done, or the job over."""
        while True:
            state = await self._state(http)
            if state.startswith(ENDED) or (state and (state == "Stopped") is paused):
                return
            with suppress(PeerError, ProcessError):
                await self._ask(http, "PUT", f"/jobs/{self.job_id}", {"action": action})
            await trio.sleep(ASK_S)

    async def _job(self, http: HttpClient) -> None:
        monitor = Monitor(self.layout)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._monitor, monitor)
            async with trio.open_nursery() as faults:
                if self.schedule.users:
                    faults.start_soon(change_objects, self.layout, CHANGED, CHANGE_EVERY_S)
                    faults.start_soon(leak, self.layout, END_S)
                began = trio.current_time()
                for fault in self.schedule.faults:
                    faults.start_soon(self._at, http, began + fault.at, fault)
                with trio.move_on_after(HORIZON_S + END_S):
                    self.result.end = await self._wait(http)
                self.result.job_s = trio.current_time() - began
                self._over.set()
            if self.result.end == "Complete":
                await trio.to_thread.run_sync(monitor.look_at_end, self._job_file)
            nursery.cancel_scope.cancel()
        self.result.violations += monitor.findings.violations

    async def _wait(self, http: HttpClient) -> str:
        """Wait for the job's end; returns how it ended."""
        while True:
            state = await self._state(http)
            if state.startswith(ENDED):
                return state
            await trio.sleep(ASK_S)

    async def _monitor(self, monitor: Monitor) -> None:
        while True:
            if self._job_file.exists():
                # While its disk is full, a file cannot be read either: sqlite wants to map some.
                with suppress(sqlite3.OperationalError):
                    await trio.to_thread.run_sync(monitor.look, self._job_file)
                    self.result.looks += 1
            await trio.sleep(LOOK_S)

    # --- faults --------------------------------------------------------------------------

    async def _at(self, http: HttpClient, when: float, fault: Fault) -> None:
        await trio.sleep_until(when)
        if self._over.is_set():
            return
        self.result.faults[fault.kind] += 1
        match fault.kind:
            case FaultKind.CUT | FaultKind.REFUSE | FaultKind.SILENCE | FaultKind.DELAY:
                await self._disturb(fault)
            case FaultKind.PAUSE:
                await self._operate(http, "pause", paused=True)
                await trio.sleep(fault.lasts)
                await self._operate(http, "resume", paused=False)
            case FaultKind.SECOND:
                await self._second(fault.targets[0])
            case FaultKind.FILES | FaultKind.DISK:
                await self._starve(fault)
            case _ if fault.targets[0].startswith("fetchers-"):
                await self._hit_fetchers(fault)
            case _:
                await self._hit(fault)

    async def _disturb(self, fault: Fault) -> None:
        links = [self.links[name] for name in fault.targets]
        for link in links:
            match fault.kind:
                case FaultKind.REFUSE:
                    link.refuses = True
                    link.cut()
                case FaultKind.CUT:
                    link.cut()
                case FaultKind.SILENCE:
                    link.silence()
                case _:
                    link.delay_s = 0.2
        await trio.sleep(fault.lasts)
        for link in links:
            link.heal()

    async def _hit(self, fault: Fault) -> None:
        parts = [self.parts[name] for name in fault.targets]
        async with holding(parts):
            if fault.kind is FaultKind.STOP:
                pids = [part.process.pid for part in parts]
                signal_all(pids, signal.SIGSTOP)
                await trio.sleep(fault.lasts)
                signal_all(pids, signal.SIGCONT)
                return
            if fault.kind is FaultKind.RESTART:
                async with trio.open_nursery() as nursery:
                    for part in parts:
                        nursery.start_soon(part.stop)
            else:
                for part in parts:
                    part.kill()
            await trio.sleep(fault.lasts)
            await self._start(fault.targets)

    async def _hit_fetchers(self, fault: Fault) -> None:
        agent = self.parts[fault.targets[0].replace("fetchers", "agent")]
        async with holding([agent]):
            pids = agent.children
            if fault.kind is FaultKind.KILL:
                signal_all(pids, signal.SIGKILL)
                return
            signal_all(pids, signal.SIGSTOP)
            await trio.sleep(fault.lasts)
            signal_all(pids, signal.SIGCONT)

    async def _starve(self, fault: Fault) -> None:
        part = self.parts[fault.targets[0]]
        async with holding([part]):
            if fault.kind is FaultKind.FILES:
                known = part.limit_files()
                await trio.sleep(fault.lasts)
                part.restore_files(known)
                return
            folder = self._disk(part.name)
            await trio.to_thread.run_sync(disks.fill, folder)
            await trio.sleep(fault.lasts)
            await trio.to_thread.run_sync(disks.drain, folder)

    def _disk(self, name: str) -> Path:
        if name == "manager":
            return self.layout.folder / "manager"
        node = self.layout.nodes[int(name.partition("-")[2]) - 1]
        return self.layout.folder / "nodes" / node.manta_storage_id

    async def _second(self, name: str) -> None:
        """Start another process with the same folder of state, and other addresses."""
        part = self.parts[name]
        async with holding([part]):
            second = await trio.to_thread.run_sync(self._make_second, part)
            self.others.append(second)
            try:
                await second.start()
            except ProcessError:
                return
            self._check(False, f"a second {name} runs on the folder of the first")
            second.kill()

    def _make_second(self, part: Part) -> Process:
        command, _, file = part.process.args
        other = Path(file).with_name(f"second-{Path(file).name}")
        text = Path(file).read_text()
        addresses = [self.layout.manager_address, *(node.address for node in self.layout.nodes)]
        for address in addresses:
            text = text.replace(f'"{address}"', f'"{self.layout.subnet}.254"')
        other.write_text(text)
        log = self.layout.folder / "log" / f"second-{part.name}.log"
        return Process(f"second {part.name}", (command, "-c", str(other)), log)


def remove(folder: Path) -> None:
    """Remove what a run has left.  Blocking."""
    shutil.rmtree(folder, ignore_errors=True)
