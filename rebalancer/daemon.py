"""This module is what both daemons do alike: signals, HTTP servers, an end within seconds.

Stopping is cancelling: nothing in memory is worth saving, because every step was recorded
before it was taken, and starting is recovery.
"""

import gc
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import trio

from rebalancer.bodies import read_body
from rebalancer.config import open_tls
from rebalancer.errors import ConfigError
from rebalancer.log import get_logger
from rebalancer.peers.names import Endpoint
from rebalancer.serving.app import Application, Request
from rebalancer.serving.bounds import Bounds, api_connections, metrics_connections
from rebalancer.serving.server import BACKLOG, Server
from rebalancer.supervision import Supervision
from rebalancer.threads import Work, run_sync
from rebalancer.tokens import Token

#: Requests under way get this long to end after SIGTERM.  SMF kills after 30 s.
GRACE_S = 2.0
#: Containers made, more than were freed, before the collector looks for cycles among them.
YOUNG = 10_000
#: Open files that are enough for the largest region.
FILES = 65_536
#: Larger bodies are read in a thread, where others get their turns.
AT_ONCE_BYTES = 32 << 10

log = get_logger()


@attrs.frozen
class Listen:
    """An address to serve on; port 0 means any free one."""

    host: str
    port: int
    #: PEM files, for TLS.
    cert: str = ""
    key: str = ""

    def bind(self) -> socket.socket:
        """Make a listening socket.

        Raises:
          ConfigError: the address cannot be served on.
        """
        made = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self.host, self.port))
            made.listen(BACKLOG)
        except (OSError, UnicodeError) as exc:
            made.close()
            raise ConfigError(f"cannot serve on {Endpoint(self.host, self.port)}: {exc}") from None
        return made


def open_many_files() -> int:
    """Let this process open as many files as it may have, and return how many those are.

    A system's first limit is often a quarter of a thousand, or one thousand, and what it allows
    whoever asks for more is enough for the connections to a thousand storage nodes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # some systems have another limit besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return FILES if soft == resource.RLIM_INFINITY else soft


def collect_rarely() -> None:
    """Have the collector of cycles look seldom, and never at what is there by now.

    What passes through a daemon is freed without it: by default it took a tenth of the CPU to
    find next to nothing.
    """
    gc.freeze()
    gc.set_threshold(YOUNG)


async def serve(
    service: Callable[[], Awaitable[None]],
    *,
    api: Application,
    api_at: Listen,
    metrics: Application,
    metrics_at: Listen,
    on_reload: Callable[[], Awaitable[None]] | None = None,
    on_stop: Callable[[], None] = lambda: None,
    status: Callable[[], str] = lambda: "",
) -> None:
    """Run `service` and both HTTP applications until SIGTERM or SIGINT.

    `on_stop` is called first when the end begins, then `service` is cancelled.  A second
    signal cuts the grace of the HTTP servers short.  If `service` fails, the process ends, and the
    service manager starts it once more.  `status` says in a line what `service` is doing.
    """
    collect_rarely()
    systemd = Supervision.of(os.environ, os.getpid())
    stopping, reloading = trio.Event(), trio.open_memory_channel[None](1)
    async with trio.open_nursery() as nursery:
        # Before serving, so that no signal ever meets its default action.
        await nursery.start(_watch_signals, nursery.cancel_scope, stopping, reloading[0])
        async with trio.open_nursery() as servers:
            files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            bounds = Bounds(connections=api_connections(files))
            api_url = await listen(servers, api, api_at, stopping, bounds)
            bounds = Bounds(connections=metrics_connections(files))
            metrics_url = await listen(servers, metrics, metrics_at, stopping, bounds)
            log.info("listening", api=api_url, metrics=metrics_url)
            await systemd.report(READY=1)
            if on_reload is not None:  # not before: its end is reported as ready, too
                nursery.start_soon(_reload, reloading[1], on_reload, systemd)
            async with trio.open_nursery() as work:
                work.start_soon(service)
                work.start_soon(systemd.report_life, status)
                await stopping.wait()
                log.info("stopping")
                on_stop()
                work.cancel_scope.cancel()
            await systemd.report(STOPPING=1, STATUS="stopping")
        nursery.cancel_scope.cancel()
    log.info("stopped")


async def _watch_signals(
    everything: trio.CancelScope,
    stopping: trio.Event,
    reloading: trio.MemorySendChannel[None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    # Open to the very end: leaving would hand a pending signal to its default action.
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    with trio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        async for number in signals:
            log.info("signal", signal=signal.Signals(number).name)
            if number in (signal.SIGHUP, signal.SIGUSR1):
                # If one is waiting already, it will read the newest file.
                with suppress(trio.WouldBlock):
                    reloading.send_nowait(None)
            elif stopping.is_set():
                everything.cancel()
            else:
                stopping.set()


async def _reload(
    requests: trio.MemoryReceiveChannel[None],
    on_reload: Callable[[], Awaitable[None]],
    systemd: Supervision,
) -> None:
    async for _ in requests:
        async with systemd.reloading():
            await on_reload()


async def listen(
    servers: trio.Nursery,
    app: Application,
    at: Listen,
    stopping: trio.Event,
    bounds: Bounds | None = None,
) -> str:
    """Serve `app` in `servers` until `stopping`; return address and port, once they answer.

    Raises:
      ConfigError: the address cannot be served on.
    """
    tls = open_tls(at.cert, at.key)
    bounds = bounds or Bounds()
    room = max(bounds.bodies_bytes, 2 * app.max_body_bytes)
    bounds = attrs.evolve(bounds, bodies_bytes=room)
    listening = at.bind()
    host, port, *_ = listening.getsockname()
    await servers.start(Server(app, bounds, GRACE_S, tls).run, listening, stopping)
    return str(Endpoint(host, port))


async def reload_token(token: Token) -> None:
    """Read `token` anew from its file; while the file has none, the old token stays in force."""
    try:
        await run_sync(Work.OTHER, token.reload)
    except ConfigError as exc:
        log.error("token not read again", error=str(exc))
    else:
        if token.path:
            log.info("token read again", path=token.path)


def require_token(app: Application, token: Token) -> None:
    """Let `app` answer only GET /ping and requests that bear `token`; without a token, all."""
    if token.value is None:
        return

    def admits(request: Request) -> bool:
        return request.path == "/ping" or token.is_borne_by(request.headers)

    app.admits = admits


async def body_json(body: bytes) -> Any:
    """Return the parsed body of a request.

    Raises:
      BadRequest: it is not JSON that can be used.
      TooLarge: it has too many values.
    """
    if len(body) <= AT_ONCE_BYTES:
        return read_body(body)
    return await run_sync(Work.VIEWS, read_body, body)
