"""This HTTP server of a storage node serves whole objects by GET and HEAD, as nginx does."""

import os
import re
import time
from email.utils import formatdate
from pathlib import Path
from typing import IO

import attrs
import h11
import trio

#: Bytes read and sent at a time.
BLOCK_BYTES = 1 << 20
#: Seconds a connection may be idle.
IDLE_S = 60.0

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_OBJECT = re.compile(rf"/{_UUID}/{_UUID}|/v2/{_UUID}/{_UUID}/[0-9a-f]{{2}}/{_UUID},[0-9a-f]{{32}}")


@attrs.frozen
class AccessLog:
    """An access log has a line a GET: time, method, path, status, bytes sent, user agent, by tabs.

    Unbuffered, so that a line is there when the next request is answered.
    """

    file: IO[bytes] | None

    def note(self, method: str, path: str, status: int, sent: int, agent: str) -> None:
        """Write one line."""
        if self.file is not None:
            line = f"{time.time():.6f}\t{method}\t{path}\t{status}\t{sent}\t{agent}\n"
            self.file.write(line.encode())


async def serve_node(
    root: Path,
    host: str,
    port: int,
    *,
    keep_alive: bool = True,
    access_log: Path | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the objects below `root` for ever; `task_status` tells the address.

    Without `keep_alive` every answer closes its connection, as many regions have it.
    """
    (listener,) = await trio.open_tcp_listeners(port, host=host, backlog=256)
    task_status.started(listener.socket.getsockname()[:2])
    if access_log is not None:
        access_log.parent.mkdir(parents=True, exist_ok=True)
    file = None if access_log is None else access_log.open("ab", buffering=0)
    try:
        node = _Node(root, AccessLog(file), keep_alive)
        await trio.serve_listeners(node.connection, [listener])
    finally:
        if file is not None:
            file.close()


@attrs.frozen
class _Node:
    root: Path
    log: AccessLog
    keep_alive: bool

    async def connection(self, stream: trio.SocketStream) -> None:
        protocol = h11.Connection(h11.SERVER)
        try:
            while await self._exchange(stream, protocol):
                protocol.start_next_cycle()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass  # the client is gone, or is no HTTP client
        finally:
            await trio.aclose_forcefully(stream)

    async def _exchange(self, stream: trio.SocketStream, protocol: h11.Connection) -> bool:
        """Answer one request; return whether another may follow."""
        request = await _receive(stream, protocol)
        if request is None:
            return False
        method, path = request.method.decode(), request.target.decode(errors="replace")
        agent = dict(request.headers).get(b"user-agent", b"-").decode(errors="replace")
        status, file, size = await trio.to_thread.run_sync(self._open, method, path)
        headers = [
            ("Server", "nginx"),
            ("Date", formatdate(usegmt=True)),
            ("Content-Length", str(size)),
            ("Connection", "keep-alive" if self.keep_alive else "close"),
        ]
        head = h11.Response(status_code=status, headers=headers)
        sent = 0
        try:
            start = protocol.send(head) or b""
            if file is None or method == "HEAD":
                await stream.send_all(start)
            else:
                sent = await _send_file(stream, protocol, file, start)
        finally:
            if file is not None:
                os.close(file)
            self.log.note(method, path, status, sent, agent)
        protocol.send(h11.EndOfMessage())
        return protocol.our_state is h11.DONE and protocol.their_state is h11.DONE

    def _open(self, method: str, path: str) -> tuple[int, int | None, int]:
        """Return the status, the open file and its size."""
        if method not in ("GET", "HEAD"):
            return 405, None, 0
        if not _OBJECT.fullmatch(path):
            return 404, None, 0
        try:
            file = os.open(self.root / path[1:], os.O_RDONLY)
        except OSError:
            return 404, None, 0
        return 200, file, os.fstat(file).st_size


async def _receive(stream: trio.SocketStream, protocol: h11.Connection) -> h11.Request | None:
    """Return the next request, its body dropped; None when the client is done or idle for long."""
    request = None
    with trio.move_on_after(IDLE_S):
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await stream.receive_some(64 << 10))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed):
                return None
    return None


async def _send_file(
    stream: trio.SocketStream, protocol: h11.Connection, file: int, start: bytes
) -> int:
    sent = 0
    block = await trio.to_thread.run_sync(os.read, file, BLOCK_BYTES)
    await stream.send_all(start + (protocol.send(h11.Data(data=block)) or b""))
    while block:
        sent += len(block)
        if len(block) < BLOCK_BYTES:
            break
        block = await trio.to_thread.run_sync(os.read, file, BLOCK_BYTES)
        await stream.send_all(protocol.send(h11.Data(data=block)) or b"")
    return sent
