"""This module opens an agent's fetchers: each in its own process, or one in the agent's process."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import trio

from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.agent.transfer.disk.names import new_run
from rebalancer.agent.transfer.disk.room import Promised, new_file
from rebalancer.agent.transfer.handle import FetcherHandle
from rebalancer.agent.transfer.line import Line
from rebalancer.agent.transfer.process import serve
from rebalancer.agent.transfer.startup import Setup
from rebalancer.archive import itself
from rebalancer.threads import Work, run_sync

#: A fetcher ends within this many seconds, or is killed.
END_S = 2.0


def make_fetchers(
    setup: Setup,
    processes: int,
    files: ObjectFiles,
) -> list[FetcherHandle]:
    """Make fetchers in so many processes; with 0 processes, one fetcher within this process."""
    if not processes:
        return [FetcherHandle(partial(_in_this_process, setup))]
    promises = new_file()
    setups = [attrs.evolve(setup, promises=promises, slot=slot) for slot in range(processes)]
    return [FetcherHandle(partial(_in_own_process, one, files), number=one.slot) for one in setups]


@asynccontextmanager
async def _in_own_process(setup: Setup, files: ObjectFiles) -> AsyncIterator[Line]:
    """Run a fetcher in a process of its own while its line is in use."""
    setup = attrs.evolve(setup, run=new_run())
    assert setup.promises is not None
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            module = "rebalancer.agent.transfer.process"
            command = [*itself(), "-m", module, str(theirs.fileno())]
            inherited = [theirs.fileno(), setup.promises]
            process = await trio.lowlevel.open_process(command, pass_fds=inherited)
    except BaseException:
        ours.close()
        raise
    line = Line.over(ours)
    try:
        await line.send(setup.encode())
        yield line
    finally:
        ours.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            # A fetcher that was killed leaves its temporary files, which may be large.
            with suppress(OSError):
                await run_sync(Work.OBJECTS, files.clear, setup.run)
            Promised.shared(setup.promises, setup.slot)  # an ended fetcher needs no room


@asynccontextmanager
async def _in_this_process(setup: Setup) -> AsyncIterator[Line]:
    """Run a fetcher in tasks of this process while its line is in use."""
    ours, theirs = socket.socketpair()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, Line.over(theirs), setup)
            yield Line.over(ours)
            nursery.cancel_scope.cancel()
    finally:
        ours.close()
        theirs.close()
