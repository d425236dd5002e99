"""This module counts the space that transfers under way still need, in all processes.

What the disk says is free is promised to each of several objects that begin together, unless what
was promised before is counted.  Each process has a number of its own in memory that all of them
share, and nobody waits for anybody.
"""

import mmap
import os
import random
import struct
import tempfile
import threading
import time
from collections.abc import Callable

#: As many fetchers as a configuration may have.
SLOTS = 64
_ALL = struct.Struct(f"={SLOTS}Q")
_ONE = struct.Struct("=Q")
#: Two that begin at the same moment may each see the other's promise: they look again, after so
#: many seconds at most.
TRIES, LONGEST_PAUSE_S = 4, 0.005


class Promised:
    """A count of the bytes promised to a process's transfers, and to those of all processes.

    Mutable state: its own number, also in memory that is shared.
    """

    def __init__(self, memory: mmap.mmap, slot: int) -> None:
        self._memory = memory
        self._slot = slot
        self._own = 0
        self._lock = threading.Lock()

    @classmethod
    def alone(cls) -> "Promised":
        """Make a count that no other process shares."""
        return cls(mmap.mmap(-1, _ALL.size), 0)

    @classmethod
    def shared(cls, file: int, slot: int) -> "Promised":
        """Make the count of process `slot` in a file of `new_file`; it starts at 0."""
        made = cls(mmap.mmap(file, _ALL.size), slot)
        made.add(0)
        return made

    def add(self, size: int) -> None:
        """Promise `size` bytes more; a negative number takes a promise back."""
        with self._lock:
            self._own += size
            _ONE.pack_into(self._memory, self._slot * _ONE.size, self._own)

    def total(self) -> int:
        """Return how many bytes are promised to the transfers of all processes."""
        return sum(_ALL.unpack_from(self._memory))

    def take(self, size: int, free_bytes: Callable[[], int], tries: int = 1) -> bool:
        """Promise `size` bytes if the disk has room for all promises; return whether it has.

        Raises:
          OSError: nobody knows how much is free.
        """
        for left in reversed(range(tries)):
            self.add(size)
            try:
                if self.total() <= free_bytes():
                    return True
            except BaseException:
                self.add(-size)
                raise
            self.add(-size)
            if left and self.total():
                time.sleep(random.uniform(0, LONGEST_PAUSE_S))
        return False


def new_file() -> int:
    """Make a nameless file for the counts of several processes; the caller closes it.

    Raises:
      OSError: it cannot be made.
    """
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), _ALL.size)
        return os.dup(file.fileno())
