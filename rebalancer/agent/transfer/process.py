"""This module is a fetcher process, which pulls the objects of lots and puts them into place.

It ends when its connection to the agent closes, as it also does when the agent dies.  It ignores
signals, which a terminal sends to all its processes: the agent decides when to stop.
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
    """This object sends the agent what its fetcher needs: leave to receive, files, memory.

    Mutable state: the allowance of bytes; for each purpose, the text of what is lacking; whether
    anything was lacking after the last change; an event each for wants and for lacks.
    """

    line: Line
    allowance: Allowance = attrs.field(init=False)
    _wanted: trio.Event = attrs.field(factory=trio.Event)
    _lacking: dict[str, str] = attrs.field(factory=dict)
    _has_lacked: bool = False
    _lack_changed: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.allowance = Allowance(self._note_want)

    def lack(self, purpose: str, detail: str) -> None:
        """Note what is lacking for a purpose; an empty `detail` means that nothing is.

        The agent is sent only the changes between something and nothing.
        """
        if detail:
            self._lacking[purpose] = detail
        else:
            self._lacking.pop(purpose, None)
        if bool(self._lacking) != self._has_lacked:
            self._has_lacked = bool(self._lacking)
            self._lack_changed.set()

    async def run(self) -> None:
        """Send the needs to the agent, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_lack)
            nursery.start_soon(self._send_wants)

    def _note_want(self) -> None:
        self._wanted.set()

    async def _send_lack(self) -> None:
        while True:
            await self._lack_changed.wait()
            self._lack_changed = trio.Event()
            await self.line.send(Lack(next(iter(self._lacking.values()), "")))

    async def _send_wants(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self.line.send(Want(self.allowance.at_once))


@attrs.define(eq=False)
class _Lots:
    """This object has the lots that the fetcher works on.

    Mutable state: the lanes of each lot, by the lot's number, until all its objects are pulled.
    """

    puller: Puller
    committer: Committer
    allowance: Allowance
    nursery: trio.Nursery
    _lanes: dict[int, Lanes] = attrs.field(factory=dict)

    def heard(self, message: Message) -> None:
        """Carry out a message from the agent."""
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
    """Pull the lots that come over `line`, until the agent closes it."""

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
    # Objects that exist now stay; most that come later are freed by reference counts alone, so the
    # collector of cycles need not run often.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # By default, each time that the event loop wants to run, a thread may delay it by 5 ms.
    sys.setswitchinterval(0.0002)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
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
