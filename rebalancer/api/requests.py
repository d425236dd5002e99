"""This module has the bodies of requests that change jobs."""

import enum
from typing import Any

import attrs

from rebalancer.api.fields import about

MIN_UPDATERS, MAX_UPDATERS = 1, 250


class Control(enum.StrEnum):
    """A control is a wish of an operator about a job, whether the job runs or not."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


@attrs.frozen(kw_only=True)
class ControlJob:
    """Pause, resume or cancel a job that has not ended."""

    action: str = about(enum=list(Control))
    params: Any = about("Ignored.", default=None)


@attrs.frozen(kw_only=True)
class SetMetadataThreads:
    """Change how many metadata updates of a running job are made at a time."""

    action: str = about(const="set_metadata_threads")
    params: int = about(
        "Metadata updates at a time, over all shards.", minimum=MIN_UPDATERS, maximum=MAX_UPDATERS
    )


@attrs.frozen(kw_only=True)
class SetMaxSharks:
    """Change how many destinations of a running job are in use at a time."""

    action: str = about(const="set_max_sharks")
    params: int = about("Destinations in use at a time.", minimum=1, maximum=10_000)


@attrs.frozen(kw_only=True)
class SetMaxTasks:
    """Change how many objects go into an assignment of a running job."""

    action: str = about(const="set_max_tasks_per_assignment")
    params: int = about(
        "Objects in an assignment, from the next one on.", minimum=1, maximum=10_000
    )


@attrs.frozen(kw_only=True)
class SetBandwidth:
    """Change the bandwidth that each destination of a running job may take in."""

    action: str = about(const="set_bandwidth")
    params: int | None = about(
        "Bytes a second that each destination takes in; null: as its agent is configured.",
        minimum=1,
        maximum=1 << 50,
    )


#: The option of the configuration that a change overrides -> the body of the change.
SETTINGS: dict[str, type[Any]] = {
    "max_metadata_update_threads": SetMetadataThreads,
    "max_sharks": SetMaxSharks,
    "max_tasks_per_assignment": SetMaxTasks,
    "bandwidth_bytes_per_s": SetBandwidth,
}
