"""This module has the command `rebalancer doctor`, which runs on a Python without an event loop."""

import os
import pwd
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from rebalancer import log
from rebalancer.archive import itself
from rebalancer.doctor.findings import exit_code
from rebalancer.doctor.look.system import user as current_user
from rebalancer.doctor.run import examine
from rebalancer.doctor.shown import document, lines
from rebalancer.doctor.subject import AGENT, MANAGER, Subject

#: Signals that end a run; temporary files are removed first.
_ENDS = (signal.SIGTERM, signal.SIGHUP)


@click.command("doctor")
@click.argument("program", type=click.Choice([MANAGER, AGENT]))
@click.option(
    "-c",
    "--config_file",
    "--config-file",
    "path",
    type=click.Path(path_type=Path),
    envvar="CONFIG_FILE",
    help="Configuration file; without it the program's usual place is looked at.",
)
@click.option("--user", help="Try as this user, whom root alone can become.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(program: str, path: Path | None, user: str | None, as_json: bool) -> None:
    """Say whether this machine can run a program: what is amiss, what to do.

    All checks take some 15 seconds at most, change nothing, and may be made while the program runs.
    Run it as the user that the program runs as.

    \b
    Examples:
      rebalancer doctor manager -c /opt/smartdc/rebalancer/config.json
      rebalancer doctor agent --user nobody

    \b
    Exit codes:
      0    the program would run; there may be warnings
      1    a finding would stop the program
      2    the command makes no sense
    """
    if user is not None and user != current_user():
        _become(user, program, path, as_json)
    subject = Subject.read_soon(program, path)
    # What the clients of peers log would be in the midst of the report.
    log.replace(log.Output(sys.maxsize, lambda *_: None))
    with _ended_by_signals():
        try:
            results = examine(subject)
        finally:
            subject.scratch.close()
    if as_json:
        click.echo(document(program, subject.place, current_user(), results))
    else:
        for line in lines(program, results):
            click.echo(line)
    raise click.exceptions.Exit(exit_code([one.finding.level for one in results]))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have a signal end the context by an exception, so that temporary folders are removed."""

    def end(number: int, _frame: Any) -> NoReturn:
        sys.exit(128 + number)

    # A signal that is ignored, behind nohup, stays so.
    heeded = [number for number in _ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _become(name: str, program: str, path: Path | None, as_json: bool) -> NoReturn:
    """Start the command once more as another user, so that the user's own limits hold."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise click.UsageError(f"there is no user {name}") from None
    try:
        os.initgroups(name, found.pw_gid)
        os.setgid(found.pw_gid)
        os.setuid(found.pw_uid)
    except PermissionError:
        raise click.UsageError(f"only root can try as {name}") from None
    for file in itself():
        if not os.access(file, os.R_OK):
            place = "copy it to where everybody can, like /usr/local/bin"
            raise click.ClickException(f"{name} cannot read {file}: {place}")
    more = ["-c", str(path)] if path else []
    more += ["--json"] if as_json else []
    command = [*itself(), "-m", "rebalancer", "doctor", program, *more]
    try:
        os.execve(command[0], command, {**os.environ, "HOME": found.pw_dir, "USER": name})
    except OSError as exc:
        raise click.ClickException(f"{name} cannot run {command[0]}: {exc.strerror}") from None
