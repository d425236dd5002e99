"""A listing names objects: in the file of an earlier job, or in one of an operator.

A listing only names records, which are read anew because they may have changed since.  Blocking.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from rebalancer.domain.bucket_objects import read_key
from rebalancer.domain.tiers import Tier, number_of, tier_of_key
from rebalancer.errors import JobFailed
from rebalancer.manager.store import views
from rebalancer.manager.store.records import Listed

#: Records named at once.  All of them go into one statement to each shard.
PAGE = 200


class Listing(Protocol):
    """Records in an order that stays the same, in one or more parts."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names of the parts."""

    def until(self, part: str, /) -> int:
        """Return the last position in `part`.

        Raises:
          JobFailed, StoreError: it cannot be read.
        """

    def page(self, part: str, after: int, /) -> tuple[int, list[Listed]]:
        """Return the records behind position `after`, and the position of the last of them.

        Raises:
          JobFailed, StoreError: it cannot be read.
        """


@attrs.frozen
class EarlierJob:
    """The records that an earlier job skipped, could not do, or met when it had no round left."""

    path: Path
    parts: tuple[str, ...] = views.RETRYABLE

    def until(self, part: str) -> int:
        """Return the end of a part, as in `Listing`; positions are rows."""
        return views.last_retryable(self.path, part)

    def page(self, part: str, after: int) -> tuple[int, list[Listed]]:
        """Return what `Listing` promises."""
        return views.retryable(self.path, part, after, PAGE)


@attrs.frozen
class Joined:
    """Several listings read one after the other; each part has its listing, and its name there."""

    by_part: Mapping[str, tuple[Listing, str]]

    @property
    def parts(self) -> tuple[str, ...]:
        """Return what `Listing` promises."""
        return tuple(self.by_part)

    def until(self, part: str) -> int:
        """Return what `Listing` promises."""
        listing, name = self.by_part[part]
        return listing.until(name)

    def page(self, part: str, after: int) -> tuple[int, list[Listed]]:
        """Return what `Listing` promises."""
        listing, name = self.by_part[part]
        return listing.page(name, after)


@attrs.frozen
class ObjectsFile:
    """A file with one JSON object a line, which has `key`, perhaps `shard` and `tier`.

    A key says of which tier it is; all else is ignored.
    """

    path: Path
    parts: tuple[str, ...] = ("file",)

    def until(self, _part: str) -> int:
        """Return the end of a part, as in `Listing`; positions are bytes."""
        try:
            return self.path.stat().st_size
        except OSError as exc:
            raise JobFailed(f"{self.path}: {exc.strerror}") from exc

    def page(self, _part: str, after: int) -> tuple[int, list[Listed]]:
        """Return what `Listing` promises."""
        listed = list[Listed]()
        try:
            with self.path.open("rb") as file:
                file.seek(after)
                while len(listed) < PAGE and (line := file.readline()):
                    if line.strip():
                        listed.append(self._read(line, file.tell() - len(line)))
                return file.tell(), listed
        except OSError as exc:
            raise JobFailed(f"{self.path}: {exc.strerror}") from exc

    def _read(self, line: bytes, offset: int) -> Listed:
        try:
            found: Any = json.loads(line)
            if (listed := _read_listed(found)) is not None:
                return listed
        except (ValueError, RecursionError) as exc:
            raise self._unusable(offset, str(exc)) from exc
        expected = (
            'expected an object with a string "key", perhaps the number of its "shard", and the'
            ' "tier" that the key is of'
        )
        raise self._unusable(offset, expected)

    def _unusable(self, offset: int, why: str) -> JobFailed:
        """Return the error of the line at `offset`, by its number, for which editors have a key."""
        number, left = 1, offset
        with self.path.open("rb") as file:
            while left and (piece := file.read(min(left, 1 << 20))):
                number += piece.count(b"\n")
                left -= len(piece)
        return JobFailed(f"{self.path}: line {number:,}: {why}")


def _read_listed(found: Any) -> Listed | None:
    """Return the record that a line names, None if there is something else in the line.

    Raises:
      ValueError: the key cannot be one of its tier.
    """
    match found:
        case {"key": str(key)} if found.get("tier") in (None, tier := tier_of_key(key)):
            if tier is Tier.BUCKETS:
                read_key(key)
            match found.get("shard"):
                case None:
                    return Listed(None, key)
                case int(shard) if shard is not True:
                    return Listed(number_of(tier, shard), key)
    return None


def check(listing: Listing) -> None:
    """Read a whole listing.

    Raises:
      JobFailed, StoreError: it cannot be read.
    """
    for part in listing.parts:
        position, until = 0, listing.until(part)
        while position < until:
            position, _ = listing.page(part, position)
