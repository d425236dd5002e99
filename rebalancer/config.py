"""This module has both configuration files: their keys, defaults, units and checks.

The manager's is JSON, the agent's TOML; both as the predecessors wrote them, plus keys of our
own.  An unknown key and a value of the wrong kind are errors that name the key; all of a file's
errors are told at once.
"""

import math
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import attrs

from rebalancer import environment, keys, wire
from rebalancer.errors import BadRequest, ConfigError
from rebalancer.log import level_name
from rebalancer.peers.names import split_port

MANAGER_PATH = Path("/opt/smartdc/rebalancer/config.json")
AGENT_PATH = Path("/opt/smartdc/rebalancer-agent/etc/config.toml")

T = TypeVar("T")


def _whole(minimum: int, maximum: int | None = None) -> Any:
    """Check a number's range."""
    expected = f"at least {minimum}" + ("" if maximum is None else f" and at most {maximum}")

    def validate(_instance: object, field: "attrs.Attribute[Any]", value: float) -> None:
        if not (minimum <= value < math.inf) or (maximum is not None and value > maximum):
            raise wire.FieldError(f"{field.name}: expected {expected}, got {value}")

    return validate


_port = _whole(0, 65535)


def _level(_instance: object, field: "attrs.Attribute[str]", value: str) -> None:
    try:
        level_name(value)
    except ValueError as exc:
        raise wire.FieldError(f"{field.name}: {exc}, got {value!r}") from exc


def _one_of(*values: str) -> Callable[[object, "attrs.Attribute[str]", str], None]:
    def validate(_instance: object, field: "attrs.Attribute[str]", value: str) -> None:
        if value not in values:
            expected = f"expected one of {', '.join(values)}"
            raise wire.FieldError(f"{field.name}: {expected}, got {value!r}")

    return validate


def _post_forms(
    _instance: object, field: "attrs.Attribute[dict[str, str]]", value: dict[str, str]
) -> None:
    forms = [form.value for form in wire.PostForm]
    for name, form in value.items():
        if form not in forms:
            expected = f"expected one of {', '.join(forms)}"
            raise wire.FieldError(f"{field.name}: {name}: {expected}, got {form!r}")


def _addresses(
    _instance: object, field: "attrs.Attribute[dict[str, str]]", value: dict[str, str]
) -> None:
    for address in value.values():
        try:
            split_port(address, 1)
        except ValueError as exc:
            raise wire.FieldError(f"{field.name}: {exc}") from exc


def _numbered(_instance: object, field: "attrs.Attribute[str]", value: str) -> None:
    number = value.split(".")[0]
    is_number = number.isascii() and number.isdecimal() and len(number) < 10
    if not is_number or int(number) < 1:
        expected = "expected a name that starts with its number"
        raise wire.FieldError(f"{field.name}: {expected}, got {value!r}")


# --- the agent ---------------------------------------------------------------------------


@attrs.frozen
class AgentServer:
    """Table `[server]`: the API, and how much is done at a time."""

    host: str = "0.0.0.0"
    port: int = attrs.field(default=7878, validator=_port)
    workers: int = attrs.field(default=1, validator=_whole(1, 64))
    workers_per_assignment: int = attrs.field(default=1, validator=_whole(1, 256))
    #: Processes that pull objects; 0: the agent itself does.
    fetchers: int = attrs.field(default=2, validator=_whole(0, 64))


@attrs.frozen
class AgentMetrics:
    """Table `[metrics]`: the exporter and its constant labels."""

    host: str = "0.0.0.0"
    port: int = attrs.field(default=8878, validator=_port)
    datacenter: str = ""
    service: str = "rebalancer-agent"
    server: str = ""
    #: Whether to export the older family of metrics too.
    legacy: bool = True
    #: Whether metrics want the token of `[api]` too.
    behind_token: bool = False


@attrs.frozen
class AgentStorage:
    """Table `[storage]`: where objects and state lie."""

    manta_root: str = "/manta"
    #: Default: `<manta_root>/rebalancer`, which is on the same file system.
    temp_dir: str = ""
    state_dir: str = "/var/tmp/rebalancer"
    #: Space that is never used, in MiB.
    reserve_mb: int = attrs.field(default=1024, validator=_whole(0))
    #: False skips every fsync: for benchmarks only.
    durable: bool = True

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

    port: int = attrs.field(default=80, validator=_whole(1, 65535))
    connect_timeout: float = attrs.field(default=10.0, validator=_whole(0))
    idle_timeout: float = attrs.field(default=60.0, validator=_whole(0))
    retries: int = attrs.field(default=3, validator=_whole(0, 20))
    #: Of all transfers together; 0: no limit.  PUT /limits changes it until the next start.
    bandwidth_bytes_per_s: int = attrs.field(default=0, validator=_whole(0))
    #: Empty: any host name; else its suffixes.
    allowed_domains: tuple[str, ...] = ()
    #: What asks for objects; auto: libcurl where it is installed, else the plain one.
    engine: str = attrs.field(default="auto", validator=_one_of("auto", "libcurl", "plain"))


@attrs.frozen
class ApiAccess:
    """Who may use an API, and whether it speaks TLS."""

    #: A file with the token that every request must bear, but for GET /ping; empty: none.
    token_file: str = ""
    #: PEM files; both or none.
    tls_cert: str = ""
    tls_key: str = ""

    def __attrs_post_init__(self) -> None:
        """Check that certificate and key come together.

        Raises:
          FieldError: one of them is missing.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            raise wire.FieldError("tls_cert, tls_key: expected both or none")


@attrs.frozen
class AgentApi(ApiAccess):
    """Table `[api]`: the dialect of answers, the size of a request, and who may ask."""

    dialect: str = attrs.field(default="auto", validator=_one_of("auto", "legacy", "tagged"))
    max_body_bytes: int = attrs.field(default=16 << 20, validator=_whole(1024))


@attrs.frozen
class LogConfig:
    """Table `[log]`."""

    level: str = attrs.field(default="info", validator=_level)


@attrs.frozen
class AgentConfig:
    """The whole configuration of an agent."""

    server: AgentServer = AgentServer()
    metrics: AgentMetrics = AgentMetrics()
    storage: AgentStorage = AgentStorage()
    source: AgentSource = AgentSource()
    api: AgentApi = AgentApi()
    log: LogConfig = LogConfig()
    hosts: dict[str, str] = attrs.field(factory=dict, validator=_addresses)

    def __attrs_post_init__(self) -> None:
        """Check that there is a token where metrics want one.

        Raises:
          FieldError: there is none.
        """
        if self.metrics.behind_token and not self.api.token_file:
            raise wire.FieldError("metrics.behind_token: expected api.token_file with it")


# --- the manager -------------------------------------------------------------------------


@attrs.frozen
class Shard:
    """One shard of the metadata tier: `<number>.moray.<domain>`."""

    host: str = attrs.field(validator=_numbered)

    @property
    def number(self) -> int:
        """Return the shard's number."""
        return int(self.host.split(".")[0])


@attrs.frozen
class Options:
    """Object `options`: the tunables; ages in seconds."""

    max_tasks_per_assignment: int = attrs.field(default=50, validator=_whole(1, 10_000))
    max_metadata_update_threads: int = attrs.field(default=10, validator=_whole(1, 250))
    max_md_read_threads: int = attrs.field(default=10, validator=_whole(1, 250))
    max_sharks: int = attrs.field(default=5, validator=_whole(1))
    use_static_md_update_threads: bool = False
    static_queue_depth: int = attrs.field(default=10, validator=_whole(1))
    max_assignment_age: int = attrs.field(default=600, validator=_whole(0))
    use_batched_updates: bool = True
    #: Width, in ids, of one window of a scan.
    md_read_chunk_size: int = attrs.field(default=10_000, validator=_whole(1, 1_000_000))
    #: Assignments that one destination may have before it has finished one of them.
    max_assignments_per_shark: int = attrs.field(default=4, validator=_whole(1, 1000))


@attrs.frozen
class ManagerConfig:
    """The whole configuration of the manager; times in seconds."""

    domain_name: str
    shards: tuple[Shard, ...]
    #: Shards with smaller and greater numbers are left alone.
    min_shard: int = 1
    max_shard: int | None = None
    listen_host: str = "0.0.0.0"
    listen_port: int = attrs.field(default=80, validator=_port)
    api: ApiAccess = ApiAccess()
    metrics_host: str = "0.0.0.0"
    metrics_port: int = attrs.field(default=8878, validator=_port)
    #: Whether metrics want the token of `api` too.
    metrics_behind_token: bool = False
    log_level: str = attrs.field(default="debug", validator=_level)
    max_fill_percentage: int = attrs.field(default=100, validator=_whole(1, 100))
    snaplink_cleanup_required: bool = False
    options: Options = Options()
    blacklist_datacenters: tuple[str, ...] = ()
    data_dir: str = "/rebalancer/db"
    min_avail_mb: int = attrs.field(default=1000, validator=_whole(0))
    agent_port: int = attrs.field(default=7878, validator=_whole(1, 65535))
    #: A file with the token that agents want; empty: none.
    agent_token_file: str = ""
    #: Whether agents are spoken to by TLS: all of them, or none.
    agent_tls: bool = False
    #: A PEM file of the authorities of their certificates; empty: the system's.
    agent_tls_ca: str = ""
    #: Storage nodes whose agents are posted to in another form than `legacy`.
    agent_dialects: dict[str, str] = attrs.field(factory=dict, validator=_post_forms)
    #: Default: `http://storinfo.<domain_name>`.
    storinfo_url: str = ""
    discovery: str = attrs.field(default="direct_db", validator=_one_of("direct_db", "moray"))
    #: Scans of the live metadata, at a job's end, whose findings are moved too; 0: no such scan.
    final_scans: int = attrs.field(default=2, validator=_whole(0, 100))
    #: Jobs that run at a time; the others wait in order of creation.
    max_concurrent_jobs: int = attrs.field(default=1, validator=_whole(1, 100))
    max_attempts: int = attrs.field(default=3, validator=_whole(1, 100))
    #: An agent without any progress for this long has lost its assignments.
    agent_timeout: int = attrs.field(default=3600, validator=_whole(1))
    #: A shard that has taken no update for this long loses those that wait for it.
    metadata_timeout: int = attrs.field(default=3600, validator=_whole(1))
    delete_assignments: bool = True
    allow_source_evac_shark: bool = True
    exclude_key_prefixes: tuple[str, ...] = ()
    http_timeout_s: float = attrs.field(default=30.0, validator=_whole(1))
    datacenter: str = ""
    service: str = "rebalancer"
    server: str = ""
    hosts: dict[str, str] = attrs.field(factory=dict, validator=_addresses)

    def __attrs_post_init__(self) -> None:
        """Choose the shards and put them into order.

        Raises:
          FieldError: there are none, or two have one number; or a key lacks the one it needs.
        """
        if self.agent_tls_ca and not self.agent_tls:
            raise wire.FieldError("agent_tls_ca: expected agent_tls to be true with it")
        if self.metrics_behind_token and not self.api.token_file:
            raise wire.FieldError("metrics_behind_token: expected api.token_file with it")
        greatest = math.inf if self.max_shard is None else self.max_shard
        chosen = [s for s in self.shards if self.min_shard <= s.number <= greatest]
        numbers = {shard.number for shard in chosen}
        if not numbers or len(numbers) != len(chosen):
            bounds = f"from {self.min_shard} to {greatest}"
            raise wire.FieldError(f"shards: expected at least one {bounds}, each number once")
        ordered = tuple(sorted(chosen, key=lambda shard: shard.number))
        object.__setattr__(self, "shards", ordered)

    @property
    def storinfo(self) -> str:
        """Host of storinfo, perhaps with a port."""
        url = self.storinfo_url or f"http://storinfo.{self.domain_name}"
        return url.removeprefix("http://").rstrip("/")


# --- reading -----------------------------------------------------------------------------

#: Keys that templates of the predecessors write, and that mean nothing here.
_SILENT: Mapping[Any, frozenset[str]] = {
    ManagerConfig: frozenset({"direct_db", "mdapi"}),
    Shard: frozenset({"last"}),
    AgentServer: frozenset({"download_timeout_secs"}),
}


def load_agent(path: Path | None) -> AgentConfig:
    """Read the agent's configuration; the environment overrides the file.

    Without `path` the default place is read if there is a file, else defaults hold.

    Raises:
      ConfigError: the file is missing, is not TOML, or a key or value does not fit.
    """
    if path is None and not AGENT_PATH.exists():
        return read_agent("", "environment", os.environ)
    return read_agent(_read_text(path or AGENT_PATH), str(path or AGENT_PATH), os.environ)


def load_manager(path: Path | None) -> ManagerConfig:
    """Read the manager's configuration; the environment overrides the file.

    Raises:
      ConfigError: the file is missing, is not JSON, or a key or value does not fit.
    """
    path = path or MANAGER_PATH
    return read_manager(_read_text(path), str(path), os.environ)


def read_agent(text: str, name: str, variables: Mapping[str, str] | None = None) -> AgentConfig:
    """As `load_agent`, from the text of a file called `name` and environment variables."""
    try:
        document = wire.parse_toml(text)
    except BadRequest as exc:
        raise ConfigError(f"{name}: {exc}") from exc
    made, wrong = environment.override(document, environment.AGENT, variables or {})
    return _structure(made, AgentConfig, name, wrong)


def read_manager(text: str, name: str, variables: Mapping[str, str] | None = None) -> ManagerConfig:
    """As `load_manager`, from the text of a file called `name` and environment variables."""
    try:
        document = wire.parse_json(text)
    except BadRequest as exc:
        raise ConfigError(f"{name}: {exc}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: expected an object")
    # The SAPI template misspells this key, so no predecessor ever honoured it.
    misspelt = document.pop("max_fill_precentage", None)
    if misspelt is not None:
        document.setdefault("max_fill_percentage", misspelt)
    made, wrong = environment.override(document, environment.MANAGER, variables or {})
    return _structure(made, ManagerConfig, name, wrong)


def read_token(path: str) -> str | None:
    """Read the token in a file; None where no file is named.

    Raises:
      ConfigError: the file cannot be read, or holds no token.
    """
    if not path:
        return None
    token = _read_text(Path(path)).strip()
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise ConfigError(f"{path}: expected one token: ASCII, without white space")
    return token


def open_tls(cert: str, key: str) -> ssl.SSLContext | None:
    """Read the certificate and its key to serve TLS with; None where no certificate is named.

    Raises:
      ConfigError: they are missing, or no certificate with its key.
    """
    if not cert:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        made.load_cert_chain(cert, key)
    except OSError as exc:  # ssl's own errors among them
        raise ConfigError(f"{cert}, {key}: {exc.strerror or exc}") from exc
    return made


def unusable_files(config: ManagerConfig | AgentConfig) -> list[str]:
    """Say what is wrong with the files that a configuration names, without which no program starts.

    Each fault is a text of its own; none means that all files can be used.
    """
    api = config.api
    checks: list[Callable[[], object]] = [partial(read_token, api.token_file)]
    if isinstance(config, ManagerConfig):
        checks.append(partial(read_token, config.agent_token_file))
    checks.append(partial(open_tls, api.tls_cert, api.tls_key))
    faults = []
    for check in checks:
        try:
            check()
        except ConfigError as exc:
            faults.append(str(exc))
    return faults


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


def _structure(document: Mapping[str, Any], kind: type[T], name: str, wrong: Sequence[str]) -> T:
    """Make a `kind` of `document`; `wrong` is what is known to be amiss with it.

    Raises:
      ConfigError: all that is wrong, at once.
    """
    faults = [*wrong, *_faults(document, kind)]
    if not faults:
        try:
            return wire.structure(document, kind)
        except BadRequest as exc:  # of values that do not go together
            faults = [_placed(str(exc), "")]
    raise ConfigError(f"{name}: {'; '.join(faults)}", tuple(faults))


def _faults(value: Any, kind: Any, prefix: str = "") -> list[str]:
    """List all that is wrong with `value` as an object of `kind`, each fault with its key."""
    if not isinstance(value, dict):
        return [f"{prefix.rstrip('.') or 'the document'}: expected an object"]
    fields = attrs.fields_dict(kind)
    given = [key for key in value if key not in _SILENT.get(kind, ())]
    faults = keys.unknown(given, tuple(fields), prefix)
    for name, field in fields.items():
        if name in value:
            faults += _faults_of_field(value[name], field, prefix)
        elif field.default is attrs.NOTHING:
            faults.append(f"{prefix}{name}: required, and missing")
    return faults


def _faults_of_field(value: Any, field: "attrs.Attribute[Any]", prefix: str) -> list[str]:
    where, kind = f"{prefix}{field.name}", cast(Any, field.type)
    members = get_args(kind) if get_origin(kind) is tuple else ()
    if attrs.has(kind):
        return _faults(value, kind, f"{where}.")
    if members and attrs.has(members[0]) and isinstance(value, list):
        listed = [_faults(one, members[0], f"{where}[{n}].") for n, one in enumerate(value)]
        return [fault for faults in listed for fault in faults]
    try:
        made = wire.structure(value, kind)
    except BadRequest as exc:
        return [_placed(str(exc), where)]
    try:
        if field.validator is not None:
            field.validator(None, field, made)
    except wire.FieldError as exc:
        return [f"{prefix}{exc}"]
    return []


def _placed(text: str, where: str) -> str:
    """Put the place of what is wrong before what is wrong with one value."""
    what, _, inner = text.rpartition(" at $")
    if " at $" in what:  # several members of a list
        return f"{where}: {text.replace(' at $', f' at {where}')}"
    place = f"{where}{inner}" if where else inner.removeprefix(".")
    return f"{place}: {what}" if place else what or text
