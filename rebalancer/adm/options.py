"""Arguments and options that commands of the operator share."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import trio
from click.shell_completion import CompletionItem

from rebalancer.adm import units
from rebalancer.adm.client import Access, AdmError, Manager, read_url, with_manager
from rebalancer.errors import RebalancerError

DEFAULT_URL = "http://localhost"
#: Nobody waits longer for the completion of a word.
COMPLETE_S = 2.0

F = TypeVar("F", bound=Callable[..., Any])


def _checked_url(context: click.Context, param: click.Parameter, value: str) -> str:
    try:
        read_url(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
    return value


def access_options(command: F) -> F:
    """Add the options that say how to get at the manager."""
    for option in (
        click.option(
            "--ca-file",
            envvar="REBALANCER_CA_FILE",
            default="",
            metavar="FILE",
            help="With https: trust the authorities in this PEM file; without it, the system's.",
        ),
        click.option(
            "--token-file",
            envvar="REBALANCER_TOKEN_FILE",
            default="",
            metavar="FILE",
            help="File of the token, if the manager asks for one.",
        ),
        click.option(
            "--url",
            envvar="REBALANCER_URL",
            default=DEFAULT_URL,
            show_default=True,
            callback=_checked_url,
            help="Where the manager is: http or https, and a port if it is not 80 or 443.",
        ),
    ):
        command = option(command)
    return command


def _complete_job(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the jobs whose ids begin so, as the manager lists them; none if it does not answer."""
    given: dict[str, Any] = {}
    above: click.Context | None = context
    while above is not None:
        given = {**above.params, **given}
        above = above.parent
    access = Access(
        given.get("url") or DEFAULT_URL,
        given.get("token_file") or "",
        given.get("ca_file") or "",
    )

    async def listed(manager: Manager) -> Any:
        with trio.move_on_after(COMPLETE_S):
            return (await manager.ask("GET", "/jobs")).json()
        return []

    try:
        rows = with_manager(access, listed)
    except RebalancerError:
        return []
    return [
        CompletionItem(row["id"], help=f"{row['action']}, {row['state']}")
        for row in rows
        if row["id"].startswith(incomplete)
    ]


job_argument = click.argument("uuid", shell_complete=_complete_job)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def evacuation_options(command: F) -> F:
    """Add the options that say what to evacuate."""
    for option in (
        click.option(
            "--objects-file",
            metavar="FILE",
            help="Take the records that this file on the manager's machine names, without a scan:"
            ' a line {"key": ..., "shard": ...} each; the shard may be missing.',
        ),
        click.option(
            "-m",
            "--max_objects",
            "--max-objects",
            type=click.IntRange(min=0),
            help="Stop after so many objects; without it, or 0: all of them.",
        ),
        click.option("-s", "--shark", required=True, help="Storage node to empty, e.g. 1.stor."),
    ):
        command = option(command)
    return command


def read_rate(context: click.Context, param: click.Parameter, value: str) -> int | None:
    """Return the callback of an argument that is a bandwidth."""
    try:
        return units.read_rate(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def confirm(question: str) -> None:
    """Return if the operator agrees.

    Raises:
      AdmError: they do not, or there is nobody to ask.
    """
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise
        raise AdmError("there is nobody to ask: --yes does it without asking") from None
    if not agreed:
        raise AdmError("nothing was done")
