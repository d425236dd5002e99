"""This module has the commands that show jobs and the manager, and change nothing."""

import json
import sys
from pathlib import Path
from urllib.parse import urlencode

import attrs
import click

from rebalancer import units
from rebalancer.adm.client import Access, AdmError, Body, Manager, with_manager
from rebalancer.adm.completion import complete_job, complete_node
from rebalancer.adm.options import id_option, job_argument, json_option
from rebalancer.adm.output import (
    echo_json,
    echo_lines,
    echo_reply,
    echo_screen,
    is_terminal,
    make_console,
)
from rebalancer.adm.printing import printable
from rebalancer.adm.progress import notes, state_word, verdict_lines
from rebalancer.adm.report import new_file, save_report
from rebalancer.adm.screens import (
    flow,
    job_block,
    job_destinations_screen,
    jobs_screen,
    listed,
    status_screen,
    wait_lines,
)
from rebalancer.adm.tables import counts_table, summary_tables
from rebalancer.adm.watching import watch_to_end
from rebalancer.api.jobs import JobListed, JobShown, Summary
from rebalancer.api.objects import Object
from rebalancer.api.status import Status
from rebalancer.domain.states import JobState, ObjectStatus
from rebalancer.peers.http import Reply

#: A terminal of fewer columns has two lines for each object.
OBJECT_WIDTH = 140


@click.command("list")
@click.option(
    "--state",
    type=click.Choice([str(state) for state in JobState]),
    help="Only jobs in this state.",
)
@click.option(
    "-s", "--shark", shell_complete=complete_node, help="Only jobs for this storage node."
)
@click.option(
    "--after",
    metavar="ID",
    shell_complete=complete_job,
    help="Only jobs behind this one on the list.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; without it all.")
@id_option
@json_option
@click.pass_obj
def list_jobs(
    access: Access,
    state: str | None,
    shark: str | None,
    after: str | None,
    limit: int | None,
    output: str | None,
    as_json: bool,
) -> None:
    """List jobs, oldest first.

    \b
    Example:
      rebalancer adm job list --state running
      rebalancer adm job list --shark 1.stor -o id
    """

    async def ask(manager: Manager) -> Reply:
        behind = None if after is None else await manager.find(after)
        wanted = {"state": state, "shark": shark, "after": behind, "limit": limit}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        return await manager.ask("GET", f"/jobs?{query}" if query else "/jobs")

    reply = with_manager(access, ask)
    if output is not None:
        rows = Body(reply.json(), list[JobListed]).read()
        echo_lines(printable(row.id) for row in rows)
    elif as_json or not is_terminal():
        echo_reply(reply, as_json)
    else:
        rows = Body(reply.json(), list[JobListed]).read()
        echo_screen(lambda width, now: jobs_screen(rows, width, now))


@click.command()
@job_argument
@json_option
@click.pass_obj
def get(access: Access, uuid: str, as_json: bool) -> None:
    """Show one job and its counts."""

    async def ask(manager: Manager) -> tuple[str, Reply]:
        job_id = await manager.find(uuid)
        return job_id, await manager.ask("GET", f"/jobs/{job_id}")

    job_id, reply = with_manager(access, ask)
    if as_json or not is_terminal():
        echo_reply(reply, as_json)
        return
    view = Body(reply.json(), JobShown).read()
    echo_lines([f"job {job_id}"])
    echo_screen(lambda width, now: job_block(listed(job_id, view, None), width, now))
    shown = attrs.evolve(view, waiting=(), error=None)
    make_console().print(counts_table(view))
    echo_lines(notes(shown))


@click.command()
@job_argument
@json_option
@click.pass_obj
def watch(access: Access, uuid: str, as_json: bool) -> None:
    """Show a job's progress until it ends.

    A job that runs is not touched by this, nor by ending it with Ctrl-C.  A manager that is
    restarted meanwhile is waited for.  Without a terminal, progress comes as lines; with --json,
    as a line of JSON twice a second.  The last lines are the job's verdict: whether the node is
    empty now, what is left, and which command acts on it.

    \b
    Exit codes:
      0    nothing is left to do: the node is empty, or the copies are right
      1    the job failed, found faults, was cancelled or is paused
      3    the job is complete, but records still name the node
      4    the job is complete, but it took only a part of the node, or nobody looked again,
           or the manager has no verdict
    """
    watch_to_end(access, uuid, as_json)


@click.command()
@job_argument
@json_option
@click.pass_obj
def summary(access: Access, uuid: str, as_json: bool) -> None:
    """Show how a job is going, in figures.

    Counts and bytes by reason, rates over the last minute and hour, the time that is left, what
    each destination was given and how it does, and how far each shard has been scanned.
    """

    async def ask(manager: Manager) -> Body[Summary]:
        known = await manager.summary(await manager.find(uuid))
        if known is None:
            raise AdmError("this manager has no summaries")
        return known

    body = with_manager(access, ask)
    if as_json:
        echo_json(body.json)
        return
    known = body.read()
    left = "" if known.eta_s is None else f"; {units.duration(known.eta_s)} left"
    echo_lines([printable(f"job {known.id}: {state_word(known.state, known.wish)}{left}")])
    echo_screen(
        lambda width, now: [
            line
            for wait in wait_lines(known.waiting, 0, now)
            for line in flow([wait], width, indent="  ")
        ]
    )
    echo_lines(notes(attrs.evolve(known, waiting=())))
    make_console().print(*summary_tables(known), sep="\n")
    if known.destinations:
        at_most = len(known.destinations)
        echo_screen(
            lambda width, now: job_destinations_screen(known.destinations, width, now, at_most)
        )


@click.command()
@job_argument
@click.option(
    "--status",
    type=click.Choice([str(status) for status in ObjectStatus]),
    help="Only those with this one.",
)
@click.option("--reason", help="Only those with this one, as in job summary.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    metavar="NUMBER",
    help="Only those behind this number, which the end of an earlier list says.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="At most so many; 0: all.",
)
@id_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
@click.pass_obj
def objects(
    access: Access,
    uuid: str,
    status: str | None,
    reason: str | None,
    after: int,
    limit: int,
    output: str | None,
    as_json: bool,
) -> None:
    """List a job's objects in the order they were found.

    \b
    Example:
      rebalancer adm job objects 0fd6 --status error
      rebalancer adm job objects 0fd6 --reason destination_unreachable --limit 0 --json
    """

    async def show(manager: Manager) -> None:
        job_id = await manager.find(uuid)
        is_narrow = is_terminal() and make_console().width < OBJECT_WIDTH
        if not (as_json or is_narrow) and output is None:
            click.echo(_object_line("STATUS", "REASON", "BYTES", "DESTINATION", "KEY"))
        count, behind = 0, None
        pages = manager.objects(
            job_id, status=status, reason=reason, after=after, limit=limit or None
        )
        async for page in pages:
            known = page.read()
            count, behind = count + len(known.objects), known.after
            written = (json.dumps(one, ensure_ascii=False) for one in page.json["objects"])
            show = (_folded if is_narrow else _shown) if output is None else _id_of
            for line in written if as_json else map(show, known.objects):
                click.echo(line)
        if behind is not None:
            more = f"--after {behind} goes on, --limit 0 lists all"
            click.echo(f"these are {count:,}: {more}", err=True)

    with_manager(access, show)


def _folded(one: Object) -> str:
    """Return an object on two lines: its key may be long, and is whole then."""
    size = "" if one.bytes is None else units.size(one.bytes)
    reason = "" if one.reason is None else f"  {one.reason}"
    head = f"{one.status:<15} {size:>9}  {one.dest_shark or '-'}{reason}"
    return f"{printable(head)}\n  {printable(one.key or one.id)}"


def _shown(one: Object) -> str:
    size = "" if one.bytes is None else f"{one.bytes:,}"
    dest, key = one.dest_shark or "-", printable(one.key or one.id)
    return _object_line(one.status, one.reason or "-", size, dest, key)


def _id_of(one: Object) -> str:
    return printable(one.id)


def _object_line(status: str, reason: str, size: str, dest: str, key: str) -> str:
    # Of fixed widths, for there may be millions to come.
    return f"{status:<15} {reason:<30} {size:>15}  {dest:<24} {key}"


@click.command()
@job_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, which is there only if the report is whole.",
)
@click.pass_obj
def report(access: Access, uuid: str, output: Path | None) -> None:
    """Print all that is known of a job, as lines of JSON.

    The job comes first, then a line for each warning, object, duplicate, further record, record
    that was dropped, orphaned copy, record that remains, and assignment.  The last line counts
    them, which proves that nothing is missing; exits 1 if it does not.  The verdict of an ended
    job is in the first line, and printed on standard error when the report went to a file.

    \b
    Example:
      rebalancer adm job report 0fd6 -o 1.stor.ndjson
      rebalancer adm job report 0fd6 | jq -r 'select(.type == "orphan") | .shark + " " + .path'
    """

    async def save(manager: Manager) -> None:
        job_id = await manager.find(uuid)
        if output is None:
            if sys.stdout is None:
                raise AdmError("standard output is closed")
            out = sys.stdout.buffer
            await save_report(manager, job_id, out)
            out.flush()
            return
        with new_file(output) as out:
            saved = await save_report(manager, job_id, out)
        click.echo(f"{output}: {saved.lines:,} lines", err=True)
        for line in verdict_lines(saved.job):
            click.echo(line, err=True)

    with_manager(access, save)


@click.command()
@json_option
@click.pass_obj
def status(access: Access, as_json: bool) -> None:
    """Show how the manager itself is.

    Its version, how old its list of storage nodes is, its jobs with how far each is, and of each
    destination how full it is, what all jobs have under way there, and why it gets nothing, if so.
    """

    async def ask(manager: Manager) -> tuple[Reply, list[JobListed]]:
        return await manager.ask("GET", "/status"), [] if as_json else await manager.jobs()

    reply, rows = with_manager(access, ask)
    if as_json:
        echo_json(reply.json())
        return
    known = Body(reply.json(), Status).read()
    echo_screen(lambda width, now: status_screen(known, rows, width, now))
