"""This module reports to systemd how a daemon is: ready, alive, at work on what, stopping.

The protocol is sd_notify's: a datagram of lines to the socket that `NOTIFY_SOCKET` names.  Without
the variable, as under SMF or in a shell, nothing is sent.
"""

import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from rebalancer.log import get_logger

#: Seconds between two reports where no watchdog wants them more often.
REPORT_S = 30.0
#: Seconds for which a report waits while systemd does not read.
SEND_S = 2.0

log = get_logger()


@attrs.frozen
class Supervision:
    """This object sends systemd the reports that it wants of a process."""

    #: Where reports go: a path, or a name that begins with NUL; "" for nowhere.
    address: str = ""
    #: Seconds without a report after which systemd takes the process for hung; 0 for never.
    watchdog_s: float = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> "Supervision":
        """Return what systemd asks of process `pid`, by the process's environment."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        if address.startswith("@"):
            address = f"\0{address[1:]}"
        meant = environment.get("WATCHDOG_PID", "") in ("", str(pid))
        microseconds = environment.get("WATCHDOG_USEC", "")
        return cls(address, int(microseconds) / 1e6 if meant and microseconds.isdigit() else 0.0)

    async def report(self, **values: str | int) -> None:
        """Send values under their names in the protocol; a failure is logged and costs no more."""
        if not self.address:
            return
        # A value is one line of the datagram.
        lines = [f"{name}={' '.join(str(value).split())}" for name, value in values.items()]
        try:
            with (
                trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
                trio.fail_after(SEND_S),
            ):
                # Only a connected socket says when there is room again on the other side.
                await sender.connect(self.address)
                await sender.send("\n".join(lines).encode(errors="replace"))
        except (OSError, trio.TooSlowError) as exc:
            log.warning("systemd not notified", values=sorted(values), error=repr(exc))

    async def report_life(self, status: Callable[[], str]) -> None:
        """Report for ever that the event loop turns, and what the daemon does.

        The caller's event loop runs this, and no thread does, so that a loop that hangs is found.
        """
        if not self.address:
            return
        while True:
            await self.report(WATCHDOG=1, STATUS=status())
            await trio.sleep(self.watchdog_s / 2 or REPORT_S)

    @asynccontextmanager
    async def reloading(self) -> AsyncIterator[None]:
        """Report that the daemon reads its configuration anew, and that it is ready at the end."""
        await self.report(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        yield
        await self.report(READY=1)
