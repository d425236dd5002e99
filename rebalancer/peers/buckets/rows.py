"""This module reads rows of the buckets tier, and says what may be written to one.  Pure."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from rebalancer import jsontext
from rebalancer.domain.bucket_objects import BucketKey, read_etag, read_key
from rebalancer.errors import PeerMalformed, PeerRefused
from rebalancer.jsontext import JsonText
from rebalancer.peers.metadata import Kind, MetadataError


def key_of_row(text: str) -> BucketKey:
    """Return the key of a row that was read before.

    Raises:
      PeerRefused: `text` is no key.
    """
    try:
        return read_key(text)
    except ValueError as exc:
        raise PeerRefused(str(exc)) from exc


def version_of_row(key: str, etag: str | None) -> tuple[str, list[str]]:
    """Return the id and the sharks with which a row was read, on which its update depends.

    Raises:
      PeerRefused: `etag` is no version.
    """
    try:
        return read_etag(etag or "")
    except ValueError as exc:
        raise PeerRefused(f"{key}: {exc}") from exc


def conflict(key: str) -> MetadataError:
    """Return the error of an update whose row is not as it was read, or gone."""
    return MetadataError(
        "Conflict", f"{key} is not as it was read", Kind.CONFLICT, conflicting_key=key
    )


def sharks_to_write(value: Mapping[str, Any] | JsonText, old: Collection[str]) -> list[str]:
    """Return the sharks of a row that is to be written in place of `old`.

    Raises:
      PeerRefused: they are no list of as many sharks.
    """
    record = jsontext.loads(value) if isinstance(value, JsonText) else value
    sharks = record.get("sharks")
    if (
        isinstance(sharks, list)
        and len(sharks) == len(old) > 0
        and all(isinstance(one, str) and ":" in one for one in sharks)
    ):
        return sharks
    raise PeerRefused(f"a row is not given the sharks {sharks!r} in place of {list(old)!r}")


def read_row(text: str) -> dict[str, Any]:
    """Return the columns of a row's text; numbers that Python cannot hold stay texts.

    Raises:
      PeerMalformed: it is no row.
    """
    with suppress(ValueError, RecursionError):  # few rows need the slower way below
        row = jsontext.loads(text)
        if isinstance(row, dict):
            return row
    try:
        members = jsontext.members(text)
        row = {name: jsontext.loads(members[name]) for name in members if name != "properties"}
    except RecursionError:
        return _without_properties(text)
    except ValueError as exc:
        raise PeerMalformed(f"a row that is none: {exc}") from exc
    return {**row, "properties": members.get("properties")}


def _without_properties(text: str) -> dict[str, Any]:
    """Return the columns of a row whose properties are nested too deeply to be looked through.

    They are the last column, and PostgreSQL spells that nowhere else so: a quote within a text has
    a backslash, and a header has a blank behind its colon.

    Raises:
      PeerMalformed: it is no row.
    """
    others, name, properties = text.partition(',"properties":')
    with suppress(ValueError, RecursionError):
        row = jsontext.loads(others + "}")
        if name and isinstance(row, dict):
            return {**row, "properties": properties.removesuffix("}")}
    raise PeerMalformed("a row that is none: it is nested too deeply")
