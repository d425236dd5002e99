"""This module has the keys of the manager's configuration, with the choice of the shards."""

import math

import attrs

from rebalancer.config import checks
from rebalancer.config.access import ApiAccess
from rebalancer.config.reload import LIVE, NEXT_JOB, RESTART, key
from rebalancer.converter import FieldError


@attrs.frozen
class Shard:
    """A shard of the metadata tier: `<number>.moray.<domain>`."""

    host: str = key(reload=NEXT_JOB, validator=checks.numbered)

    @property
    def number(self) -> int:
        """Return the shard's number."""
        return int(self.host.split(".")[0])


@attrs.frozen
class Options:
    """Object `options`: the tunables; ages in seconds."""

    max_tasks_per_assignment: int = key(50, reload=NEXT_JOB, validator=checks.whole(1, 10_000))
    max_metadata_update_threads: int = key(10, reload=LIVE, validator=checks.whole(1, 250))
    max_md_read_threads: int = key(10, reload=NEXT_JOB, validator=checks.whole(1, 250))
    max_sharks: int = key(5, reload=NEXT_JOB, validator=checks.whole(1))
    use_static_md_update_threads: bool = key(False, reload=NEXT_JOB)
    static_queue_depth: int = key(10, reload=NEXT_JOB, validator=checks.whole(1))
    max_assignment_age: int = key(600, reload=NEXT_JOB, validator=checks.whole(0))
    use_batched_updates: bool = key(True, reload=NEXT_JOB)
    #: Width, in ids, of one window of a scan.
    md_read_chunk_size: int = key(10_000, reload=NEXT_JOB, validator=checks.whole(1, 1_000_000))
    #: Assignments that one destination may have before it has finished one of them.
    max_assignments_per_shark: int = key(4, reload=NEXT_JOB, validator=checks.whole(1, 1000))


@attrs.frozen
class ManagerConfig:
    """The whole configuration of the manager; times in seconds."""

    domain_name: str = key(reload=RESTART)
    shards: tuple[Shard, ...] = key(reload=NEXT_JOB)
    #: Shards with smaller and greater numbers are left alone.
    min_shard: int = key(1, reload=NEXT_JOB)
    max_shard: int | None = key(None, reload=NEXT_JOB)
    listen_host: str = key("0.0.0.0", reload=RESTART)
    listen_port: int = key(80, reload=RESTART, validator=checks.port)
    api: ApiAccess = ApiAccess()
    metrics_host: str = key("0.0.0.0", reload=RESTART)
    metrics_port: int = key(8878, reload=RESTART, validator=checks.port)
    #: Whether metrics want the token of `api` too.
    metrics_behind_token: bool = key(False, reload=RESTART)
    log_level: str = key("debug", reload=LIVE, validator=checks.level)
    max_fill_percentage: int = key(100, reload=LIVE, validator=checks.whole(1, 100))
    snaplink_cleanup_required: bool = key(False, reload=NEXT_JOB)
    options: Options = Options()
    blacklist_datacenters: tuple[str, ...] = key((), reload=LIVE)
    data_dir: str = key("/rebalancer/db", reload=RESTART)
    min_avail_mb: int = key(1000, reload=NEXT_JOB, validator=checks.whole(0))
    agent_port: int = key(7878, reload=NEXT_JOB, validator=checks.whole(1, 65535))
    #: The port of the storage nodes' web servers, where `verify` reads copies.
    storage_port: int = key(80, reload=NEXT_JOB, validator=checks.whole(1, 65535))
    #: A file with the token that agents want; empty: none.
    agent_token_file: str = key("", reload=LIVE)
    #: Whether agents are spoken to by TLS: all of them, or none.
    agent_tls: bool = key(False, reload=RESTART)
    #: A PEM file of the authorities of their certificates; empty: the system's.
    agent_tls_ca: str = key("", reload=RESTART)
    #: Storage nodes whose agents are posted to in another form than `legacy`.
    agent_dialects: dict[str, str] = key(factory=dict, reload=NEXT_JOB, validator=checks.post_forms)
    #: Default: `http://storinfo.<domain_name>`.
    storinfo_url: str = key("", reload=RESTART)
    discovery: str = key(
        "direct_db", reload=NEXT_JOB, validator=checks.one_of("direct_db", "moray")
    )
    #: Scans of the live metadata, at a job's end, whose findings are moved too; 0: no such scan.
    final_scans: int = key(2, reload=NEXT_JOB, validator=checks.whole(0, 100))
    #: Jobs that run at a time; the others wait in order of creation.
    max_concurrent_jobs: int = key(1, reload=LIVE, validator=checks.whole(1, 100))
    max_attempts: int = key(3, reload=NEXT_JOB, validator=checks.whole(1, 100))
    #: An agent without any progress for this long has lost its assignments.
    agent_timeout: int = key(3600, reload=NEXT_JOB, validator=checks.whole(1))
    #: A shard that has taken no update for this long loses those that wait for it.
    metadata_timeout: int = key(3600, reload=NEXT_JOB, validator=checks.whole(1))
    delete_assignments: bool = key(True, reload=NEXT_JOB)
    allow_source_evac_shark: bool = key(True, reload=NEXT_JOB)
    exclude_key_prefixes: tuple[str, ...] = key((), reload=NEXT_JOB)
    #: Whether the region has bucket objects, which no job looks at: no node is said to be empty.
    has_bucket_objects: bool = key(False, reload=LIVE)
    http_timeout_s: float = key(30.0, reload=RESTART, validator=checks.whole(1))
    datacenter: str = key("", reload=RESTART)
    service: str = key("rebalancer", reload=RESTART)
    server: str = key("", reload=RESTART)
    hosts: dict[str, str] = key(factory=dict, reload=RESTART, validator=checks.addresses)

    def __attrs_post_init__(self) -> None:
        """Choose the shards and put them into order.

        Raises:
          FieldError: there are none, or two have one number; or a key lacks the one it needs.
        """
        if self.agent_tls_ca and not self.agent_tls:
            raise FieldError("agent_tls_ca: expected agent_tls to be true with it")
        if self.metrics_behind_token and not self.api.token_file:
            raise FieldError("metrics_behind_token: expected api.token_file with it")
        greatest = math.inf if self.max_shard is None else self.max_shard
        chosen = [s for s in self.shards if self.min_shard <= s.number <= greatest]
        numbers = {shard.number for shard in chosen}
        if not numbers or len(numbers) != len(chosen):
            bounds = f"from {self.min_shard} to {greatest}"
            raise FieldError(f"shards: expected at least one {bounds}, each number once")
        ordered = tuple(sorted(chosen, key=lambda shard: shard.number))
        object.__setattr__(self, "shards", ordered)

    @property
    def bounds_shards(self) -> bool:
        """Tell whether shards may be left alone because of their numbers."""
        return self.min_shard > 1 or self.max_shard is not None

    @property
    def storinfo(self) -> str:
        """Return the host of storinfo, perhaps with a port."""
        url = self.storinfo_url or f"http://storinfo.{self.domain_name}"
        return url.removeprefix("http://").rstrip("/")
