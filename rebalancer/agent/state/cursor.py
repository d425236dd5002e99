"""This module lists the assignments of a folder, each with its place among all."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rebalancer.bodies import whole_number
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.errors import BadRequest


class Cursor(NamedTuple):
    """A cursor is the place of an assignment among all: when it was received, in ns, and its id."""

    received_ns: int
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what `str` made.

        Raises:
          BadRequest: it is something else.
        """
        received, _, name = text.partition(".")
        if not is_loose_uuid(name):
            raise BadRequest(f"before: expected <nanoseconds>.<uuid>, got {text[:80]!r}")
        return cls(whole_number("before", received, 0, (1 << 63) - 1), name)

    def __str__(self) -> str:
        """Return this cursor as the address of the next page has it."""
        return f"{self.received_ns}.{self.id}"


def list_folder(folder: Path) -> Iterator[Cursor]:
    """List the assignments in a folder, in no order."""
    with os.scandir(folder) as found:
        for entry in found:
            if not is_loose_uuid(entry.name):
                continue
            try:
                received_ns = entry.stat(follow_symlinks=False).st_mtime_ns
            except FileNotFoundError:
                continue  # it has just moved or gone
            except OSError:
                received_ns = 0  # a fault of this one must not hide the others
            yield Cursor(received_ns, entry.name)
