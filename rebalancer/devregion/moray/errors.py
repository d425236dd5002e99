"""What a shard answers when it cannot do what was asked, under the real names."""

from collections.abc import Mapping
from typing import Any


class MorayError(Exception):
    """An ERROR message: name, message, context and info."""

    def __init__(
        self,
        name: str,
        message: str,
        context: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{name}: {message}")
        self.payload = {
            "name": name,
            "message": message,
            "context": dict(context or {}),
            "info": dict(info or {}),
        }


def conflict(bucket: str, key: str, expected: str | None, actual: str | None) -> MorayError:
    """The record does not have the etag that a write is conditional on."""
    want, have = expected or "null", actual or "null"
    return MorayError(
        "EtagConflictError",
        f'{bucket}::{key} was expected to have etag "{want}", but was "{have}"',
        {"bucket": bucket, "key": key, "expected": want, "actual": have},
    )


def not_found(bucket: str, key: str) -> MorayError:
    """There is no such record."""
    return MorayError("ObjectNotFoundError", f"{bucket}::{key} does not exist")
