"""An injector brings the faults of a schedule about, and mends each after its time."""

import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs
import trio

from rebalancer_devregion.chaos import disks
from rebalancer_devregion.chaos.links import Link
from rebalancer_devregion.chaos.operator import Operator
from rebalancer_devregion.chaos.parts import Part, holding, signal_all
from rebalancer_devregion.chaos.schedule import Fault, FaultKind
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.processes import Process, ProcessError

#: Seconds by which a delayed link is late.
DELAY_S = 0.2


async def start_all(parts: Iterable[Part]) -> None:
    """Start parts together, and return when all of them answer.

    Raises:
      ProcessError: a part did not start.
    """
    async with trio.open_nursery() as nursery:
        for part in parts:
            nursery.start_soon(part.start)


async def stop_all(parts: Iterable[Part]) -> None:
    """End parts together by SIGTERM, and return when none of them runs."""
    async with trio.open_nursery() as nursery:
        for part in parts:
            if part.process.is_running:
                nursery.start_soon(part.stop)


@attrs.define(eq=False)
class Injector:
    """An injector hits parts and links of one region.

    `report` is called with what must not be.  Mutable state: the processes that faults started.
    """

    layout: Layout
    parts: Mapping[str, Part]
    links: Mapping[str, Link]
    report: Callable[[str], None]
    started: list[Process] = attrs.field(factory=list)

    async def inject(self, fault: Fault, operator: Operator) -> None:
        """Bring a fault about, and return when it is mended.

        Raises:
          ProcessError: a part did not start again.
        """
        match fault.kind:
            case FaultKind.CUT | FaultKind.REFUSE | FaultKind.SILENCE | FaultKind.DELAY:
                await self._disturb(fault)
            case FaultKind.PAUSE:
                await operator.pause()
                await trio.sleep(fault.lasts)
                await operator.resume()
            case FaultKind.SECOND:
                await self._start_second(fault.targets[0])
            case FaultKind.FILES:
                await self._take_files(fault)
            case FaultKind.DISK:
                await self._fill_disk(fault)
            case _ if fault.targets[0].startswith("fetchers-"):
                await self._hit_fetchers(fault)
            case FaultKind.STOP:
                await self._stand_still(fault)
            case _:
                await self._start_again(fault)

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
                    link.delay_s = DELAY_S
        await trio.sleep(fault.lasts)
        for link in links:
            link.heal()

    async def _stand_still(self, fault: Fault) -> None:
        parts = [self.parts[name] for name in fault.targets]
        async with holding(parts):
            pids = [part.process.pid for part in parts]
            signal_all(pids, signal.SIGSTOP)
            await trio.sleep(fault.lasts)
            signal_all(pids, signal.SIGCONT)

    async def _start_again(self, fault: Fault) -> None:
        parts = [self.parts[name] for name in fault.targets]
        async with holding(parts):
            if fault.kind is FaultKind.RESTART:
                await stop_all(parts)
            else:
                for part in parts:
                    part.kill()
            await trio.sleep(fault.lasts)
            await start_all(parts)

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

    async def _take_files(self, fault: Fault) -> None:
        part = self.parts[fault.targets[0]]
        async with holding([part]):
            known = part.limit_files()
            await trio.sleep(fault.lasts)
            part.restore_files(known)

    async def _fill_disk(self, fault: Fault) -> None:
        part = self.parts[fault.targets[0]]
        async with holding([part]):
            folder = self._disk(part.name)
            await trio.to_thread.run_sync(disks.fill, folder)
            await trio.sleep(fault.lasts)
            await trio.to_thread.run_sync(disks.drain, folder)

    def _disk(self, name: str) -> Path:
        if name == "manager":
            return self.layout.folder / "manager"
        node = self.layout.nodes[int(name.partition("-")[2]) - 1]
        return self.layout.folder / "nodes" / node.manta_storage_id

    async def _start_second(self, name: str) -> None:
        """Start another process with the same folder of state, and other addresses."""
        part = self.parts[name]
        async with holding([part]):
            second = await trio.to_thread.run_sync(self._make_second, part)
            self.started.append(second)
            try:
                await second.start()
            except ProcessError:
                return
            self.report(f"a second {name} runs on the folder of the first")
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
