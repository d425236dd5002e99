"""This module sorts Moray's errors by what a client has to do about them."""

from collections.abc import Mapping
from typing import Any

from rebalancer.peers.metadata import Kind, MetadataError

_KINDS: Mapping[str, Kind] = {
    "EtagConflictError": Kind.CONFLICT,
    # Two first puts of one key at once give the loser a unique violation of `_key`.
    "UniqueAttributeError": Kind.CONFLICT,
    "ObjectNotFoundError": Kind.MISSING,
    "NoDatabasePeersError": Kind.OVERLOADED,
    "OverloadedError": Kind.OVERLOADED,
    "QueryTimeoutError": Kind.OVERLOADED,
    "ConnectTimeoutError": Kind.OVERLOADED,
}
#: Names that say nothing: the message decides.
_NAMELESS = ("error", "Error", "VError")
#: Parts of the messages, in lower case, of what passes by itself or once a person has seen to it.
_TRANSIENT_TEXTS = (
    # of Moray, its PostgreSQL client, and the network between them
    "econnrefused",
    "econnreset",
    "econnaborted",
    "etimedout",
    "ehostunreach",
    "enetunreach",
    "epipe",
    "emfile",
    "enfile",
    "enotfound",
    "eai_again",
    "socket hang up",
    "postgres client failed",
    "connection terminated",
    # until Moray's five minutes old picture of a bucket has expired
    'invalid "_id" type',
    # of PostgreSQL, about others that use the same rows
    "deadlock detected",
    "could not serialize access",
    "could not obtain lock",
    "tuple concurrently updated",
    "canceling statement",
    # of one that starts, stops, or has just become a standby
    "terminating connection",
    "server closed the connection",
    "the database system is",
    "is not currently accepting connections",
    "read-only transaction",
    "during recovery",
    # of one whose machine is full: of data, or of what else it can run out of
    "no space left on device",
    "disk quota exceeded",
    "input/output error",
    "too many open files",
    "could not fork",
    "is not accepting commands",
)
#: The same of a database that has too much to do.
_OVERLOADED_TEXTS = (
    "too many clients",
    "too many connections for",
    "remaining connection slots",
    "out of memory",
    "out of shared memory",
    "cannot allocate memory",
    "could not resize shared memory",
)


def classify(name: str, message: str) -> Kind:
    """Return what an error asks for; an unknown one is permanent, for asking again may do harm."""
    if name in _NAMELESS:
        said = message.lower()
        if any(text in said for text in _OVERLOADED_TEXTS):
            return Kind.OVERLOADED
        if any(text in said for text in _TRANSIENT_TEXTS):
            return Kind.TRANSIENT
    return _KINDS.get(name, Kind.PERMANENT)


class MorayError(MetadataError):
    """Moray answered with an error.  `name` is Moray's, `context` what it adds."""

    def __init__(
        self, name: str, message: str, context: Mapping[str, Any], kind: Kind | None = None
    ) -> None:
        key = context.get("key")
        conflicting_key = key if isinstance(key, str) else None
        super().__init__(name, message, kind or classify(name, message), conflicting_key)
        self.context = context


def read_error(data: Mapping[str, Any]) -> MorayError:
    """Return the error of an ERROR message's payload.

    Of several errors joined under one name, what the gravest asks for holds.
    """
    name, message = data["name"], data["message"]
    kinds = [
        classify(cause["name"], cause["message"])
        for cause in data.get("ase_errors") or ()
        if isinstance(cause, dict)
        and isinstance(cause.get("name"), str)
        and isinstance(cause.get("message"), str)
    ]
    gravest = min(kinds, key=list(Kind).index, default=None)
    context = data.get("context")
    return MorayError(name, message, context if isinstance(context, dict) else {}, gravest)
