"""This module accepts connections on a port, bounds their number, and lets each fail alone."""

import math
import socket
import ssl

import attrs
import trio

from rebalancer.errors import RebalancerError, leaves
from rebalancer.log import Seldom, get_logger
from rebalancer.serving.app import Application
from rebalancer.serving.bounds import Bounds
from rebalancer.serving.connection import Budget, Connection, Stream
from rebalancer.transient import SHORTAGES

#: Connections that wait in the kernel until there is room for them.
BACKLOG = 1024
#: Seconds before the next try where the system gives no file or memory for a connection.
PAUSE_S = 0.2
#: Seconds between looks for a connection that may go where there is no room for a new one.
LOOK_S = 0.1

log = get_logger()


@attrs.define(eq=False)
class Server:
    """A server is one application on one socket.

    Mutable state: the connections that there are, and an event for each one that ends.
    """

    app: Application
    bounds: Bounds
    #: Requests under way get this long when the end comes.
    grace_s: float
    tls: ssl.SSLContext | None = None
    connections: dict[Connection, None] = attrs.field(factory=dict)
    _budget: Budget = attrs.field(init=False)
    _ended: trio.Event = attrs.field(factory=trio.Event)
    _broke: Seldom = attrs.field(factory=Seldom)
    _cut: Seldom = attrs.field(factory=Seldom)
    _refused: Seldom = attrs.field(factory=Seldom)

    def __attrs_post_init__(self) -> None:
        self._budget = Budget(self.bounds.bodies_bytes)

    async def run(
        self,
        listening: socket.socket,
        stopping: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stopping`, then end within the time of grace, whatever clients do."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with listener, trio.open_nursery() as nursery:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self._accept, listener, nursery)
                task_status.started()
                await stopping.wait()
                accepting.cancel_scope.cancel()
            await listener.aclose()
            for connection in list(self.connections):
                connection.end_after_answer()
            nursery.cancel_scope.deadline = trio.current_time() + self.grace_s

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener.socket)
            await self._make_room()
            try:
                accepted = await listener.accept()
            except OSError as exc:
                await self._not_accepted(exc)
                continue
            stream: Stream = accepted
            if self.tls is not None:
                stream = trio.SSLStream(accepted, self.tls, server_side=True, https_compatible=True)
            connection = Connection(self.app, stream, self.bounds, self._budget)
            self.connections[connection] = None
            nursery.start_soon(self._serve, connection)

    async def _not_accepted(self, exc: OSError) -> None:
        if exc.errno in SHORTAGES:
            # One of our connections may have the file that is lacking.
            self._part_with_one(now=math.inf)
        self._refused.say(log.warning, "connections cannot be accepted", error=str(exc))
        await trio.sleep(PAUSE_S)

    async def _make_room(self) -> None:
        """Return when there may be one more connection.

        Where there are as many as may be, the one whose client has kept us waiting for longest
        goes: whoever holds connections without using them keeps nobody out.
        """
        while len(self.connections) >= self.bounds.connections:
            ended = self._ended
            if not self._part_with_one(now=trio.current_time()):
                soonest = min(connection.may_go for connection in self.connections)
                now = trio.current_time()
                # Connections that are answered now may be idle, and not end, a moment later.
                with trio.move_on_at(min(max(soonest, now + 0.01), now + LOOK_S)):
                    await ended.wait()
            else:
                await ended.wait()

    def _part_with_one(self, now: float) -> bool:
        """End the connection that has waited longest for its client; return whether one has."""
        waiting = [c for c in self.connections if c.may_go <= now and c.waits_since is not None]
        if not waiting:
            return False
        min(waiting, key=lambda connection: connection.may_go).scope.cancel()
        return True

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except* RebalancerError as group:  # the head was sent, so the client sees half an answer
            text = "; ".join(map(str, leaves(group)))
            self._cut.say(log.warning, "an answer was cut short", error=text)
        except* Exception as group:
            text = "; ".join(map(repr, leaves(group)))
            self._broke.say(log.error, "a connection ended by an error", error=text, exc_info=group)
        finally:
            del self.connections[connection]
            self._ended.set()
            self._ended = trio.Event()
            await trio.aclose_forcefully(connection.stream)
