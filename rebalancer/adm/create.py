"""This module has the commands that make jobs, or tell what one would do."""

import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from rebalancer.actions import DECLARED
from rebalancer.actions.declaration import Declaration, OptionKind, parameters_of
from rebalancer.actions.evacuate import EVACUATE
from rebalancer.adm.client import PLAN_S, Access, AdmError, Body, Manager, refusal, with_manager
from rebalancer.adm.following import Show, json_lines, showing
from rebalancer.adm.options import (
    action_options,
    id_option,
    job_argument,
    json_option,
    watch_option,
)
from rebalancer.adm.output import (
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
from rebalancer.api.plan import Plan, PlanError, PlanProgress
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


async def _post(manager: Manager, declared: Declaration, body: dict[str, Any]) -> Reply:
    """Send the body of POST /jobs, with whole ids and paths in place of what was typed.

    Raises:
      AdmError: no answer, or a refusal, worded as the command is.
    """
    whole = await _whole(manager, declared, body)
    with worded(options_of(declared)):
        return await manager.ask("POST", "/jobs", whole)


async def _whole(manager: Manager, declared: Declaration, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of POST /jobs with whole ids and paths in place of what was typed.

    Raises:
      AdmError: there is no such job, or the path means nothing to the manager.
    """
    params, names = dict(body["params"]), options_of(declared)
    for name, (_, known) in parameters_of(declared.params).items():
        if name not in params or known.option is None:
            continue
        if known.option.kind is OptionKind.JOB:
            params[name] = await manager.find(params[name])
        if known.option.kind is OptionKind.FILE:
            params[name] = _path_there(names[name], params[name], manager.where.host)
    return {**body, "params": params}


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
    long as a job's discovery; how far it is, is shown on standard error, without a terminal as
    lines, with --json not at all.  Ctrl-C ends it.  Exits 1 if it does not fit.

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
    subject = printable(declared.subject(body["params"]))

    async def ask(manager: Manager) -> Body[Plan]:
        sent = {**await _whole(manager, declared, body), "dry_run": True}
        begin = f"looking at every object of {subject}: Ctrl-C ends it"
        shown = nullcontext(_show_nothing) if as_json else showing(begin)
        with worded(options_of(declared)), shown as show:
            async with manager.plan(sent) as pieces:
                return Body(await _read_plan(pieces, show), Plan)

    # An earlier manager is silent until the plan is made.
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


async def _read_plan(pieces: AsyncIterator[bytes], show: Show) -> Any:
    """Show the progress of a dry run, and return its plan.

    Raises:
      AdmError: there is none.
    """
    last: Any = {"type": "progress"}
    try:
        async for last in json_lines(pieces):
            if _type_of(last) == "progress":
                known = Body(last, PlanProgress).read()
                show(_words(known), known.scanned)
    except ValueError as exc:
        raise AdmError(f"the manager's answer cannot be read: {exc}") from exc
    if _type_of(last) == "progress":
        raise AdmError("the plan was cut short: the manager's answer has no end")
    if _type_of(last) == "error":
        error = Body(last, PlanError).read()
        raise refusal(error.status, error.message)
    return last


def _type_of(line: Any) -> Any:
    """Return the type of a line; a plan, also that of an earlier manager, has none."""
    return line.get("type") if isinstance(line, dict) else None


def _words(known: PlanProgress) -> str:
    share = [] if known.scanned is None else [f"{known.scanned:.0%} scanned"]
    shards = [f"{known.shards_done} of {known.shards} shards done"] if known.shards else []
    found = f"{known.objects:,} objects, {size(known.bytes)}"
    placed = f"{known.placed:,} placed, {known.without_place:,} without a place"
    return ", ".join([*share, *shards, found, placed])


def _show_nothing(_words: str, _share: float | None) -> None:
    """Show no progress, because a script reads the plan."""
