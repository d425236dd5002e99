"""This module has the values that pass between the manager and a shard of either metadata tier."""

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from rebalancer.errors import PeerError
from rebalancer.jsontext import JsonText


@attrs.frozen
class Record:
    """A record: where it is, its value, and the version a put can be conditional on."""

    key: str
    value: dict[str, Any]
    etag: str


# Not frozen, because that takes three times as long to make, and there is one for each object.
@attrs.define
class Put:
    """A conditional write of a batch.  The value may be JSON text already."""

    bucket: str
    key: str
    value: Mapping[str, Any] | JsonText
    etag: str


class Kind(enum.Enum):
    """A kind of error says what the client does about it; the text is for docs/moray-errors.md."""

    PERMANENT = "gives up at once"
    MISSING = "reads the record again: it may be deleted"
    CONFLICT = "reads the record again, and writes it with its new etag if it is still to move"
    TRANSIENT = "asks again after a pause"
    OVERLOADED = "asks again after a pause, with fewer updaters"


class MetadataError(PeerError):
    """A shard answered with an error, and nothing that was asked has been done.

    `name` is the server's.
    """

    def __init__(
        self, name: str, message: str, kind: Kind, conflicting_key: str | None = None
    ) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.kind = kind
        self.is_transient = kind in (Kind.TRANSIENT, Kind.OVERLOADED)
        #: The key of the record whose etag did not match; None if the server did not say.
        self.conflicting_key = conflicting_key

    @property
    def is_conflict(self) -> bool:
        """Tell whether a condition on an etag did not hold."""
        return self.kind is Kind.CONFLICT

    @property
    def is_missing(self) -> bool:
        """Tell whether there is no such record."""
        return self.kind is Kind.MISSING
