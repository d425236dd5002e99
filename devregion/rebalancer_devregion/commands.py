"""This module has the command lines of the region: `rebalancer region` and `rebalancer demo`."""

import sys
import tempfile
from pathlib import Path

import click
import trio
from rich.console import Console

from rebalancer import log
from rebalancer_devregion import layout as layouts
from rebalancer_devregion.processes import ProcessError

_FOLDER = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


def _checked_objects(context: click.Context, param: click.Parameter, value: int) -> int:
    if value < 1:
        raise click.ClickException(f"--objects: expected 1 or more, got {value}")
    return value


_objects_option = click.option(
    "--objects",
    default=5000,
    show_default=True,
    callback=_checked_objects,
    help="Objects on the node to evacuate.",
)


@click.group()
def region() -> None:
    """Make and run a Manta region on this machine, to rehearse an evacuation on."""


@region.command()
@_FOLDER
@_objects_option
@click.option("--seed", default=1, show_default=True, help="Decides all contents.")
def create(folder: Path, objects: int, seed: int) -> None:
    """Make a region in FOLDER, which must not exist."""
    from rebalancer_devregion.making import make, remove

    if folder.exists():
        raise click.ClickException(f"{folder}: exists already")
    layout, console = layouts.plan(folder, seed=seed), Console()
    layout.save()
    try:
        click.echo(f"{folder}: {trio.run(make, layout, objects, console)}")
    except KeyboardInterrupt:
        remove(folder, console)
        raise


@region.command()
@_FOLDER
@click.option("--part", "parts", multiple=True, help="Run this server only; may be repeated.")
def serve(folder: Path, parts: tuple[str, ...]) -> None:
    """Run the region in FOLDER until SIGTERM or Ctrl-C.

    Its servers, the agents and the manager are processes of their own; one that ends is started
    again.  With --part, only the servers of these names run, in this process.
    """
    from rebalancer_devregion import servers, service

    layout = _load(folder)
    if not parts:
        try:
            trio.run(service.serve_all, layout)
        except ProcessError as exc:
            raise click.ClickException(str(exc)) from exc
        return
    log.configure("rebalancer-region", "info")
    if unknown := set(parts) - set(servers.parts(layout)):
        known = ", ".join(servers.parts(layout))
        raise click.ClickException(f"no part {', '.join(sorted(unknown))}; there are {known}")
    trio.run(servers.serve, layout, parts)


@region.command()
@_FOLDER
def env(folder: Path) -> None:
    """Print where the region in FOLDER is, for a shell.

    \b
    Example:
      eval "$(rebalancer region env lab)" && rebalancer adm status
    """
    from rebalancer_devregion import service

    for name, value in service.variables(_load(folder)).items():
        click.echo(f"export {name}={value}")


@region.command()
@_FOLDER
@click.argument("program")
def kill(folder: Path, program: str) -> None:
    """Send SIGKILL to a PROGRAM of the region in FOLDER, which runs.

    PROGRAM is manager, servers, or the name of a storage node, such as 3.stor, for its agent.
    """
    from rebalancer_devregion import service

    try:
        click.echo(f"SIGKILL to {service.kill(_load(folder), program)}")
    except LookupError as exc:
        raise click.ClickException(str(exc)) from exc


@region.command()
@_FOLDER
@click.argument("job")
def audit(folder: Path, job: str) -> None:
    """Check the region in FOLDER against what it was, after a JOB.

    JOB is the first characters of its id, or its file.
    """
    from rebalancer_devregion.audit import audit as check
    from rebalancer_devregion.demo import audit_table

    report = check(_load(folder), _job_file(folder, job))
    Console().print(audit_table(report))
    sys.exit(0 if report.ok else 1)


def _job_file(folder: Path, job: str) -> Path:
    found = [Path(job)] if job.endswith(".sqlite") else [*folder.glob(f"manager/{job}*.sqlite")]
    if len(found) != 1 or not found[0].exists():
        raise click.ClickException(f"{job}: {len(found) or 'no'} jobs of this region begin so")
    return found[0]


@region.command()
@click.option("--seed", default=1, show_default=True, help="The first; each run has the next.")
@click.option("--minutes", default=2.0, show_default=True, help="Runs begin for so long.")
@click.option("--runs", type=click.IntRange(min=1), help="So many runs, however long they take.")
@click.option(
    "--at-a-time", type=click.IntRange(1, 32), default=1, show_default=True, help="Runs at once."
)
@click.option("--mounts", is_flag=True, help="Mount small disks, to fill them; needs root.")
def chaos(seed: int, minutes: float, runs: int | None, at_a_time: int, mounts: bool) -> None:
    """Evacuate nodes of small regions under faults, and check every object of each."""
    from rebalancer_devregion.chaos.campaign import Wishes, campaign

    wishes = Wishes(seed, minutes, runs, at_a_time, mounts)
    sys.exit(0 if trio.run(campaign, Console(), wishes) else 1)


@click.command()
@_objects_option
@click.option("--seed", default=1, show_default=True, help="Decides all contents.")
@click.option("--kill", is_flag=True, help="SIGKILL the manager and an agent on the way.")
@click.option(
    "--mixed", is_flag=True, help="Speak to half of the agents in the other dialect, with arrays."
)
@click.option(
    "--postgres", is_flag=True, help="Find the objects in PostgreSQL clones of the shards."
)
@click.option(
    "--writer",
    is_flag=True,
    help="Change a tenth of the objects while the job moves them, and put old records back.",
)
@click.option("--keep", is_flag=True, help="Leave the region running and say how to talk to it.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to make the region; must not exist.  [default: a temporary folder]",
)
def demo(
    objects: int,
    seed: int,
    kill: bool,
    mixed: bool,
    postgres: bool,
    writer: bool,
    keep: bool,
    folder: Path | None,
) -> None:
    """Evacuate a storage node of a region made for the purpose, and check every object."""
    from rebalancer_devregion.demo import Wishes, run
    from rebalancer_devregion.making import remove

    if folder is not None and folder.exists():
        raise click.ClickException(f"{folder}: exists already")
    # Absolute, for sqlite takes no other where it is opened by an address.
    chosen = (folder or Path(tempfile.mkdtemp(prefix="manta-region-")) / "region").absolute()
    layout = layouts.plan(chosen, seed=seed, clones=postgres, buckets=_buckets())
    wishes, failed = Wishes(kill=kill, mixed=mixed, writer=writer, keep=keep), True
    try:
        failed = not trio.run(run, layout, objects, wishes)
    except ProcessError as exc:
        raise click.ClickException(str(exc)) from exc
    except BaseExceptionGroup as group:
        # Ctrl-C; the region's processes have been ended.
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        failed = False
        raise KeyboardInterrupt from None
    except KeyboardInterrupt:
        failed = False
        raise
    finally:
        if folder is None and not failed:
            remove(chosen.parent, Console())
        elif failed:
            click.echo(f"what the region left, its logs too, is in {chosen}", err=True)
    sys.exit(1 if failed else 0)


def _buckets() -> tuple[int, ...]:
    """Return the shards that the buckets tier can have here; say why, if it can have none."""
    from rebalancer_devregion.buckets.tables import SHARDS, shortage

    if (why := shortage()) is None:
        return SHARDS
    click.echo(f"without bucket objects: {why}")
    return ()


def _load(folder: Path) -> layouts.Layout:
    try:
        return layouts.load(folder)
    except (OSError, ValueError) as exc:
        raise click.ClickException(f"{folder}: no region: {exc}") from exc
