"""This module makes running programs of command lines, and one line of each error."""

import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import attrs
import click

from rebalancer import __version__, log
from rebalancer.adm.printing import printable, printable_lines, take_any_text
from rebalancer.archive import is_archive, stamp
from rebalancer.config import (
    AgentConfig,
    ManagerConfig,
    load_agent,
    load_manager,
    unusable_files,
)
from rebalancer.config.reading import AGENT_PATH, MANAGER_PATH
from rebalancer.errors import ConfigError, RebalancerError, leaves
from rebalancer.natives import describe

F = TypeVar("F", bound=Callable[..., Any])
#: The exit code of what Ctrl-C has ended.
INTERRUPTED = 130


def _version(program: str) -> Callable[[F], F]:
    def show(context: click.Context, _option: click.Parameter, is_wanted: bool) -> None:
        if is_wanted and not context.resilient_parsing:
            # The predecessors' tools drop the first word of this line.
            parts = [stamp(), f"python-{platform.python_version()}", describe()["build"]]
            click.echo(f"{program} {__version__} ({', '.join(filter(None, parts))})")
            context.exit()

    return click.option(
        *("-V", "--version"),
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="Show the version and exit.",
    )


@cache
def _adm() -> click.Command:
    from rebalancer.adm.commands import adm

    return _version("rebalancer-adm")(adm)


#: The distribution of all but the embedded region.
_DISTRIBUTION = "manta-rebalancer"
#: Where a checkout has each distribution.
_FOLDERS = {"manta-rebalancer": ".", "manta-rebalancer-devregion": "./devregion"}
#: Distribution and package of the embedded region, which a storage node has no use for.
_REGION_DISTRIBUTION = "manta-rebalancer-devregion"
_REGION_PACKAGE = "rebalancer_devregion"


def _of_the_region(name: str) -> click.Command:
    """Return a command of the embedded region, or one that says what to install for it."""
    try:
        import_module(_REGION_PACKAGE)
    except ModuleNotFoundError:
        return _missing(name, "the embedded region", _REGION_DISTRIBUTION)
    command: click.Command = getattr(import_module(f"{_REGION_PACKAGE}.commands"), name)
    return command


def _doctor() -> click.Command:
    try:
        from rebalancer.doctor.commands import doctor
    except ModuleNotFoundError as exc:
        return _missing("doctor", _part_of_daemons(exc), _DISTRIBUTION)
    return doctor


def _part_of_daemons(missing: ModuleNotFoundError) -> str:
    return "the daemons" if is_archive() else str(missing.name)


def _remedy(part: str, distribution: str) -> str:
    """Say what is missing, and what to install for it."""
    if is_archive():
        option = "--without-region" if distribution == _REGION_DISTRIBUTION else "--adm"
        another = f"take one that tools/build made without {option}"
        return f"needs {part}, which this file was built without: {another}"
    checkout = f"in a checkout: pip install {_FOLDERS[distribution]}"
    return f"needs {part}: pip install {distribution}=={__version__}, or {checkout}"


def _missing(name: str, part: str, distribution: str) -> click.Command:
    need = _remedy(part, distribution)
    place = "in this file" if is_archive() else f"here (pip install {distribution})"

    def refuse(arguments: tuple[str, ...]) -> NoReturn:
        raise click.ClickException(f"{name} {need}")

    return click.Command(
        name,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        callback=refuse,
        help=f"Not installed here; it {need}",
        short_help=f"Not installed {place}.",
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
    )


#: What a service has no use for, in its memory above all, is imported when it is asked for.
_LATER: dict[str, Callable[[], click.Command]] = {
    "adm": _adm,
    "demo": partial(_of_the_region, "demo"),
    "doctor": _doctor,
    "region": partial(_of_the_region, "region"),
}


class _Commands(click.Group):
    """This group has the commands here, and those that are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of all."""
        return sorted([*super().list_commands(ctx), *_LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name."""
        later = _LATER.get(cmd_name)
        return later() if later else super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@_version("rebalancer")
def cli() -> None:
    """Empty storage nodes of a Manta object store without losing an object."""


def _program(name: str) -> ModuleType:
    """Import a daemon, or say in a line what to install for it."""
    try:
        return import_module(f"rebalancer.{name}.main")
    except ModuleNotFoundError as exc:
        need = _remedy(_part_of_daemons(exc), _DISTRIBUTION)
        raise click.ClickException(f"{name} {need}") from None


def _config_option(default: str) -> Callable[[F], F]:
    return click.option(
        "-c",
        "--config_file",
        "--config-file",
        "path",
        type=click.Path(path_type=Path),
        envvar="CONFIG_FILE",
        help=f"Configuration file; without it the one that CONFIG_FILE names, else {default}.",
    )


@cli.command("manager")
@_config_option(str(MANAGER_PATH))
@_version("rebalancer-manager")
def manager_command(path: Path | None) -> None:
    """Run the manager: one in a region.

    The log goes to standard output, a line of JSON each.  SIGUSR1 has the manager read its
    configuration anew; SIGTERM ends it within seconds, and its jobs go on at the next start.
    """
    main = _program("manager")
    config = load_manager(path)
    log.configure(main.LOG_NAME, config.log_level)
    _serve("manager", path, config, lambda: main.run(config, path))


@cli.command("agent")
@_config_option(f"{AGENT_PATH}, else defaults")
@_version("rebalancer-agent")
def agent_command(path: Path | None) -> None:
    """Run the agent: one on every storage node.

    The log goes to standard output, a line of JSON each.  SIGUSR1 has the agent read its token
    anew; SIGTERM ends it within seconds, and its assignments go on at the next start.
    """
    main = _program("agent")
    config = load_agent(path)
    log.configure("rebalancer-agent", config.log.level)
    _serve("agent", path, config, lambda: main.run(config))


@cli.command("check-config")
@click.argument("program", type=click.Choice(["manager", "agent"]))
@click.argument("file", type=click.Path(path_type=Path))
def check_config(program: str, file: Path) -> None:
    """Say all that is wrong with a configuration file, a line each.

    The programs refuse to start with a file that has any of it, and a manager that runs goes on
    with the old one.  Environment variables count as they do for the program.  Without an error the
    values that would be in force are shown, defaults among them.

    \b
    Example:
      rebalancer check-config manager /opt/smartdc/rebalancer/config.json

    \b
    Exit codes:
      0    the program would take the file
      1    it would not
      2    no such program
    """
    faults: list[str] = []
    config: ManagerConfig | AgentConfig | None = None
    try:
        config = load_manager(file) if program == "manager" else load_agent(file)
    except ConfigError as exc:
        faults += exc.faults or [str(exc)]
    if config is not None:
        faults += unusable_files(config)
    for fault in faults:
        click.echo(printable(fault), err=True)
    if faults or config is None:
        raise click.exceptions.Exit(1)
    click.echo(f"{file}: ok, and with it these values are in force:")
    click.echo(json.dumps(attrs.asdict(config), indent=2))


def _serve(
    program: str,
    path: Path | None,
    config: ManagerConfig | AgentConfig,
    run: Callable[[], Awaitable[None]],
) -> None:
    import trio  # which cannot be imported by every Python that runs `doctor`

    from rebalancer.doctor.run import check_start
    from rebalancer.doctor.subject import Subject

    python = platform.python_version()
    log.get_logger().info("starting", version=__version__, python=python, **describe())

    async def start() -> None:
        await run()

    try:
        check_start(Subject(program, path, config))
        trio.run(start)
    except BaseExceptionGroup as group:
        expected, bugs = group.split((RebalancerError, OSError))
        if expected is None or bugs is not None:
            raise
        raise click.ClickException(str(next(leaves(expected)))) from None
    except (RebalancerError, OSError) as exc:
        raise click.ClickException(str(exc)) from None


def _run(find: Callable[[], click.Command], name: str, *, usage: int = 2) -> NoReturn:
    """Run a command, then end the process, with the code `usage` if the command makes no sense."""
    log.hold_descriptors()
    take_any_text()
    try:
        command = find()
        code = command.main(prog_name=name, standalone_mode=False)
        if sys.stdout is not None:  # it was closed at the start
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.ctx.get_help(), err=True)
        sys.exit(usage)
    except click.ClickException as exc:
        if isinstance(exc, click.UsageError) and exc.ctx is not None:
            _echo_usage(exc.ctx)
        # click lists the choices of an argument that is missing a line each, behind tabs.
        text = exc.format_message().replace("\n\t", " ")
        click.echo(printable_lines(f"{name}: {text}"), file=sys.stderr)
        sys.exit(usage if isinstance(exc, click.UsageError) else exc.exit_code)
    except (RebalancerError, OSError) as exc:
        # Named, because click would choose another encoding than the terminal's.
        click.echo(printable_lines(f"{name}: {exc}"), file=sys.stderr)
        # What could not be written stays in the buffer, and Python would try once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(exc.exit_code if isinstance(exc, RebalancerError) else 1)
    except (click.Abort, KeyboardInterrupt) as exc:
        # click ends the line that shows the Ctrl-C, and makes an Abort of the interrupt.
        if text := str(exc.__cause__ or exc):
            click.echo(text, err=True)
        sys.exit(INTERRUPTED)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _echo_usage(context: click.Context) -> None:
    """Print how a command is used, and which option says more."""
    click.echo(context.get_usage(), file=sys.stderr)
    if (option := context.help_option_names) and context.command.get_help_option(context):
        click.echo(f"Try '{context.command_path} {option[-1]}' for help.\n", file=sys.stderr)


def main() -> NoReturn:
    """Run the command `rebalancer`."""
    _run(lambda: cli, "rebalancer")


def main_manager() -> NoReturn:
    """Run the command `rebalancer-manager`, as the predecessor named it."""
    _run(lambda: manager_command, "rebalancer-manager")


def main_agent() -> NoReturn:
    """Run the command `rebalancer-agent`, as the predecessor named it."""
    _run(lambda: agent_command, "rebalancer-agent")


def main_adm() -> NoReturn:
    """Run `rebalancer-adm`, which fails with one code, as the predecessor's command did."""
    _run(_adm_alone, "rebalancer-adm", usage=1)


def _adm_alone() -> click.Command:
    command = _adm()
    _use_its_own_name(command)
    return command


def _use_its_own_name(command: click.Command) -> None:
    """Let examples call the command as it was called: a laptop may have no other name of it."""
    command.help = (command.help or "").replace("rebalancer adm ", "rebalancer-adm ")
    if isinstance(command, click.Group):
        for one in command.commands.values():
            _use_its_own_name(one)
