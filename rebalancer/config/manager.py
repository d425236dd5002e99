"""This module has the keys of the manager's configuration, with the choice of the shards."""

import math

import attrs

from rebalancer.config import checks
from rebalancer.config.access import ApiAccess
from rebalancer.config.reload import LIVE, NEXT_JOB, RESTART, key
from rebalancer.converter import FieldError
from rebalancer.domain.tiers import Tier, number_of


@attrs.frozen
class Shard:
    """A shard of a metadata tier: `<number>.moray.<domain>`, `<number>.buckets-mdapi.<domain>`."""

    host: str = key(
        about="The shard's Moray is `<number>.moray.<domain>`; the server of a buckets shard is"
        " `<number>.buckets-mdapi.<domain>`.",
        unit="name",
        reload=NEXT_JOB,
        validator=checks.numbered,
    )

    @property
    def number(self) -> int:
        """Return the shard's number."""
        return int(self.host.split(".")[0])


@attrs.frozen
class Options:
    """Object `options`: the tunables; ages in seconds."""

    max_tasks_per_assignment: int = key(
        50,
        about="An assignment has at most so many objects; `job set-max-tasks` changes it "
        "for a job that runs.",
        unit="objects",
        reload=NEXT_JOB,
        validator=checks.whole(1, 10_000),
    )
    max_metadata_update_threads: int = key(
        10,
        about="At most so many updates of records are made at a time; `job set-threads` "
        "changes it for a job that runs.",
        unit="updates",
        reload=LIVE,
        validator=checks.whole(1, 250),
    )
    max_md_read_threads: int = key(
        10,
        about="At most so many shards are scanned at a time.",
        unit="shards",
        reload=NEXT_JOB,
        validator=checks.whole(1, 250),
        sapi="REBALANCER_MAX_METADATA_READ_THREADS",
    )
    max_sharks: int = key(
        5,
        about="Objects are handed to at most so many destinations at a time; `job "
        "set-max-sharks` changes it for a job that runs.",
        unit="nodes",
        reload=NEXT_JOB,
        validator=checks.whole(1),
    )
    use_static_md_update_threads: bool = key(
        False,
        about="If true, the limit of updates cannot be changed while a job runs.",
        reload=NEXT_JOB,
    )
    static_queue_depth: int = key(
        10,
        about="The key is read for the predecessor's sake, and has no effect.",
        reload=NEXT_JOB,
        validator=checks.whole(1),
    )
    max_assignment_age: int = key(
        600,
        about="An assignment that is not full is posted after this time.",
        unit="s",
        reload=NEXT_JOB,
        validator=checks.whole(0),
    )
    use_batched_updates: bool = key(
        True,
        about="If true, records of a shard are written many at a time.",
        reload=NEXT_JOB,
        sapi="REBALANCER_NO_BATCHED_UPDATES",
    )
    md_read_chunk_size: int = key(
        10_000,
        about="One statement of a scan covers so many ids; more suits a node that has few "
        "of a shard's records.",
        unit="ids",
        reload=NEXT_JOB,
        validator=checks.whole(1, 1_000_000),
    )
    max_assignments_per_shark: int = key(
        4,
        about="A destination has at most so many assignments that it has not finished.",
        unit="assignments",
        reload=NEXT_JOB,
        validator=checks.whole(1, 1000),
    )


@attrs.frozen
class ManagerConfig:
    """The whole configuration of the manager; times in seconds."""

    domain_name: str = key(
        about="The region's domain is a part of the names of shards' clones and of storinfo.",
        unit="name",
        reload=RESTART,
        sapi="DOMAIN_NAME",
    )
    shards: tuple[Shard, ...] = key(
        about="These are the shards of the metadata tier.",
        reload=NEXT_JOB,
        sapi="INDEX_MORAY_SHARDS",
    )
    min_shard: int = key(
        1, about="Shards with smaller numbers are left alone.", unit="number", reload=NEXT_JOB
    )
    max_shard: int | None = key(
        None,
        about="Shards with greater numbers are left alone; null: no limit.",
        unit="number",
        reload=NEXT_JOB,
    )
    listen_host: str = key(
        "0.0.0.0", about="The API listens at this address.", unit="address", reload=RESTART
    )
    listen_port: int = key(
        80,
        about="The API listens at this port.",
        unit="port",
        reload=RESTART,
        validator=checks.port,
    )
    api: ApiAccess = ApiAccess()
    metrics_host: str = key(
        "0.0.0.0", about="Metrics are served at this address.", unit="address", reload=RESTART
    )
    metrics_port: int = key(
        8878,
        about="Metrics are served at this port.",
        unit="port",
        reload=RESTART,
        validator=checks.port,
    )
    metrics_behind_token: bool = key(
        False, about="If true, metrics want the token of `api.token_file` too.", reload=RESTART
    )
    log_level: str = key(
        "info",
        about="Lines of lesser levels are not logged: `trace`, `debug`, `info`, "
        "`warning`, `error`, `critical`.",
        unit="level",
        reload=LIVE,
        validator=checks.level,
    )
    max_fill_percentage: int = key(
        100,
        about="A destination is filled up to this share of its space at most.",
        unit="%",
        reload=LIVE,
        validator=checks.whole(1, 100),
        sapi="MUSKIE_MAX_UTILIZATION_PCT",
    )
    snaplink_cleanup_required: bool = key(
        False,
        about="If true, new jobs are refused, because snaplinks have not been cleaned up.",
        reload=NEXT_JOB,
        sapi="SNAPLINK_CLEANUP_REQUIRED",
    )
    options: Options = Options()
    blacklist_datacenters: tuple[str, ...] = key(
        (), about="These datacenters get no copies.", unit="names", reload=LIVE
    )
    data_dir: str = key(
        "/rebalancer/db",
        about="The list of jobs and the jobs' files lie in this folder.",
        unit="folder",
        reload=RESTART,
    )
    min_avail_mb: int = key(
        1000,
        about="A destination must have so much free space.",
        unit="MiB",
        reload=NEXT_JOB,
        validator=checks.whole(0),
    )
    agent_port: int = key(
        7878,
        about="All agents listen at this port.",
        unit="port",
        reload=NEXT_JOB,
        validator=checks.whole(1, 65535),
    )
    storage_port: int = key(
        80,
        about="The web servers of all storage nodes listen at this port, where `verify` "
        "reads copies; agents have it as `source.port`.",
        unit="port",
        reload=NEXT_JOB,
        validator=checks.whole(1, 65535),
    )
    agent_token_file: str = key(
        "",
        about="The token that agents want is in this file; empty: none.",
        unit="file",
        reload=LIVE,
    )
    agent_tls: bool = key(
        False,
        about="If true, the manager speaks TLS to all agents; if false, to none.",
        reload=RESTART,
    )
    agent_tls_ca: str = key(
        "",
        about="The authorities of the agents' certificates are in this PEM file; empty: "
        "the system's are trusted.",
        unit="file",
        reload=RESTART,
    )
    agent_dialects: dict[str, str] = key(
        factory=dict,
        about="The agents of these storage nodes are posted to in another form than `legacy`: in "
        "`tagged` or `tagged-array`.",
        unit="table",
        reload=NEXT_JOB,
        validator=checks.post_forms,
    )
    storinfo_url: str = key(
        "",
        about="storinfo is asked here; empty: at `http://storinfo.<domain_name>`.",
        unit="URL",
        reload=RESTART,
    )
    discovery: str = key(
        "direct_db",
        about="Objects are looked for in PostgreSQL clones of the shards (`direct_db`), "
        "or through Moray (`moray`).",
        reload=NEXT_JOB,
        validator=checks.one_of("direct_db", "moray"),
    )
    final_scans: int = key(
        2,
        about="A job's end has at most so many rounds of final scans whose findings are "
        "moved; 0: no final scan.",
        unit="rounds",
        reload=NEXT_JOB,
        validator=checks.whole(0, 100),
    )
    max_concurrent_jobs: int = key(
        1,
        about="At most so many jobs run at a time; the others wait in the order of their creation.",
        unit="jobs",
        reload=LIVE,
        validator=checks.whole(1, 100),
    )
    max_attempts: int = key(
        3,
        about="An object is given to at most so many destinations, one after another, "
        "until one has copied it.",
        unit="attempts",
        reload=NEXT_JOB,
        validator=checks.whole(1, 100),
    )
    agent_timeout: int = key(
        3600,
        about="An agent that makes no progress for this long has lost its assignments; "
        "their objects go elsewhere.",
        unit="s",
        reload=NEXT_JOB,
        validator=checks.whole(1),
    )
    metadata_timeout: int = key(
        3600,
        about="A shard that takes no update for this long fails the objects that wait for it.",
        unit="s",
        reload=NEXT_JOB,
        validator=checks.whole(1),
    )
    delete_assignments: bool = key(
        True,
        about="If true, agents are asked to drop assignments that have ended.",
        reload=NEXT_JOB,
    )
    allow_source_evac_shark: bool = key(
        True,
        about="If true, a copy may be read from the evacuated node, as the last resort.",
        reload=NEXT_JOB,
    )
    exclude_key_prefixes: tuple[str, ...] = key(
        (),
        about="Objects whose keys begin with one of these are left alone.",
        unit="keys",
        reload=NEXT_JOB,
    )
    has_bucket_objects: bool = key(
        False,
        about="If true, the region has bucket objects, so without `buckets_primary` no node is said"
        " to be empty.  It is true by itself where `buckets_shards` has some.",
        reload=LIVE,
    )
    buckets_shards: tuple[Shard, ...] = key(
        (),
        about="These are the shards of the buckets tier; by themselves those of `mdapi.shards`.",
        reload=NEXT_JOB,
        sapi="BUCKETS_MORAY_SHARDS",
    )
    buckets_primary: str = key(
        "",
        about="The primary PostgreSQL of a buckets shard has this name, where `{shard}` stands for"
        " the shard's number.  Empty: nobody looks at bucket objects.",
        unit="name",
        reload=NEXT_JOB,
        validator=checks.of_shards,
    )
    buckets_clone: str = key(
        "",
        about="The clone of a buckets shard has this name, where `{shard}` stands for the shard's"
        " number: bucket objects are looked for there.  Empty: in the primary.",
        unit="name",
        reload=NEXT_JOB,
        validator=checks.of_shards,
    )
    buckets_update: str = key(
        "sql",
        about="Records of bucket objects are updated in the primary (`sql`) or by the shard's"
        " server (`mdapi`); or bucket objects are only counted (`off`).",
        reload=NEXT_JOB,
        validator=checks.one_of("sql", "mdapi", "off"),
    )
    http_timeout_s: float = key(
        30.0,
        about="An agent or storinfo that sends nothing for this long is taken for one "
        "that does not answer.",
        unit="s",
        reload=RESTART,
        validator=checks.whole(1),
    )
    datacenter: str = key(
        "",
        about="Metrics have this label.",
        unit="label",
        reload=RESTART,
        sapi="DATACENTER",
    )
    service: str = key("rebalancer", about="Metrics have this label.", unit="label", reload=RESTART)
    server: str = key(
        "",
        about="Metrics have this label.",
        unit="label",
        reload=RESTART,
        sapi="auto.SERVER_UUID",
    )
    hosts: dict[str, str] = key(
        factory=dict,
        about="These names have these addresses, perhaps with a port; they are looked at "
        "before DNS.",
        unit="table",
        reload=RESTART,
        validator=checks.addresses,
    )

    def __attrs_post_init__(self) -> None:
        """Choose the shards and put them into order.

        Raises:
          FieldError: there are none, or two have one number; or a key lacks the one it needs, or
            has a value that another has.
        """
        checks.apart(
            "metrics_port",
            (self.metrics_host, self.metrics_port),
            (self.listen_host, self.listen_port),
        )
        if self.agent_tls_ca and not self.agent_tls:
            raise FieldError("agent_tls_ca: expected agent_tls to be true with it")
        if self.metrics_behind_token and not self.api.token_file:
            raise FieldError("metrics_behind_token: expected api.token_file with it")
        ordinals = [shard.number for shard in self.buckets_shards]
        if len(set(ordinals)) != len(ordinals):
            raise FieldError("buckets_shards: expected each number once")
        for name in ("buckets_primary", "buckets_clone"):
            if getattr(self, name) and not ordinals:
                raise FieldError(f"{name}: expected buckets_shards with it")
        if self.buckets_clone and not self.buckets_primary:
            raise FieldError("buckets_clone: expected buckets_primary with it")
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
    def clones(self) -> dict[int, str]:
        """Return the name of each shard's clone, by the shard's number."""
        numbers = [shard.number for shard in self.shards]
        return {number: f"{number}.rebalancer-postgres.{self.domain_name}" for number in numbers}

    @property
    def bucket_primaries(self) -> dict[int, str]:
        """Return the name of each buckets shard's primary, by the number that stages know."""
        return self._of_buckets_shards(self.buckets_primary)

    @property
    def bucket_clones(self) -> dict[int, str]:
        """Return the name of each buckets shard's clone, by the number that stages know."""
        return self._of_buckets_shards(self.buckets_clone)

    @property
    def bucket_servers(self) -> dict[int, str]:
        """Return the servers by which rows are updated, by the number that stages know."""
        shards = self.buckets_shards if self.buckets_update == "mdapi" else ()
        return {number_of(Tier.BUCKETS, shard.number): shard.host for shard in shards}

    def _of_buckets_shards(self, name: str) -> dict[int, str]:
        ordinals = [shard.number for shard in self.buckets_shards] if name else []
        return {
            number_of(Tier.BUCKETS, ordinal): name.replace("{shard}", str(ordinal))
            for ordinal in sorted(ordinals)
        }

    @property
    def looks_at_buckets(self) -> bool:
        """Tell whether bucket objects are looked at: without PostgreSQL nobody can see them all."""
        return bool(self.buckets_primary)

    @property
    def has_unseen_buckets(self) -> bool:
        """Tell whether the region has bucket objects at which nobody looks."""
        return self.has_bucket_objects and not self.looks_at_buckets

    @property
    def shard_numbers(self) -> frozenset[int]:
        """Return the shards of both tiers that are looked at, by the numbers that stages know."""
        return frozenset((*(shard.number for shard in self.shards), *self.bucket_primaries))

    @property
    def storinfo(self) -> str:
        """Return the host of storinfo, perhaps with a port."""
        url = self.storinfo_url or f"http://storinfo.{self.domain_name}"
        return url.removeprefix("http://").rstrip("/")
