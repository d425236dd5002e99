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

    host: str = key(
        "0.0.0.0", about="The API listens at this address.", unit="address", reload=RESTART
    )
    port: int = key(
        7878,
        about="The API listens at this port.",
        unit="port",
        reload=RESTART,
        validator=checks.port,
    )
    workers: int = key(
        1,
        about="At most so many assignments are worked on at a time.",
        unit="assignments",
        reload=RESTART,
        validator=checks.whole(1, 64),
    )
    workers_per_assignment: int = key(
        1,
        about="At most so many objects of each assignment are pulled at a time; `PUT "
        "/limits` changes it until the next start.",
        unit="objects",
        reload=RESTART,
        validator=checks.whole(1, 256),
    )
    fetchers: int = key(
        2,
        about="So many processes pull objects; 0: the agent itself does.",
        unit="processes",
        reload=RESTART,
        validator=checks.whole(0, 64),
    )


@attrs.frozen
class AgentExporter:
    """Table `[metrics]`: the exporter and its constant labels."""

    host: str = key(
        "0.0.0.0", about="Metrics are served at this address.", unit="address", reload=RESTART
    )
    port: int = key(
        8878,
        about="Metrics are served at this port.",
        unit="port",
        reload=RESTART,
        validator=checks.port,
    )
    datacenter: str = key(
        "",
        about="The older metrics have this label.",
        unit="label",
        reload=RESTART,
        sapi="DATACENTER",
    )
    service: str = key(
        "rebalancer-agent",
        about="The older metrics have this label.",
        unit="label",
        reload=RESTART,
        sapi="SERVICE_NAME",
    )
    server: str = key(
        "",
        about="The older metrics have this label.",
        unit="label",
        reload=RESTART,
        sapi="auto.SERVER_UUID",
    )
    legacy: bool = key(
        True, about="If true, the older family of metrics is exported too.", reload=RESTART
    )
    behind_token: bool = key(
        False, about="If true, metrics want the token of `api.token_file` too.", reload=RESTART
    )


@attrs.frozen
class AgentStorage:
    """Table `[storage]`: where objects and state lie."""

    manta_root: str = key(
        "/manta",
        about="The accounts' folders lie in this one, which the agent never makes.",
        unit="folder",
        reload=RESTART,
    )
    temp_dir: str = key(
        "",
        about="Unfinished files lie in this folder, which must be on the same file "
        "system; empty: `<manta_root>/rebalancer`.",
        unit="folder",
        reload=RESTART,
    )
    state_dir: str = key(
        "/var/tmp/rebalancer",
        about="The agent's assignments lie in this folder.",
        unit="folder",
        reload=RESTART,
    )
    reserve_mb: int = key(
        1024,
        about="So much space is never used.",
        unit="MiB",
        reload=RESTART,
        validator=checks.whole(0),
    )
    durable: bool = key(
        True, about="If false, nothing is synced to the disk: for benchmarks only.", reload=RESTART
    )

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

    port: int = key(
        80,
        about="The web servers of all sources listen at this port.",
        unit="port",
        reload=RESTART,
        validator=checks.whole(1, 65535),
    )
    connect_timeout: float = key(
        10.0,
        about="A source must take a connection within this time.",
        unit="s",
        reload=RESTART,
        validator=checks.whole(0),
    )
    idle_timeout: float = key(
        60.0,
        about="A source that sends nothing for this long has failed; a whole transfer may "
        "take longer.",
        unit="s",
        reload=RESTART,
        validator=checks.whole(0),
    )
    retries: int = key(
        3,
        about="A source that fails is asked so many times more.",
        unit="times",
        reload=RESTART,
        validator=checks.whole(0, 20),
    )
    bandwidth_bytes_per_s: int = key(
        0,
        about="All transfers together take at most this rate; 0: no limit.  `PUT /limits` "
        "changes it until the next start.",
        unit="bytes/s",
        reload=RESTART,
        validator=checks.whole(0),
    )
    allowed_domains: tuple[str, ...] = key(
        (),
        about="Only hosts whose names end in one of these may be sources; empty: any.",
        unit="names",
        reload=RESTART,
    )
    engine: str = key(
        "auto",
        about="Objects are pulled by `libcurl` or by the `plain` engine; `auto`: by "
        "libcurl where it is installed.",
        reload=RESTART,
        validator=checks.one_of("auto", "libcurl", "plain"),
    )


@attrs.frozen
class AgentApi(ApiAccess):
    """Table `[api]`: the dialect of answers, the size of a request, and who may ask."""

    dialect: str = key(
        "auto",
        about="Answers are in the dialect of the request (`auto`), or always `legacy` or `tagged`.",
        reload=RESTART,
        validator=checks.one_of("auto", "legacy", "tagged"),
    )
    max_body_bytes: int = key(
        16 << 20,
        about="A larger body of a request is refused.",
        unit="bytes",
        reload=RESTART,
        validator=checks.whole(1024),
    )


@attrs.frozen
class LogConfig:
    """Table `[log]`."""

    level: str = key(
        "info",
        about="Lines of lesser levels are not logged: `trace`, `debug`, `info`, "
        "`warning`, `error`, `critical`.",
        unit="level",
        reload=RESTART,
        validator=checks.level,
    )


@attrs.frozen
class AgentConfig:
    """The whole configuration of an agent."""

    server: AgentServer = AgentServer()
    metrics: AgentExporter = AgentExporter()
    storage: AgentStorage = AgentStorage()
    source: AgentSource = AgentSource()
    api: AgentApi = AgentApi()
    log: LogConfig = LogConfig()
    hosts: dict[str, str] = key(
        factory=dict,
        about="These names have these addresses, perhaps with a port; they are looked at "
        "before DNS.",
        unit="table",
        reload=RESTART,
        validator=checks.addresses,
    )

    def __attrs_post_init__(self) -> None:
        """Check that there is a token where metrics want one, and a port of their own.

        Raises:
          FieldError: there is none.
        """
        checks.apart(
            "metrics.port",
            (self.metrics.host, self.metrics.port),
            (self.server.host, self.server.port),
        )
        if self.metrics.behind_token and not self.api.token_file:
            raise FieldError("metrics.behind_token: expected api.token_file with it")
