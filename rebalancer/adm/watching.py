"""This module lets a command watch a job to its end: `job watch`, and what makes jobs."""

import click

from rebalancer.adm.client import Access, AdmError, Manager, with_manager
from rebalancer.adm.output import make_console
from rebalancer.adm.progress import exit_code, how_it_ended
from rebalancer.adm.screens import SHORT
from rebalancer.adm.watch import as_json as json_lines
from rebalancer.adm.watch import follow, watch_job
from rebalancer.api.jobs import JobShown


def watch_to_end(access: Access, uuid: str, as_json: bool) -> None:
    """Show a job's progress until it ends; who interrupts that reads that the job goes on.

    Raises:
      AdmError: something is left to do, with the exit code that says what; or no answer.
    """

    async def look(manager: Manager) -> tuple[str, JobShown]:
        job_id = await manager.find(uuid)
        if as_json:
            return job_id, await follow(manager, job_id, json_lines(click.echo))
        return job_id, await watch_job(manager, job_id, make_console())

    try:
        job_id, view = with_manager(access, look)
    except KeyboardInterrupt:
        command = f"{access.command} job watch {uuid[:SHORT]}"
        raise KeyboardInterrupt(f"the job goes on; to look at it again: {command}") from None
    if cause := how_it_ended(job_id, view):
        raise AdmError(cause, exit_code=exit_code(view))
