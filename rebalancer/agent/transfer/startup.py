"""This module says what a fetcher is started with, and opens the files that this names."""

import json
from collections.abc import Callable

import attrs

from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.agent.transfer.disk.names import new_run
from rebalancer.agent.transfer.disk.room import Promised
from rebalancer.agent.transfer.messages import Begin
from rebalancer.config import AgentSource, AgentStorage
from rebalancer.converter import parse_json, structure


@attrs.frozen
class Setup:
    """A setup is all of the configuration of a fetcher, which the agent sends first."""

    storage: AgentStorage
    source: AgentSource
    hosts: dict[str, str]
    log_level: str = "info"
    #: Part of the names of its temporary files.
    run: str = attrs.field(factory=new_run)
    #: The descriptor of the file of promised bytes, and which number in it is this fetcher's.
    promises: int | None = None
    slot: int = 0

    def encode(self) -> Begin:
        """Return this setup as the message that carries it."""
        return Begin(json.dumps(attrs.asdict(self)))

    @classmethod
    def decode(cls, message: Begin) -> "Setup":
        """Read what `encode` made."""
        return structure(parse_json(message.setup), cls)


def open_files(
    storage: AgentStorage,
    on_cleanup_failure: Callable[[], None],
    run: str,
    promised: Promised | None = None,
) -> ObjectFiles:
    """Return the files of the object root that a configuration names."""
    return ObjectFiles(
        root=storage.root,
        temp=storage.temp,
        reserve_bytes=storage.reserve_mb << 20,
        durable=storage.durable,
        on_cleanup_failure=on_cleanup_failure,
        run=run,
        promised=promised or Promised.alone(),
    )
