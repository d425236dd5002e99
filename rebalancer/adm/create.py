"""This module has the commands that make jobs, or tell what one would do."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rebalancer.actions import DECLARED
from rebalancer.actions.declaration import Declaration, OptionKind, parameters_of
from rebalancer.actions.evacuate import EVACUATE
from rebalancer.adm.client import ANSWER_S, PLAN_S, Access, AdmError, Body, Manager, with_manager
from rebalancer.adm.options import (
    action_options,
    id_option,
    job_argument,
    json_option,
    watch_option,
)
from rebalancer.adm.output import (
    can_redraw,
    echo_as_predecessor,
    echo_json,
    echo_lines,
    is_terminal,
    make_console,
)
from rebalancer.adm.printing import printable
from rebalancer.adm.progress import verdict_lines, warnings
from rebalancer.adm.screens import SHORT
from rebalancer.adm.tables import plan_table, what_does_not_fit
from rebalancer.adm.watching import watch_to_end
from rebalancer.adm.wording import options_of, worded
from rebalancer.api.jobs import JobShown
from rebalancer.api.plan import Plan
from rebalancer.peers.http import Reply
from rebalancer.units import size


@click.group()
def create() -> None:
    """Make a job."""


def _creation(declared: Declaration) -> click.Command:
    """Return the command that makes a job of an action."""

    @click.pass_context
    def make(
        context: click.Context,
        /,
        as_json: bool,
        output: str | None,
        watch: bool,
        dry_run: bool = False,
        **given: Any,
    ) -> None:
        body = declared.request(given)
        if dry_run:
            _plan(context, declared, body, as_json)
            return

        async def post(manager: Manager) -> Reply:
            return await _post(manager, declared, body)

        _show_new_job(context.obj, with_manager(context.obj, post), as_json, output, watch)

    options = action_options(declared)
    if declared.has_plan:
        told = "Only tell what the job would do: see job plan."
        options.append(click.Option(["--dry-run"], is_flag=True, help=told))
    command = click.Command(declared.name, callback=make, params=options, help=declared.help)
    return watch_option(id_option(json_option(command)))


async def _post(
    manager: Manager, declared: Declaration, body: dict[str, Any], within_s: float = ANSWER_S
) -> Reply:
    """Send the body of POST /jobs, with whole ids and paths in place of what was typed.

    Raises:
      AdmError: no answer, or a refusal, worded as the command is.
    """
    params, names = dict(body["params"]), options_of(declared)
    for name, (_, known) in parameters_of(declared.params).items():
        if name not in params or known.option is None:
            continue
        if known.option.kind is OptionKind.JOB:
            params[name] = await manager.find(params[name])
        if known.option.kind is OptionKind.FILE:
            params[name] = _path_there(names[name], params[name], manager.where.host)
    with worded(names):
        return await manager.ask("POST", "/jobs", {**body, "params": params}, within_s=within_s)


def _path_there(option: str, path: str, host: str) -> str:
    """Return the path of a file as the manager on `host` finds it.

    Raises:
      AdmError: a relative path means nothing on another machine.
    """
    if path.startswith("/"):
        return path
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return str(Path.cwd() / path)
    why = "the manager's machine reads this file; expected its path from the root there"
    raise AdmError(f"{option}: {path}: {why}")


for _declared in DECLARED.values():
    create.add_command(_creation(_declared))


@click.pass_context
def _tell_plan(context: click.Context, /, as_json: bool, **given: Any) -> None:
    """Tell what an evacuation would do, and do nothing.

    Looks for the objects as a job would, and finds a place for each: where they would go, what
    would be skipped and why, what the pre-flight finds, and whether it all fits.  That takes as
    long as a job's discovery.  Exits 1 if it does not fit.

    \b
    Example:
      rebalancer adm job plan --shark 1.stor
      rebalancer adm job plan --shark 1.stor --json | jq .destinations
    """
    _plan(context, EVACUATE, EVACUATE.request(given), as_json)


plan = json_option(
    click.Command(
        "plan",
        callback=_tell_plan,
        params=action_options(EVACUATE, without={"strict"}),
        help=_tell_plan.__doc__,
    )
)


@click.command()
@job_argument
@watch_option
@id_option
@json_option
@click.pass_obj
def retry(access: Access, uuid: str, as_json: bool, output: str | None, watch: bool) -> None:
    """Make a job of what another one skipped or left undone.

    Prints its id.  The other one must have ended: as complete, failed or cancelled.  Every record
    is read anew, so that what its owner has changed or removed meanwhile is seen.  After a job that
    failed or was cancelled, it also goes on where that one stopped looking for objects.
    """

    async def post(manager: Manager) -> tuple[Reply, JobShown | None]:
        job_id = await manager.find(uuid)
        # By what is left of it, an operator sees what the new job can do, and what it cannot.
        earlier = (await manager.job(job_id)).read() if is_terminal() else None
        return await manager.ask("POST", f"/jobs/{job_id}/retry"), earlier

    reply, earlier = with_manager(access, post)
    for line in [] if earlier is None else verdict_lines(earlier):
        click.echo(line, err=True)
    _show_new_job(access, reply, as_json, output, watch)


def _show_new_job(
    access: Access, reply: Reply, as_json: bool, output: str | None, is_watched: bool
) -> None:
    """Print the id of a new job, in the form that is asked for, and perhaps watch the job."""
    if output is not None:
        echo_lines([printable(reply.text.strip())])
    else:
        _echo_new_job(access, reply, as_json, is_watched)
    if is_watched:
        watch_to_end(access, reply.text.strip(), as_json)


def _echo_new_job(access: Access, reply: Reply, as_json: bool, is_watched: bool) -> None:
    if as_json:
        click.echo(json.dumps({"id": reply.text}))
        return
    if not is_terminal():
        # The predecessor prints the answer's own newline, and one more.
        echo_as_predecessor(reply, f"{reply.text}\n")
        return
    job_id = printable(reply.text)
    echo_as_predecessor(reply, job_id)
    if not is_watched:
        click.echo(f"{access.command} job watch {job_id[:SHORT]} shows its progress", err=True)


def _plan(
    context: click.Context, declared: Declaration, body: dict[str, Any], as_json: bool
) -> None:
    async def ask(manager: Manager) -> Body[Plan]:
        reply = await _post(manager, declared, {**body, "dry_run": True}, within_s=PLAN_S)
        return Body(reply.json(), Plan)

    subject = printable(declared.subject(body["params"]))
    with _waiting(f"looking at every object of {subject}: Ctrl-C ends it"):
        answer = with_manager(context.obj, ask, silence_s=PLAN_S)
    made = answer.read()
    reasons = what_does_not_fit(made)
    if body["params"].get("strict") and made.warnings:
        reasons.append("the pre-flight has warnings (--strict)")
    if as_json:
        echo_json(answer.json)
    else:
        total = f"{made.objects:,} objects, {size(made.bytes)}"
        verdict = f"it does not fit: {'; '.join(reasons)}" if reasons else "it fits"
        lines = map(printable, [*warnings(made.warnings), verdict])
        make_console().print(total, plan_table(made), *lines, sep="\n")
    context.exit(1 if reasons else 0)


@contextmanager
def _waiting(text: str) -> Iterator[None]:
    """Show on a terminal that something takes its time, and how much so far."""
    console = Console(file=sys.stderr)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    if console.is_dumb_terminal:
        click.echo(text, err=True)
    with Progress(
        *columns, console=console, transient=True, disable=not can_redraw(console)
    ) as shown:
        shown.add_task(text, total=None)
        yield
