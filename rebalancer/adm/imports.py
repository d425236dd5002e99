"""This module has the command that lists and imports jobs of a Rust manager."""

import re
from collections.abc import Sequence

import click
from click.core import ParameterSource

from rebalancer.adm.client import PLAN_S, Access, AdmError, Body, Manager, with_manager
from rebalancer.adm.options import json_option
from rebalancer.adm.output import echo_json, echo_lines, make_console
from rebalancer.adm.printing import printable
from rebalancer.adm.tables import importable_table
from rebalancer.api.imports import Importable, Imported

#: What a connection string looks like that has a password in it.
_PASSWORD = re.compile(r"password|^\w+://[^/@]*:[^/@]*@")


def _checked_dsn(context: click.Context, param: click.Parameter, value: str) -> str:
    """Refuse a password that everybody on this machine can read, in the list of processes."""
    typed = context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    if typed and _PASSWORD.search(value):
        raise click.BadParameter(
            "a password does not belong on a command line: put the whole string into"
            " REBALANCER_LEGACY_DSN instead"
        )
    return value


@click.command("import")
@click.option(
    "--legacy-dsn",
    envvar="REBALANCER_LEGACY_DSN",
    required=True,
    metavar="DSN",
    callback=_checked_dsn,
    help="How the manager connects to the Rust manager's PostgreSQL, e.g. postgres://postgres@/",
)
@click.option("--list", "only_list", is_flag=True, help="List the jobs; so does naming no job.")
@click.option("--all", "take_all", is_flag=True, help="Import all that can be and are not yet.")
@click.option("--again", is_flag=True, help="Import a job that was imported already.")
@click.argument("uuids", nargs=-1, metavar="[UUID]...")
@json_option
@click.pass_obj
def import_jobs(
    access: Access,
    legacy_dsn: str,
    only_list: bool,
    take_all: bool,
    again: bool,
    uuids: tuple[str, ...],
    as_json: bool,
) -> None:
    """Import jobs of a Rust manager, as jobs that have ended.

    Without UUID or --all, lists what there is, and changes nothing.  The manager reads the Rust
    manager's PostgreSQL, by default over the socket of its machine, and never changes it.  Stop the
    Rust manager first.  A job that it had not ended is imported as failed; job retry takes up what
    an imported job has left.  Prints the ids.

    \b
    Example:
      rebalancer adm job import --legacy-dsn postgres://postgres@/
      rebalancer adm job import --legacy-dsn postgres://postgres@/ --all
      rebalancer adm job retry 0fd6
    """
    if only_list and (take_all or uuids):
        raise click.UsageError("--list imports nothing: leave out --all and UUID.")
    if take_all and uuids:
        raise click.UsageError("expected either --all or UUID.")

    async def ask(manager: Manager) -> Body[list[Importable]]:
        body = {"dsn": legacy_dsn}
        reply = await manager.ask("POST", "/imports/list", body, within_s=PLAN_S, is_change=False)
        return Body(reply.json(), list[Importable])

    listed = with_manager(access, ask, silence_s=PLAN_S)
    jobs = listed.read()
    if not take_all and not uuids:
        if as_json:
            echo_json(listed.json)
        else:
            make_console().print(importable_table(jobs))
        return
    wanted = [_find(jobs, text) for text in uuids] or [
        job for job in jobs if job.problem is None and (again or not job.imported)
    ]
    made = [_import(access, legacy_dsn, job, again) for job in wanted]
    if as_json:
        echo_json([one.json for one in made])
    else:
        echo_lines(printable(one.read().id) for one in made)


def _find(jobs: Sequence[Importable], text: str) -> Importable:
    """Return the one job whose id is `text`, or begins with it.

    Raises:
      AdmError: there is none, or there are several.
    """
    found = [job for job in jobs if job.id.lower().startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    why = "has no job" if not found else "has several jobs"
    raise AdmError(f"the Rust manager {why} whose id begins with {text}")


def _import(access: Access, dsn: str, job: Importable, again: bool) -> Body[Imported]:
    objects = sum(job.objects.values())
    click.echo(printable(f"importing job {job.id}: {objects:,} objects"), err=True)

    async def post(manager: Manager) -> Body[Imported]:
        body = {"dsn": dsn, "job_id": job.id, "again": again}
        reply = await manager.ask("POST", "/imports", body, within_s=PLAN_S)
        return Body(reply.json(), Imported)

    made = with_manager(access, post, silence_s=PLAN_S)
    if odd := made.read().odd:
        text = f"something of {odd:,} objects could not be read: job report {made.read().id}"
        click.echo(f"warning: {printable(text)}", err=True)
    return made
