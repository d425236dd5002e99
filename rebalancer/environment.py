"""This module has the environment variables that override a configuration file's keys.

`CONFIG_FILE`, which names the file, belongs to the command line.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from rebalancer.peers.names import split_port


@attrs.frozen
class _Variable:
    """A variable whose text is read into values for keys, each a path of one or two names."""

    keys: tuple[tuple[str, ...], ...]
    read: Callable[[str], tuple[Any, ...]]
    expected: str


def _text(text: str) -> tuple[str]:
    return (text,)


def _number(text: str) -> tuple[int]:
    return (int(text),)


def _flag(text: str) -> tuple[bool]:
    # As the rewrite read it: whatever else is written there means no.
    return (text.strip().lower() in ("true", "1", "yes"),)


def _names(text: str) -> tuple[list[str]]:
    return ([name.strip() for name in text.split(",") if name.strip()],)


def _address(text: str) -> tuple[str, int]:
    where = split_port(text, 0)
    if not where.port:
        raise ValueError(text)
    return where.host, where.port


def _string(*keys: str) -> _Variable:
    return _Variable((keys,), _text, "text")


def _whole(*keys: str) -> _Variable:
    return _Variable((keys,), _number, "a whole number")


MANAGER: Mapping[str, _Variable] = {
    "STORINFO_URL": _string("storinfo_url"),
    "HTTP_TIMEOUT_SECS": _whole("http_timeout_s"),
    "SNAPLINK_CLEANUP_REQUIRED": _Variable((("snaplink_cleanup_required",),), _flag, "yes or no"),
    "BLACKLIST_DATACENTERS": _Variable((("blacklist_datacenters",),), _names, "names"),
    "MORAY_MIN_SHARD": _whole("min_shard"),
    "MORAY_MAX_SHARD": _whole("max_shard"),
    "METRICS_ADDRESS": _Variable((("metrics_host",), ("metrics_port",)), _address, "address:port"),
}
AGENT: Mapping[str, _Variable] = {
    "MANTA_ROOT": _string("storage", "manta_root"),
    "DATA_DIR": _string("storage", "state_dir"),
    # The rewrite had one pool for all assignments; ours is one an assignment.
    "CONCURRENT_DOWNLOADS": _whole("server", "workers_per_assignment"),
    # Theirs bounded a whole download, which no size fits; ours bounds the silence within it.
    "DOWNLOAD_TIMEOUT_SECS": _whole("source", "idle_timeout"),
    "METRICS_ADDRESS": _Variable(
        (("metrics", "host"), ("metrics", "port")), _address, "address:port"
    ),
}


def override(
    document: Mapping[str, Any], variables: Mapping[str, _Variable], environment: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return `document` with the values of `environment` for its keys; empty texts count as none.

    The list has a fault for each variable that cannot be used: its value, and what was expected.
    """
    made, wrong = dict(document), list[str]()
    for name, variable in variables.items():
        text = environment.get(name, "")
        if not text:
            continue
        try:
            values = variable.read(text)
        except ValueError:
            expected = f"expected {variable.expected}, got {text!r}"
            wrong.append(f"environment variable {name}: {expected}")
            continue
        for path, value in zip(variable.keys, values, strict=True):
            _put(made, path, value)
    return made, wrong


def _put(document: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    *tables, last = keys
    for table in tables:
        inner = document.get(table)
        document[table] = document = dict(inner) if isinstance(inner, dict) else {}
    document[last] = value
