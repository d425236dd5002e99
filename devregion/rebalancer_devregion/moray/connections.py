"""This module makes sqlite connections that answer as PostgreSQL would."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rebalancer.sqlite import closed_on_failure, connect
from rebalancer_devregion.moray.errors import MorayError


class Watch:
    """A watch is what our functions and the deadline of one connection share.

    It does not know the connection, which knows it: no collector sees such a cycle, so that nobody
    would notice a connection that is never closed.

    Mutable state: until when the statement may take for its first row, and the error that one of
    the functions raised, of which sqlite tells only that there was one.
    """

    def __init__(self) -> None:
        self.deadline = float("inf")
        self.failure: MorayError | None = None

    def is_late(self) -> bool:
        """Tell whether the statement's time is over."""
        return time.monotonic() >= self.deadline

    def sleep(self, seconds: float) -> str:
        """Sleep as PostgreSQL's pg_sleep does."""
        time.sleep(max(0.0, min(seconds, self.deadline - time.monotonic())))
        if self.is_late():
            raise TimeoutError
        return ""

    def divide(self, left: Any, right: Any, is_whole: int) -> Any:
        """Divide as PostgreSQL does, which cuts towards zero and fails on zero."""
        if left is None or right is None:
            return None
        if right == 0:
            self.failure = MorayError("error", "division by zero")
            raise ZeroDivisionError
        return int(left / right) if is_whole else left / right


class Reader:
    """A reader is a connection for one statement at a time."""

    def __init__(self, path: Path) -> None:
        # Opened for writing: whichever connection is closed last must be able to empty the log.
        with closed_on_failure(connect(path, mode="rw")) as db:
            prepare(db)
            db.execute("PRAGMA query_only=ON")
            self._watch = Watch()
            db.create_function("pg_div", 3, self._watch.divide, deterministic=True)
            db.create_function("pg_sleep", 1, self._watch.sleep)
            db.create_function("repeat", 2, lambda text, times: text * times)
        self.db = db

    def limit(self, timeout_s: float | None) -> None:
        """Stop the next statement if it has no row after so many seconds; None ends that."""
        self._watch.deadline = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        handler = None if timeout_s is None else self._watch.is_late
        self.db.set_progress_handler(handler, 10_000)

    @property
    def is_late(self) -> bool:
        """Tell whether the statement's time is over."""
        return self._watch.is_late()

    def take_failure(self) -> MorayError | None:
        """Return the failure of one of our functions in the last statement, if there was one."""
        failure, self._watch.failure = self._watch.failure, None
        return failure


def prepare(db: sqlite3.Connection) -> None:
    """Make a connection compare text as PostgreSQL does."""
    db.execute("PRAGMA case_sensitive_like=ON")
    db.create_function("lower", 1, _lower, deterministic=True)


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text


class Readers:
    """Readers are connections made as they are needed.  Mutable state: those that are free."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free: list[Reader] = []

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Lend a connection that sees all that was committed; of any thread."""
        reader = self._free.pop() if self._free else Reader(self._path)
        try:
            yield reader
        finally:
            self._free.append(reader)

    def close(self) -> None:
        """Close them; none may be in use."""
        while self._free:
            self._free.pop().db.close()
