"""Commands that change a job which there is already."""

import click

from rebalancer.adm.client import Access, AdmError, Body, Manager, with_manager
from rebalancer.adm.options import confirm, job_argument, json_option, read_rate, yes_option
from rebalancer.adm.output import echo_json
from rebalancer.adm.progress import has_ended, state_word, state_words, subject
from rebalancer.adm.wording import LIMITS, worded
from rebalancer.api.jobs import JobShown
from rebalancer.peers.http import Reply
from rebalancer.progress import settled
from rebalancer.units import size


@click.command()
@job_argument
@json_option
@click.pass_obj
def pause(access: Access, uuid: str, as_json: bool) -> None:
    """Let a job rest until it is resumed.

    No more objects are handed out.  Agents finish the assignments that they have; the records of
    what they copied meanwhile are brought up to date after the job was resumed.  Another job may
    have its turn.  A job stays paused when the manager is restarted.
    """
    _control(access, uuid, "pause", as_json)


@click.command()
@job_argument
@json_option
@click.pass_obj
def resume(access: Access, uuid: str, as_json: bool) -> None:
    """Let a paused job go on where it was."""
    _control(access, uuid, "resume", as_json)


@click.command()
@job_argument
@yes_option
@json_option
@click.pass_obj
def cancel(access: Access, uuid: str, yes: bool, as_json: bool) -> None:
    """Bring a job to its end early.

    Agents finish the assignments that they have, and the records of what they copied are brought
    up to date; everything else is skipped.  A cancelled job cannot be resumed, but `job retry`
    makes a new one of what it skipped.  To interrupt a job, pause it.
    """
    if not yes:
        job_id, view = with_manager(access, lambda manager: _find_view(manager, uuid))
        # The manager says of a job that has ended that there is nothing to cancel.
        if not has_ended(view):
            confirm(f"Cancel {_described(job_id, view)}?  It cannot be resumed, only retried.")
    _control(access, uuid, "cancel", as_json)


@click.command()
@job_argument
@yes_option
@json_option
@click.pass_obj
def delete(access: Access, uuid: str, yes: bool, as_json: bool) -> None:
    """Remove a job that has ended, and all that is known of it.

    `job report` saves that first.  A job that another one retries stays until that has ended.
    """
    if not yes:
        job_id, view = with_manager(access, lambda manager: _find_view(manager, uuid))
        if not has_ended(view):
            why = "it cannot be removed before it has ended"
            raise AdmError(f"job {job_id} is {state_word(view.state, view.wish)}: {why}")
        confirm(f"Remove {_described(job_id, view)}, with all that is known of its objects?")

    async def remove(manager: Manager) -> tuple[str, Reply]:
        job_id = await manager.find(uuid)
        return job_id, await manager.ask("DELETE", f"/jobs/{job_id}")

    job_id, reply = with_manager(access, remove)
    if as_json:
        echo_json(reply.json())
    else:
        click.echo(f"job {job_id} is removed")


@click.command("set-threads")
@job_argument
@click.argument("count", type=int)
@json_option
@click.pass_obj
def set_threads(access: Access, uuid: str, count: int, as_json: bool) -> None:
    """Change how many metadata updates are made at a time.

    At once; a job that is queued or paused has it when it runs.
    """
    _set(
        access,
        uuid,
        "set_metadata_threads",
        count,
        as_json,
        f"{count:,} metadata updates at a time",
    )


@click.command("set-max-sharks")
@job_argument
@click.argument("count", type=int)
@json_option
@click.pass_obj
def set_max_sharks(access: Access, uuid: str, count: int, as_json: bool) -> None:
    """Change how many destinations are filled at a time.

    From the next objects on.
    """
    _set(access, uuid, "set_max_sharks", count, as_json, f"{count:,} destinations at a time")


@click.command("set-max-tasks")
@job_argument
@click.argument("count", type=int)
@json_option
@click.pass_obj
def set_max_tasks(access: Access, uuid: str, count: int, as_json: bool) -> None:
    """Change how many objects go into an assignment.

    From the next assignments on.
    """
    _set(
        access,
        uuid,
        "set_max_tasks_per_assignment",
        count,
        as_json,
        f"{count:,} objects an assignment",
    )


@click.command("set-bandwidth")
@job_argument
@click.argument("rate", callback=read_rate)
@json_option
@click.pass_obj
def set_bandwidth(access: Access, uuid: str, rate: int | None, as_json: bool) -> None:
    """Change the bytes a second that a destination may take in.

    At each of its destinations.  RATE is in bytes a second: 800000, 20M,
    20MiB, 1.5G; or none, for what each agent is configured to.

    \b
    Example:
      rebalancer adm job set-bandwidth 0fd6 20M
    """
    told = "as the agents are configured" if rate is None else f"{size(rate)}/s a destination"
    _set(access, uuid, "set_bandwidth", rate, as_json, told)


def _set(
    access: Access, uuid: str, action: str, value: int | None, as_json: bool, told: str
) -> None:
    """Change a setting, and print it: as its action in JSON, or in words."""

    async def put(manager: Manager) -> str:
        job_id = await manager.find(uuid)
        with worded(LIMITS):
            await manager.change(job_id, action, value)
        return job_id

    job_id = with_manager(access, put)
    if as_json:
        echo_json({"id": job_id, "action": action, "params": value})
    else:
        click.echo(f"job {job_id}: {told}")


def _control(access: Access, uuid: str, action: str, as_json: bool) -> None:
    async def put(manager: Manager) -> tuple[str, Body[JobShown]]:
        job_id = await manager.find(uuid)
        await manager.change(job_id, action)
        return job_id, await manager.job(job_id)

    job_id, body = with_manager(access, put)
    if as_json:
        echo_json({"id": job_id, **body.json})
    else:
        click.echo(f"job {job_id} is {state_words(body.read())}")


async def _find_view(manager: Manager, uuid: str) -> tuple[str, JobShown]:
    job_id = await manager.find(uuid)
    return job_id, (await manager.job(job_id)).read()


def _described(job_id: str, view: JobShown) -> str:
    done, known = settled(view.results)
    progress = f"{done:,} of {known:,} objects settled"
    return f"job {job_id} of {subject(view)} ({state_words(view)}, {progress})"
