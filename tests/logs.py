"""What is logged, for tests to look at."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rebalancer import log


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Collect all records meanwhile, of every level, instead of writing them."""
    records = list[dict[str, Any]]()

    def take(level: str, message: str, fields: dict[str, Any]) -> None:
        records.append({**fields, "event": message, "log_level": level})

    before = log.replace(log.Output(0, take))
    try:
        yield records
    finally:
        log.replace(before)
