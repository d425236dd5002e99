"""The parts of a region under faults are processes that run, are hit and start again."""

import os
import resource
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from rebalancer_devregion.processes import Process

_LOOK_S = 0.1
#: File numbers that a process has left when it may open no more: for what it closes and opens.
_FILES_LEFT = 1


@attrs.define(eq=False)
class Part:
    """A part is one process of a region under faults.

    Mutable state: whether it is meant to run, and a lock that keeps faults apart: one is over
    before another one hits the same process.
    """

    name: str
    process: Process
    is_meant_to_run: bool = False
    lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def start(self) -> None:
        """Start the process, and return when it answers."""
        await self.process.start()
        self.is_meant_to_run = True

    def kill(self) -> None:
        """Send SIGKILL; fetchers notice the end of their agent by themselves."""
        self.is_meant_to_run = False
        self.process.kill()

    async def stop(self) -> None:
        """Send SIGTERM, and wait for the end."""
        self.is_meant_to_run = False
        await self.process.stop()

    def limit_files(self) -> tuple[int, int]:
        """Let the process open no more files; return the limits that it had."""
        pid = self.process.pid
        known = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        in_use = max(map(int, os.listdir(f"/proc/{pid}/fd")), default=0)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 1 + _FILES_LEFT, known[1]))
        return known

    def restore_files(self, known: tuple[int, int]) -> None:
        """Give the process the limits again that it had."""
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, known)

    @property
    def children(self) -> list[int]:
        """List the processes that it has started."""
        pid = self.process.pid
        with suppress(OSError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            return [int(child) for child in text.split()]
        return []


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@asynccontextmanager
async def holding(parts: Iterable[Part]) -> AsyncIterator[None]:
    """Keep other faults away from `parts`, which are locked in one order by everybody."""
    async with AsyncExitStack() as stack:
        for part in sorted(parts, key=lambda part: part.name):
            await stack.enter_async_context(part.lock)
        yield


async def watch(parts: Mapping[str, Part]) -> str:
    """Return when a part that is meant to run has ended: its name, and the end of its log."""
    while True:
        for part in parts.values():
            if part.is_meant_to_run and not part.process.is_running:
                return f"{part.name} ended by itself:\n{part.process.tail()}"
        await trio.sleep(_LOOK_S)
