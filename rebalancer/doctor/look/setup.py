"""This module looks at the files of a configuration, at users, claims of folders and ports."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rebalancer import lock
from rebalancer.doctor.judge import setup as judge
from rebalancer.doctor.look.system import owner, user
from rebalancer.doctor.subject import MANAGER, Subject
from rebalancer.peers.names import Endpoint


def configuration(subject: Subject) -> judge.Configuration:
    """Return what was wrong with the configuration as it was read."""
    return judge.Configuration(subject.program, subject.place, subject.faults)


def secrets(subject: Subject) -> list[judge.Secret]:
    """Look at the permissions of files with secrets, and of the configuration itself."""
    config = subject.manager if subject.program == MANAGER else subject.agent
    secret = [config.api.token_file, config.api.tls_key]
    if subject.program == MANAGER:
        secret.append(subject.manager.agent_token_file)
    found = []
    for path in filter(None, [*secret, subject.place]):
        with suppress(OSError):  # a file that is missing is a fault of the configuration
            mode = os.stat(path).st_mode
            is_read = path in secret and bool(mode & stat.S_IROTH)
            found.append(judge.Secret(path, is_read, bool(mode & stat.S_IWOTH)))
    return found


def who(subject: Subject) -> judge.User:
    """Return who runs the checks, and who owns the state."""
    return judge.User(user(), owner(subject.state.path), os.geteuid() == 0)


def _claimed(subject: Subject) -> list[Path]:
    """Return the folders that the program claims when it starts."""
    return [place.path for place in subject.places if place.purpose != "manta_root"]


def running(subject: Subject) -> list[judge.Holder]:
    """Return who has claimed the program's folders."""
    found = []
    for folder in _claimed(subject):
        try:
            held = lock.holder(folder)
            file = folder / lock.LOCK_FILE
            is_ours = not file.exists() or os.access(file, os.W_OK, effective_ids=True)
            trouble = "" if held or is_ours else f"{file} belongs to {owner(file)}"
            found.append(judge.Holder(str(folder), held, trouble))
        except OSError as exc:
            found.append(judge.Holder(str(folder), trouble=exc.strerror or str(exc)))
    return found


def ports(subject: Subject) -> list[judge.Port]:
    """Try to bind the addresses that the program serves on, without listening there."""
    holders = [one.text for one in running(subject) if one.text]
    return [_port(*one, holders[0] if holders else "") for one in _addresses(subject)]


def _addresses(subject: Subject) -> Iterator[tuple[str, str, int]]:
    if subject.program == MANAGER:
        config = subject.manager
        yield "API", config.listen_host, config.listen_port
        yield "metrics", config.metrics_host, config.metrics_port
    else:
        server, metrics = subject.agent.server, subject.agent.metrics
        yield "API", server.host, server.port
        yield "metrics", metrics.host, metrics.port


def _port(purpose: str, host: str, port: int, holder: str) -> judge.Port:
    address = str(Endpoint(host, port))
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((host, port))
    except (OSError, UnicodeError) as exc:
        code = getattr(exc, "errno", None)
        is_in_use = code == errno.EADDRINUSE
        # A port that only a service's own privileges open is refused before its use is looked at.
        is_forbidden = code in (errno.EACCES, errno.EPERM)
        is_ours = is_in_use or is_forbidden
        return judge.Port(
            purpose,
            address,
            getattr(exc, "strerror", None) or str(exc),
            is_ours=is_ours and bool(holder) and _listens(holder, port) is not False,
            is_in_use=is_in_use,
            is_forbidden=is_forbidden,
            holder=holder,
        )
    return judge.Port(purpose, address)


def _listens(holder: str, port: int) -> bool | None:
    """Tell whether the process that a claim names listens at `port`; None if nobody can say."""
    number = holder.partition(", process ")[2].partition(",")[0]
    try:
        held = {os.readlink(f"/proc/{number}/fd/{fd}") for fd in os.listdir(f"/proc/{number}/fd")}
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/{number}/net/{name}").read_text().splitlines()[1:]
        ]
    except OSError:
        return None
    listening = "0A"
    inodes = {
        f"socket:[{line[9]}]"
        for line in lines
        if line[3] == listening and int(line[1].rpartition(":")[2], 16) == port
    }
    return bool(inodes & held)
