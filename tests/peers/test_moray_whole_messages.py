"""No message is cut while its server lives: the connection against a server that does not read."""

import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from rebalancer.errors import PeerUnreachable
from rebalancer.manager.pipeline.stages.update_batches import MAX_BATCH_BYTES
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.client import CALL_S, MorayClient, open_moray
from rebalancer.peers.moray.connection import SEND_GRACE_S, STOP_GRACE_S
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore

SHARD = "1.moray.lab"
#: More than kernels keep for a reader that is busy.
LARGE_BYTES = 16 << 20


@attrs.define(eq=False)
class BusyServer:
    """Takes one connection and reads nothing from it until told to.

    Mutable state: what its client sent, and how that ended.
    """

    begun: trio.Event = attrs.field(factory=trio.Event)
    free: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    messages: list[fast.Message] = attrs.field(factory=list)
    end: str = ""

    async def talk(self, stream: trio.SocketStream) -> None:
        decoder = fast.Decoder()
        await trio.lowlevel.wait_readable(stream.socket)
        self.begun.set()
        await self.free.wait()
        try:
            while data := await stream.receive_some(1 << 20):
                self.messages += decoder.feed(data)
            self.end = "whole" if decoder.is_between_messages else "within a message"
        except trio.BrokenResourceError:
            self.end = "reset" if decoder.is_between_messages else "reset within a message"
        self.ended.set()


@asynccontextmanager
async def busy() -> AsyncIterator[tuple[BusyServer, dict[str, str]]]:
    """The server, and where it is."""
    server = BusyServer()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.talk, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        yield server, {SHARD: f"127.0.0.1:{listener.socket.getsockname()[1]}"}
        nursery.cancel_scope.cancel()


async def put_much(client: MorayClient, key: str = "/x", size: int = LARGE_BYTES) -> None:
    await client.put_object("manta", key, {"text": "x" * size}, None)


async def expect_failure(client: MorayClient, text: str) -> None:
    with pytest.raises(PeerUnreachable, match=text):
        await put_much(client)


async def test_a_busy_server_gets_the_whole_message_though_the_caller_gave_up(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The call ends with its deadline; what it had begun to send goes on for minutes."""
    async with (
        busy() as (server, hosts),
        open_moray({1: SHARD}, hosts, connections=1) as clients,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(expect_failure, clients[1], "no answer in 60 s")
        await server.begun.wait()
        mock_clock.jump(CALL_S + 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.end == ""
        mock_clock.jump(SEND_GRACE_S / 2)
        server.free.set()
        await server.ended.wait()

    assert (server.end, len(server.messages)) == ("whole", 1)


async def test_a_call_that_is_cancelled_does_not_cut_its_message() -> None:
    """The connection stays, and the next call uses it."""
    async with busy() as (server, hosts):
        async with open_moray({1: SHARD}, hosts, connections=1) as clients:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put_much, clients[1])
                await server.begun.wait()
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(clients[1].ping)
                server.free.set()
                with trio.fail_after(20):
                    while len(server.messages) < 2:  # noqa: ASYNC110 - deadline above
                        await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
        await server.ended.wait()

    assert [message.method for message in server.messages] == ["putObject", "ping"]
    assert server.end == "whole"


async def test_the_end_of_the_client_waits_for_the_message_that_has_begun() -> None:
    """As at SIGTERM or pause: the message under way is finished, the one behind not begun."""
    async with busy() as (server, hosts), trio.open_nursery() as nursery:
        stopping = trio.Event()

        async def use() -> None:
            async with open_moray({1: SHARD}, hosts, connections=1) as clients:
                async with trio.open_nursery() as calls:
                    calls.start_soon(put_much, clients[1])
                    await server.begun.wait()
                    calls.start_soon(put_much, clients[1], "/behind")
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    calls.cancel_scope.cancel()
                stopping.set()

        nursery.start_soon(use)
        with trio.fail_after(20):
            await stopping.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            server.free.set()
            await server.ended.wait()
        nursery.cancel_scope.cancel()

    assert [message.data[1] for message in server.messages] == ["/x"]
    assert server.end == "whole"


async def test_a_stop_ends_in_time_though_nobody_reads(
    mock_clock: trio.testing.MockClock,
) -> None:
    """A server that takes nothing more does not keep a service from ending."""
    async with busy() as (server, hosts), trio.open_nursery() as nursery:

        async def jump() -> None:
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(STOP_GRACE_S - 1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not ended
            mock_clock.jump(2)

        ended = False
        async with (
            open_moray({1: SHARD}, hosts, connections=1) as clients,
            trio.open_nursery() as calls,
        ):
            calls.start_soon(put_much, clients[1])
            await server.begun.wait()
            calls.cancel_scope.cancel()
            nursery.start_soon(jump)
        ended = True


async def test_a_dead_server_is_given_up_after_minutes(mock_clock: trio.testing.MockClock) -> None:
    """One that takes no byte for so long: only then the message is cut, with a reset."""
    async with busy() as (server, hosts), open_moray({1: SHARD}, hosts, connections=1) as clients:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_failure, clients[1], "no answer in 60 s")
            await server.begun.wait()
            mock_clock.jump(CALL_S + 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert clients[1]._pool._running == 1
        mock_clock.jump(SEND_GRACE_S)
        while clients[1]._pool._running:
            await trio.testing.wait_all_tasks_blocked(0.001)
        server.free.set()
        await server.ended.wait()

    assert server.end == "reset within a message"


async def test_a_busy_embedded_server_survives_all_of_it(tmp_path: Path) -> None:
    """It counts an end within a message as its death: calls given up, and the client's end."""
    store = ShardStore(tmp_path / "1.sqlite")
    server = ShardServer(store)
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(server.serve, "127.0.0.1", 0)
        hosts = {SHARD: f"{host}:{port}"}
        with trio.fail_after(30):
            for round_ in range(3):
                server.be_busy()
                async with (
                    trio.open_nursery() as freeing,
                    open_moray({1: SHARD}, hosts, connections=2) as clients,
                ):
                    async with trio.open_nursery() as calls:
                        for number in range(4):
                            key = f"/{round_}/{number}"
                            calls.start_soon(put_much, clients[1], key, 2 << 20)
                        await trio.testing.wait_all_tasks_blocked(0.01)
                        calls.cancel_scope.cancel()
                    freeing.start_soon(free_soon, server)
            async with open_moray({1: SHARD}, hosts, connections=1) as clients:
                await clients[1].ping()
        nursery.cancel_scope.cancel()
    store.close()


async def free_soon(server: ShardServer) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    server.be_free()


_CLIENT = """
    import sys, trio
    from rebalancer.peers.metadata import Put
    from rebalancer.peers.moray.client import open_moray

    async def main(port, size):
        puts = [Put("manta", f"/{n:03}", {"text": "x" * (size // 50)}, "0") for n in range(50)]
        async with open_moray({1: "m"}, {"m": f"127.0.0.1:{port}"}, connections=1) as clients:
            await clients[1].batch(puts)

    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
"""


def test_a_batch_outlives_its_process() -> None:
    """SIGKILL after its first byte is out: the kernel has all of it and sends the rest."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # So little that the server's kernel takes only a part while the server is busy.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.settimeout(30)
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", textwrap.dedent(_CLIENT), str(port), str(MAX_BATCH_BYTES)]
        with subprocess.Popen(command) as client:
            try:
                accepted, _ = listener.accept()
                accepted.settimeout(30)
                accepted.recv(1, socket.MSG_PEEK)
            finally:
                client.send_signal(signal.SIGKILL)
                client.wait(30)
        decoder, messages = fast.Decoder(), list[fast.Message]()
        with accepted:
            while data := accepted.recv(1 << 16):
                messages += decoder.feed(data)

    assert [len(message.data[0]) for message in messages] == [50]
    assert decoder.is_between_messages
