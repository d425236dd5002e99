"""This module tells what may change of a running job's configuration, and by whom.

Pure.  What an operator has asked for outweighs the file for as long as the job lives.
"""

from typing import Any

import attrs

from rebalancer.config import ManagerConfig

#: Keys of the file that a running process cannot take up.
_FIXED = (
    "domain_name",
    "listen_host",
    "listen_port",
    "api",
    "metrics_host",
    "metrics_port",
    "metrics_behind_token",
    "agent_tls",
    "agent_tls_ca",
    "data_dir",
    "hosts",
    "storinfo_url",
    "http_timeout_s",
    "datacenter",
    "service",
    "server",
)
#: Keys that running jobs take up too; all others hold from the next job on.
_LIVE = ("max_fill_percentage", "blacklist_datacenters")
_LIVE_OPTIONS = ("max_metadata_update_threads",)


@attrs.frozen
class Tuning:
    """What an operator has changed of one job; None: as the file says."""

    max_metadata_update_threads: int | None = None
    max_sharks: int | None = None
    max_tasks_per_assignment: int | None = None
    #: Bytes a second that each destination may take in; None: as its agent is configured.
    bandwidth_bytes_per_s: int | None = None


def tuned(config: ManagerConfig, tuning: Tuning) -> ManagerConfig:
    """`config` with what the operator has changed of the job."""
    changes = {
        name: value
        for name, value in attrs.asdict(tuning).items()
        if value is not None and name in attrs.fields_dict(type(config.options))
    }
    return attrs.evolve(config, options=attrs.evolve(config.options, **changes))


def reloaded(running: ManagerConfig, new: ManagerConfig) -> ManagerConfig:
    """Return the configuration of a running job after the file has become `new`."""
    options = attrs.evolve(running.options, **_taken(new.options, _LIVE_OPTIONS))
    return attrs.evolve(running, options=options, **_taken(new, _LIVE))


def adopted(old: ManagerConfig, new: ManagerConfig) -> tuple[ManagerConfig, list[str]]:
    """What holds for the next job after the file has become `new`, and the keys left as they were.

    Those wait for the manager's next start.
    """
    kept = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
    return attrs.evolve(new, **_taken(old, kept)), kept


def _taken(source: Any, names: list[str] | tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}
