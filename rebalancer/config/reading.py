"""This module makes a configuration of a file's text and the environment, or lists all faults."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import attrs

from rebalancer import environment, keys
from rebalancer.config.agent import AgentConfig, AgentServer
from rebalancer.config.files import read_text
from rebalancer.config.manager import ManagerConfig, Shard
from rebalancer.converter import FieldError, parse_json, parse_toml, structure
from rebalancer.errors import BadRequest, ConfigError

MANAGER_PATH = Path("/opt/smartdc/rebalancer/config.json")
AGENT_PATH = Path("/opt/smartdc/rebalancer-agent/etc/config.toml")

T = TypeVar("T")

#: Keys that templates of the predecessors write, and that mean nothing here.
_SILENT: Mapping[Any, frozenset[str]] = {
    ManagerConfig: frozenset({"direct_db"}),
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
    return read_agent(read_text(path or AGENT_PATH), str(path or AGENT_PATH), os.environ)


def load_manager(path: Path | None) -> ManagerConfig:
    """Read the manager's configuration; the environment overrides the file.

    Raises:
      ConfigError: the file is missing, is not JSON, or a key or value does not fit.
    """
    if path is None and not MANAGER_PATH.exists():
        another = "write it, or name another with -c or CONFIG_FILE"
        raise ConfigError(f"{MANAGER_PATH}: No such file or directory; {another}")
    path = path or MANAGER_PATH
    return read_manager(read_text(path), str(path), os.environ)


def read_agent(text: str, name: str, variables: Mapping[str, str] | None = None) -> AgentConfig:
    """Make an agent's configuration of a file's text and environment variables.

    `name` is the file's, for messages.

    Raises:
      ConfigError: the text is not TOML, or a key or value does not fit.
    """
    try:
        document = parse_toml(text)
    except BadRequest as exc:
        raise ConfigError(f"{name}: {exc}") from exc
    made, wrong = environment.override(document, environment.AGENT, variables or {})
    return _structure(made, AgentConfig, name, wrong)


def read_manager(text: str, name: str, variables: Mapping[str, str] | None = None) -> ManagerConfig:
    """Make the manager's configuration of a file's text and environment variables.

    `name` is the file's, for messages.

    Raises:
      ConfigError: the text is not JSON, or a key or value does not fit.
    """
    try:
        document = parse_json(text)
    except BadRequest as exc:
        raise ConfigError(f"{name}: {exc}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: expected an object")
    # The SAPI template misspells this key, so no predecessor ever honoured it.
    misspelt = document.pop("max_fill_precentage", None)
    if misspelt is not None:
        document.setdefault("max_fill_percentage", misspelt)
    # The deployed template has the shards of bucket objects here, beside limits of no use to us.
    mdapi = document.pop("mdapi", None)
    if isinstance(mdapi, dict) and mdapi.get("shards"):
        document.setdefault("buckets_shards", mdapi["shards"])
    if document.get("buckets_shards"):
        document.setdefault("has_bucket_objects", True)
    made, wrong = environment.override(document, environment.MANAGER, variables or {})
    return _structure(made, ManagerConfig, name, wrong)


def _structure(document: Mapping[str, Any], kind: type[T], name: str, wrong: Sequence[str]) -> T:
    """Make a `kind` of `document`; `wrong` is what is known to be amiss with it.

    Raises:
      ConfigError: all that is wrong, at once.
    """
    faults = [*wrong, *_faults(document, kind)]
    if not faults:
        try:
            return structure(document, kind)
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
        made = structure(value, kind)
    except BadRequest as exc:
        return [_placed(str(exc), where)]
    try:
        if field.validator is not None:
            field.validator(None, field, made)
    except FieldError as exc:
        return [f"{prefix}{exc}"]
    return []


def _placed(text: str, where: str) -> str:
    """Put the place of what is wrong before what is wrong with one value."""
    what, _, inner = text.rpartition(" at $")
    if " at $" in what:  # several members of a list
        return f"{where}: {text.replace(' at $', f' at {where}')}"
    place = f"{where}{inner}" if where else inner.removeprefix(".")
    return f"{place}: {what}" if place else what or text
