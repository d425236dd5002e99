"""This module is a fetcher process, which pulls the objects of lots and puts them into place.

It ends when the agent closes its connection, be it by dying; signals are for the agent alone.
"""

import gc
import signal
import socket
import sys
from functools import partial
from typing import Any

import attrs
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.committer import Committer
from rebalancer.agent.transfer.disk.room import Promised
from rebalancer.agent.transfer.lanes import Lanes
from rebalancer.agent.transfer.line import Line
from rebalancer.agent.transfer.messages import (
    Begin,
    Grant,
    Lack,
    Limit,
    Lot,
    Message,
    Ready,
    Want,
    Width,
)
from rebalancer.agent.transfer.puller import Puller
from rebalancer.agent.transfer.startup import Setup, open_files
from rebalancer.log import configure


@attrs.define(eq=False)
class _Needs:
    """The needs of a fetcher, which its agent meets: leave to receive, files, memory.

    Mutable state: the allowance; what lacks, by what it is needed for; whether something lacked
    at the last look; an event for each.
    """

    line: Line
    allowance: Allowance = attrs.field(init=False)
    _wanted: trio.Event = attrs.field(factory=trio.Event)
    _lacks: dict[str, str] = attrs.field(factory=dict)
    _has_lacked: bool = False
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.allowance = Allowance(self._want)

    def lack(self, purpose: str, detail: str) -> None:
        """Note what lacks for a purpose, or by an empty text that nothing does.

        Only a change is sent.
        """
        if detail:
            self._lacks[purpose] = detail
        else:
            self._lacks.pop(purpose, None)
        if bool(self._lacks) != self._has_lacked:
            self._has_lacked = bool(self._lacks)
            self._changed.set()

    async def run(self) -> None:
        """Send the needs for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_lack)
            nursery.start_soon(self._ask)

    def _want(self) -> None:
        self._wanted.set()

    async def _send_lack(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self.line.send(Lack(next(iter(self._lacks.values()), "")))

    async def _ask(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self.line.send(Want(self.allowance.at_once))


@attrs.define(eq=False)
class _Lots:
    """This object has the lots that its fetcher works on.

    Mutable state: the lanes of each lot, by its number, until nothing of it is left to pull.
    """

    puller: Puller
    committer: Committer
    allowance: Allowance
    nursery: trio.Nursery
    _lanes: dict[int, Lanes] = attrs.field(factory=dict)

    def heard(self, message: Message) -> None:
        """Do what the agent says."""
        match message:
            case Lot(number=number, width=width):
                self._lanes[number] = Lanes(message, self.puller, self.committer, width)
                self.nursery.start_soon(self._pull, number)
            case Width() if message.lot in self._lanes:
                self._lanes[message.lot].widen(message.width)
            case Limit():
                self.allowance.limit(message.is_limited, message.at_once)
            case Grant():
                self.allowance.granted(message.size)

    async def _pull(self, lot: int) -> None:
        await self._lanes[lot].run()
        del self._lanes[lot]


async def serve(
    line: Line, setup: Setup, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Pull lots until the other side is gone."""

    def count_cleanup_failure() -> None:
        committer.cleanup_failures += 1

    promised = Promised.shared(setup.promises, setup.slot) if setup.promises is not None else None
    files = open_files(setup.storage, count_cleanup_failure, setup.run, promised)
    needs = _Needs(line)
    committer = Committer(files, line, partial(needs.lack, "putting objects into place"))
    allowance, on_lack = needs.allowance, partial(needs.lack, "pulling objects")
    puller = Puller(files, setup.source, setup.hosts, allowance, on_lack)
    try:
        async with trio.open_nursery() as nursery:
            lots = _Lots(puller, committer, allowance, nursery)
            nursery.start_soon(committer.run)
            nursery.start_soon(puller.run)
            nursery.start_soon(needs.run)
            task_status.started()
            await line.send(Ready(puller.engine.name))
            while (message := await line.receive()) is not None:
                lots.heard(message)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the agent is gone, so nobody wants to know


def main() -> None:
    """Run the process; its argument is the descriptor of the connection to the agent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # What there is now stays, and most of what is made for an object is gone without a search.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # By default a thread may keep the loop waiting for 5 ms each time that it wants to go on.
    sys.setswitchinterval(0.0002)
    connection = socket.socket(fileno=int(sys.argv[1]))
    trio.run(_run, connection)


async def _run(connection: socket.socket) -> None:
    line = Line.over(connection)
    message: Any = await line.receive()
    if isinstance(message, Begin):
        setup = Setup.decode(message)
        configure("rebalancer-agent", setup.log_level)
        await serve(line, setup)


if __name__ == "__main__":
    main()
