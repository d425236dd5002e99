"""This module has the keys of the agent's configuration, of which none changes while it runs."""

from pathlib import Path

import attrs

from rebalancer.config import checks
from rebalancer.config.access import ApiAccess
from rebalancer.config.reload import RESTART, key
from rebalancer.converter import FieldError


@attrs.frozen
class AgentServer:
    """Table `[server]`: the API, and how much is done at a time."""

    host: str = key("0.0.0.0", reload=RESTART)
    port: int = key(7878, reload=RESTART, validator=checks.port)
    workers: int = key(1, reload=RESTART, validator=checks.whole(1, 64))
    workers_per_assignment: int = key(1, reload=RESTART, validator=checks.whole(1, 256))
    #: Processes that pull objects; 0: the agent itself does.
    fetchers: int = key(2, reload=RESTART, validator=checks.whole(0, 64))


@attrs.frozen
class AgentExporter:
    """Table `[metrics]`: the exporter and its constant labels."""

    host: str = key("0.0.0.0", reload=RESTART)
    port: int = key(8878, reload=RESTART, validator=checks.port)
    datacenter: str = key("", reload=RESTART)
    service: str = key("rebalancer-agent", reload=RESTART)
    server: str = key("", reload=RESTART)
    #: Whether to export the older family of metrics too.
    legacy: bool = key(True, reload=RESTART)
    #: Whether metrics want the token of `[api]` too.
    behind_token: bool = key(False, reload=RESTART)


@attrs.frozen
class AgentStorage:
    """Table `[storage]`: where objects and state lie."""

    manta_root: str = key("/manta", reload=RESTART)
    #: Default: `<manta_root>/rebalancer`, which is on the same file system.
    temp_dir: str = key("", reload=RESTART)
    state_dir: str = key("/var/tmp/rebalancer", reload=RESTART)
    #: Space that is never used, in MiB.
    reserve_mb: int = key(1024, reload=RESTART, validator=checks.whole(0))
    #: False skips every fsync: for benchmarks only.
    durable: bool = key(True, reload=RESTART)

    @property
    def root(self) -> Path:
        """Return the folder of the accounts."""
        return Path(self.manta_root)

    @property
    def temp(self) -> Path:
        """Return the folder of unfinished downloads."""
        return Path(self.temp_dir) if self.temp_dir else self.root / "rebalancer"


@attrs.frozen
class AgentSource:
    """Table `[source]`: how objects are read from other nodes; deadlines in seconds."""

    port: int = key(80, reload=RESTART, validator=checks.whole(1, 65535))
    connect_timeout: float = key(10.0, reload=RESTART, validator=checks.whole(0))
    idle_timeout: float = key(60.0, reload=RESTART, validator=checks.whole(0))
    retries: int = key(3, reload=RESTART, validator=checks.whole(0, 20))
    #: Of all transfers together; 0: no limit.  PUT /limits changes it until the next start.
    bandwidth_bytes_per_s: int = key(0, reload=RESTART, validator=checks.whole(0))
    #: Empty: any host name; else its suffixes.
    allowed_domains: tuple[str, ...] = key((), reload=RESTART)
    #: What asks for objects; auto: libcurl where it is installed, else the plain one.
    engine: str = key("auto", reload=RESTART, validator=checks.one_of("auto", "libcurl", "plain"))


@attrs.frozen
class AgentApi(ApiAccess):
    """Table `[api]`: the dialect of answers, the size of a request, and who may ask."""

    dialect: str = key("auto", reload=RESTART, validator=checks.one_of("auto", "legacy", "tagged"))
    max_body_bytes: int = key(16 << 20, reload=RESTART, validator=checks.whole(1024))


@attrs.frozen
class LogConfig:
    """Table `[log]`."""

    level: str = key("info", reload=RESTART, validator=checks.level)


@attrs.frozen
class AgentConfig:
    """The whole configuration of an agent."""

    server: AgentServer = AgentServer()
    metrics: AgentExporter = AgentExporter()
    storage: AgentStorage = AgentStorage()
    source: AgentSource = AgentSource()
    api: AgentApi = AgentApi()
    log: LogConfig = LogConfig()
    hosts: dict[str, str] = key(factory=dict, reload=RESTART, validator=checks.addresses)

    def __attrs_post_init__(self) -> None:
        """Check that there is a token where metrics want one.

        Raises:
          FieldError: there is none.
        """
        if self.metrics.behind_token and not self.api.token_file:
            raise FieldError("metrics.behind_token: expected api.token_file with it")
