"""This module decides whether a job that is asked for may be made, before it has its turn."""

from collections.abc import Mapping
from typing import Any

import trio

from rebalancer.config import ManagerConfig
from rebalancer.errors import BadRequest, JobFailed, PeerError, Refused, StoreError
from rebalancer.log import get_logger
from rebalancer.manager.http.requests import NewJob
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.origin import STORAGE_BUCKET, is_known
from rebalancer.manager.pipeline.listings import check
from rebalancer.manager.store.records import Finding
from rebalancer.threads import Work, run_sync

#: A storage node is looked up within this many seconds, or the job is made unchecked.
LOOK_UP_S = 5.0

log = get_logger()


def params_of(wanted: NewJob, config: ManagerConfig) -> dict[str, Any]:
    """Return what is kept of a request for a job."""
    given = wanted.params
    return {
        "from_shark": _full_name(given.from_shark, config.domain_name),
        "max_objects": given.max_objects or None,
        "objects_file": given.objects_file,
        "strict": given.strict,
    }


def _full_name(name: str, domain: str) -> str:
    return name if name.endswith(f".{domain}") else f"{name}.{domain}"


async def check_params(params: Mapping[str, Any], resources: Resources) -> None:
    """Check what can be known before a job has its turn.

    Raises:
      Refused: no evacuation is allowed at all.
      BadRequest: the listing cannot be read.
    """
    if resources.config.snaplink_cleanup_required:
        raise Refused("Snaplink Cleanup Required")
    if (listing := resources.listing(params)) is not None:
        try:
            await run_sync(Work.OTHER, check, listing)
        except (JobFailed, StoreError) as exc:
            raise BadRequest(str(exc)) from exc


async def look_up(params: Mapping[str, Any], config: ManagerConfig) -> list[Finding]:
    """Look the job's node up; if that cannot be done now, the finding says so, and the job does it.

    Raises:
      BadRequest: there is no such node.
    """
    node = params["from_shark"]
    try:
        with trio.fail_after(LOOK_UP_S):
            found = await is_known(config, node)
    except (trio.TooSlowError, PeerError) as exc:
        why = str(exc) or f"no answer within {LOOK_UP_S:.0f} s"
        log.warning("storage node not looked up", shark=node, error=why)
        return [Finding("storage_record", f"{node} was not looked up when the job was made: {why}")]
    if not found:
        raise BadRequest(f"SharkNotFound: {node} is not in {STORAGE_BUCKET}")
    return []
