"""Whether a job has looked at all that it must, as derived from how far its stored scans came.

What a process remembers of its scans says nothing of those that an earlier process began.
"""

from collections.abc import Collection, Iterable
from typing import Protocol

import attrs

#: The scan of a shard goes through its columns in order, and this one is always the last.
LAST_COLUMN = "none"
#: Stands for the shard where the position of a listing is kept.
NO_SHARD = 0


class Scan(Protocol):
    """How far one scan has come: all ids of `column` up to `position`, of `until`."""

    @property
    def round(self) -> int:
        """0 is discovery, the others are final scans."""

    @property
    def shard(self) -> int:
        """The shard, or `NO_SHARD`."""

    @property
    def column(self) -> str:
        """The column, or the part of a listing."""

    @property
    def position(self) -> int:
        """The last id that was looked at."""

    @property
    def until(self) -> int:
        """The last id that there is to look at."""


@attrs.frozen(order=True)
class Part:
    """A shard in one round, or a part of a job's listing, which a job must see to its end.

    `column` is the one whose end is the end of all.
    """

    round: int
    shard: int
    column: str = LAST_COLUMN


def needed(
    shards: Collection[int], rounds: Iterable[int], listed: Iterable[str] = ()
) -> list[Part]:
    """What a job must look at: every shard in every round that began, and its whole listing."""
    scans = [Part(number, shard) for number in rounds for shard in shards]
    return [*scans, *(Part(0, NO_SHARD, name) for name in listed)]


def unfinished(parts: Iterable[Part], scans: Iterable[Scan]) -> list[Part]:
    """Those of `parts` that were not looked at to their end, in the order of the rounds.

    A part without any stored scan has not been begun.
    """
    ended, open_ = set[Part](), set[tuple[int, int]]()
    for scan in scans:
        if scan.position >= scan.until:
            ended.add(Part(scan.round, scan.shard, scan.column))
        elif scan.shard != NO_SHARD:
            open_.add((scan.round, scan.shard))
    return sorted(
        part for part in set(parts) if part not in ended or (part.round, part.shard) in open_
    )
