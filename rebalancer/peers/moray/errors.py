"""What Moray's errors mean to a client: which may pass with time, which are an answer."""

from collections.abc import Mapping
from typing import Any

from rebalancer.errors import PeerError


class MorayError(PeerError):
    """Moray answered with an error.

    `name` is Moray's, `context` what it adds.  `retryable` cannot be told from the name alone:
    a raw PostgreSQL error is called `error`, whatever it is.
    """

    def __init__(self, name: str, message: str, context: Mapping[str, Any]) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.context = context
        self.retryable = _may_pass(name, message)

    @property
    def is_conflict(self) -> bool:
        """Whether a condition on an etag did not hold.

        Two first puts of one key at once give the loser a unique violation of `_key` instead.
        """
        return self.name in ("EtagConflictError", "UniqueAttributeError")

    @property
    def is_missing(self) -> bool:
        """Whether there is no such record."""
        return self.name == "ObjectNotFoundError"

    @property
    def conflicting_key(self) -> str | None:
        """The key of the record whose etag did not match; None if Moray did not say."""
        key = self.context.get("key")
        return key if isinstance(key, str) else None


_PASSING = {
    "QueryTimeoutError",
    "NoDatabasePeersError",
    "ConnectTimeoutError",
    "OverloadedError",
}
_PASSING_TEXTS = (
    "deadlock detected",
    "terminating connection",
    "connect ECONNREFUSED",
    "Postgres client failed",
)


def _may_pass(name: str, message: str) -> bool:
    if name in _PASSING:
        return True
    return name in ("error", "Error", "VError") and any(t in message for t in _PASSING_TEXTS)


def read_error(data: Mapping[str, Any]) -> MorayError:
    """The error of an ERROR message's payload."""
    context = data.get("context")
    return MorayError(data["name"], data["message"], context if isinstance(context, dict) else {})
