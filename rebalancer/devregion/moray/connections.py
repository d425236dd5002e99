"""sqlite connections that answer as PostgreSQL would: one that writes, several that read."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rebalancer.devregion.moray.errors import MorayError
from rebalancer.sqlite import connect


class Reader:
    """A connection for one statement at a time.

    Mutable state: until when the statement may take for its first row, and the error that one of
    our functions raised, of which sqlite tells only that there was one.
    """

    def __init__(self, path: Path) -> None:
        self.db = prepare(connect(path, mode="ro"))
        self.db.create_function("pg_div", 3, self._divide, deterministic=True)
        self.db.create_function("pg_sleep", 1, self._sleep)
        self.db.create_function("repeat", 2, lambda text, times: text * times)
        self._failure: MorayError | None = None
        self._deadline = float("inf")

    def limit(self, timeout_s: float | None) -> None:
        """Stop the next statement if it has no row after so many seconds; None ends that."""
        self._deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        self.db.set_progress_handler(None if timeout_s is None else self._is_late, 10_000)

    @property
    def is_late(self) -> bool:
        """Whether the statement's time is over."""
        return time.monotonic() >= self._deadline

    def take_failure(self) -> MorayError | None:
        """What one of our functions failed with in the last statement, if it was that."""
        failure, self._failure = self._failure, None
        return failure

    def _is_late(self) -> bool:
        return self.is_late

    def _sleep(self, seconds: float) -> str:
        time.sleep(max(0.0, min(seconds, self._deadline - time.monotonic())))
        if self.is_late:
            raise TimeoutError
        return ""

    def _divide(self, left: Any, right: Any, is_whole: int) -> Any:
        if left is None or right is None:
            return None
        if right == 0:
            self._failure = MorayError("error", "division by zero")
            raise ZeroDivisionError
        # PostgreSQL cuts towards zero.
        return int(left / right) if is_whole else left / right


def prepare(db: sqlite3.Connection) -> sqlite3.Connection:
    """Make a connection compare text as PostgreSQL does."""
    db.execute("PRAGMA case_sensitive_like=ON")
    db.create_function("lower", 1, _lower, deterministic=True)
    return db


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text


class Readers:
    """The connections that read, made as they are needed.  Mutable state: those that are free."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free: list[Reader] = []

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """A connection that sees all that was committed; of any thread."""
        reader = self._free.pop() if self._free else Reader(self._path)
        try:
            yield reader
        finally:
            self._free.append(reader)

    def close(self) -> None:
        """Close them; none may be in use."""
        while self._free:
            self._free.pop().db.close()
