"""This module decides by stored scans whether a job has looked at all that it must.

A process remembers only its own scans, but an earlier process may have begun others.
"""

from collections.abc import Collection, Iterable
from typing import Protocol

import attrs

from rebalancer.domain.tiers import shard_name

#: The scan of a shard goes through its columns in order, and this one is always the last.
LAST_COLUMN = "none"
#: Stands for the shard where the position of a listing is kept.
NO_SHARD = 0


@attrs.frozen
class Reached:
    """A scan of a part has come to `position`, and the part ends at `until`.

    `cursor` says where to go on in a part whose records have no numbers: there, `position` counts
    the records looked at, and `until` is an estimate until the end is reached.
    """

    position: int
    until: int
    cursor: str | None = None

    @property
    def is_end(self) -> bool:
        """Tell whether all of the part was looked at."""
        return self.position >= self.until


class Scan(Protocol):
    """A scan as far as it has come: all ids of `column` up to `position`, of `until`."""

    @property
    def round(self) -> int:
        """Return the round, which is 0 for discovery, and counts final scans from 1."""

    @property
    def shard(self) -> int:
        """Return the shard, which is `NO_SHARD` for a listing."""

    @property
    def column(self) -> str:
        """Return the column of ids that is scanned, or the part of a listing that is read."""

    @property
    def position(self) -> int:
        """Return the position, the last id that was looked at."""

    @property
    def until(self) -> int:
        """Return the end, the last id that there is to look at."""


@attrs.frozen(order=True)
class NeededScan:
    """A needed scan is one that a job must see to its end, of a shard or of a listing's part.

    The end of `column` is the end of the scan.
    """

    round: int
    shard: int
    column: str = LAST_COLUMN


@attrs.frozen
class UnfinishedScan:
    """A scan did not come to its end, for which its job fails; `why` is for a person.

    The reading of a listing is the scan of `NO_SHARD` in round 0.
    """

    round: int
    shard: int
    why: str

    def __str__(self) -> str:
        return f"{scan_name(self.round, self.shard)} did not finish: {self.why}"


def scan_name(scan_round: int, shard: int) -> str:
    """Return what a person calls the scan of a shard in a round, or the reading of a listing."""
    if shard == NO_SHARD:
        return "discovery"
    return f"{'the final scan of' if scan_round else 'discovery on'} {shard_name(shard)}"


def needed(
    shards: Collection[int], rounds: Iterable[int], listed: Iterable[str] = ()
) -> list[NeededScan]:
    """Return what a job must look at: each shard in each begun round, and its whole listing."""
    scans = [NeededScan(number, shard) for number in rounds for shard in shards]
    return [*scans, *(NeededScan(0, NO_SHARD, name) for name in listed)]


def unfinished(wanted: Iterable[NeededScan], scans: Iterable[Scan]) -> list[NeededScan]:
    """Return the `wanted` scans that have not come to their end, in the order of the rounds.

    A wanted scan without any stored one has not begun.
    """
    ended, open_ = set[NeededScan](), set[tuple[int, int]]()
    for scan in scans:
        if scan.position >= scan.until:
            ended.add(NeededScan(scan.round, scan.shard, scan.column))
        elif scan.shard != NO_SHARD:
            open_.add((scan.round, scan.shard))
    return sorted(one for one in set(wanted) if one not in ended or (one.round, one.shard) in open_)
