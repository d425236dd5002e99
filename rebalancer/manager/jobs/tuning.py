"""This module decides what changes of a running job's configuration: by its operator, by the file.

What an operator has asked for outweighs the file for as long as the job lives.
"""

import attrs

from rebalancer.config import ManagerConfig
from rebalancer.config.reload import Reload, adopt, changed
from rebalancer.converter import structure
from rebalancer.manager.jobs.rows import JobRow


@attrs.frozen
class Tuning:
    """A tuning has what an operator has changed of one job; None: as the file says."""

    max_metadata_update_threads: int | None = None
    max_sharks: int | None = None
    max_tasks_per_assignment: int | None = None
    #: Bytes a second that each destination may take in; None: as its agent is configured.
    bandwidth_bytes_per_s: int | None = None


def read_tuning(row: JobRow) -> Tuning:
    """Return the limits that an operator has changed for a job."""
    return structure(row.params.get("tuning", {}), Tuning)


def tuned(config: ManagerConfig, tuning: Tuning) -> ManagerConfig:
    """Return `config` with what the operator has changed of the job."""
    changes = {
        name: value
        for name, value in attrs.asdict(tuning).items()
        if value is not None and name in attrs.fields_dict(type(config.options))
    }
    return attrs.evolve(config, options=attrs.evolve(config.options, **changes))


def reloaded(running: ManagerConfig, new: ManagerConfig) -> ManagerConfig:
    """Return the configuration of a running job after the file has become `new`."""
    return adopt(running, new, {Reload.LIVE})


def adopted(old: ManagerConfig, new: ManagerConfig) -> tuple[ManagerConfig, list[str]]:
    """Return the configuration of the next job after the file has become `new`.

    The list has the changed keys that wait for the manager's next start.
    """
    config = adopt(old, new, {Reload.LIVE, Reload.NEXT_JOB})
    return config, changed(old, new, Reload.RESTART)
