"""A real nginx is the HTTP server of a storage node, where one is installed."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: It answers within this many seconds of its start.
START_S = 10.0
_LOOK_S = 0.02


@contextmanager
def serving(program: str, folder: Path, root: Path, keepalive_s: int) -> Iterator[int]:
    """Serve the objects below `root` by nginx, with its files in `folder`; its port.  Blocking.

    With `keepalive_s` 0 every answer closes its connection, as many regions have it.
    """
    port = _free_port()
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/nginx-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Root's folders are not for the account that nginx would take by itself.
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        daemon off; {user} worker_processes 2;
        pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; {temporary}
            keepalive_timeout {keepalive_s}; keepalive_requests 1000000;
            server {{ listen 127.0.0.1:{port} backlog=1024; root {root}; autoindex on; }}
        }}
        """
    )
    popen = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port
    finally:
        popen.terminate()
        popen.wait(START_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(_LOOK_S)
