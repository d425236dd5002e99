"""Arguments and options that commands of the operator share."""

import sys
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import attrs
import click

from rebalancer import units
from rebalancer.actions.declaration import (
    MAX_WHOLE,
    Declaration,
    Option,
    OptionKind,
    parameters_of,
)
from rebalancer.adm.client import AdmError, read_url
from rebalancer.adm.completion import DEFAULT_URL, complete_job, complete_node

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


job_argument = click.argument("uuid", shell_complete=complete_job)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
id_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["id"]),
    help="Print ids only, a line each.",
)
watch_option = click.option(
    "--watch", "-w", is_flag=True, help="Watch the new job to its end, as job watch does."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


#: How the values of options are completed.
_COMPLETE = {OptionKind.JOB: complete_job, OptionKind.NODE: complete_node}


def action_options(declared: Declaration, *, without: Container[str] = ()) -> list[click.Parameter]:
    """Return the options for the parameters of an action, but for those in `without`."""
    kinds = get_type_hints(declared.params)
    return [
        _option(name, kinds[name], field.default, known.option, known.schema)
        for name, (field, known) in parameters_of(declared.params).items()
        if known.option is not None and name not in without
    ]


def _option(
    name: str, kind: Any, default: Any, option: Option, schema: Mapping[str, Any]
) -> click.Option:
    """Return the option for one parameter, whose values are of `kind` or None."""
    flags = [*option.flags, name]
    if kind is bool:
        return click.Option(flags, is_flag=True, help=option.help)
    if choices := schema.get("items", {}).get("enum"):
        return click.Option(
            flags,
            type=click.Choice([str(one) for one in choices]),
            multiple=True,
            callback=lambda _context, _param, value: value or None,
            help=option.help,
        )
    is_required = default is attrs.NOTHING
    # To click a default of None is one, so that nothing could be missing.
    by_default = {} if is_required else {"default": default, "show_default": default is not None}
    return click.Option(
        flags,
        type=_click_type(kind, schema),
        required=is_required,
        **by_default,
        metavar=option.metavar,
        shell_complete=_COMPLETE.get(option.kind),
        help=option.help,
    )


def _click_type(kind: Any, schema: Mapping[str, Any]) -> click.ParamType[Any]:
    """Return the type of an option; the bound of what can be stored is not shown."""
    members = get_args(kind) or (kind,)
    least, most = schema.get("minimum"), schema.get("maximum")
    if int in members:
        return click.IntRange(least, None if most == MAX_WHOLE else most)
    return click.FloatRange(least, most) if float in members else click.STRING


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
