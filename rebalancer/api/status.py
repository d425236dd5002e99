"""This module has the bodies about the manager itself, and those that are not of a resource."""

import attrs

from rebalancer.api.fields import Amount, Count, Positive, Uuid, about
from rebalancer.api.jobs import Standing


@attrs.frozen(kw_only=True)
class Storinfo:
    """The list of storage nodes that storinfo keeps, as the manager knows it."""

    nodes: Count = about("Storage nodes that can take objects.")
    age_s: Amount | None = about("Seconds since the list was read; null: it never was.")


@attrs.frozen(kw_only=True)
class Status:
    """The manager itself: its jobs, and what all of them have under way."""

    version: str
    jobs: dict[str, Positive] = about("The number of jobs by state, as the list of jobs has it.")
    states: dict[str, Positive] = about(
        "The same by a word that tells paused jobs from cancelled ones, and those on their way"
        " there from others.",
        if_missing=attrs.Factory(dict),
    )
    running: tuple[Uuid, ...] = about("The ids of the jobs that run.")
    max_concurrent_jobs: Positive = about("The most jobs that run at a time.")
    storinfo: Storinfo
    destinations: tuple[Standing, ...] = about("Storage nodes, as all jobs see them now.")


@attrs.frozen(kw_only=True)
class Ping:
    """The answer of a program that is alive."""

    ping: str = about(const="pong")
    version: str


@attrs.frozen(kw_only=True)
class Message:
    """An error, for clients that accept JSON."""

    message: str = about("What is wrong, for a person.")
    request_id: Uuid = about("The id that the answer's head has too.")
