"""This module says how far a job is, by what the API shows of it.  Pure."""

import datetime
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from rebalancer.api.jobs import Results, Scan


class Scanned(Protocol):
    """A scan, as the API shows it or as a job's file keeps it."""

    @property
    def round(self) -> int:
        """Return 0 for discovery, and from 1 on for final scans."""

    @property
    def position(self) -> int:
        """Return the last id that was looked at."""

    @property
    def until(self) -> int:
        """Return the last id that there is."""


def settled(results: Results) -> tuple[int, int]:
    """Return how many objects have come to their end, and how many are known."""
    done = results.complete + results.skipped + results.error
    return done, results.total - results.duplicates


def phase(scans: Sequence[Scan]) -> tuple[str, float | None]:
    """Return what a running job is at, and how much of the shards that has looked at, 0 to 1."""
    # Only the last round moves.
    last = max((scan.round for scan in scans), default=0)
    share = scanned_share(scans, last)
    if last:
        return scan_name(last), share
    return (scan_name(0), share) if share < 1 else ("all objects found", None)


def scan_name(number: int) -> str:
    """Return what the scan of a round is called."""
    return f"final scan {number}" if number else "discovery"


def scanned_share(scans: Sequence[Scanned], number: int) -> float:
    """Return how much of the shards has been looked at in a round, from 0 to 1."""
    its = [scan for scan in scans if scan.round == number]
    until = sum(scan.until for scan in its)
    return sum(scan.position for scan in its) / until if until else 0.0


def seconds_between(
    begin: str | None, end: str | None, now: datetime.datetime | None = None
) -> float | None:
    """Return the seconds from one time of the manager to another, or to `now` if that is None."""
    with suppress(ValueError, TypeError):
        until = now if end is None else datetime.datetime.fromisoformat(end)
        since = datetime.datetime.fromisoformat(begin or "")
        return None if until is None else max(0.0, (until - since).total_seconds())
    return None
