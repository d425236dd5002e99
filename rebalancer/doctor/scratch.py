"""This module lends folders to the checks of a disk, and removes them however the run ends."""

import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import attrs

#: How the names of the folders begin.
PREFIX = ".rebalancer-doctor-"
#: A folder that is older than this, in seconds, is one that a killed run has left.
STALE_S = 60.0


@attrs.define(eq=False)
class Scratch:
    """This object makes folders beside a program's files, and has a list of them.

    Mutable state, under a lock: the folders that are there, and whether the run is over.
    """

    _folders: list[Path] = attrs.field(factory=list)
    _is_over: bool = False
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def folder(self, where: Path) -> Path:
        """Make a folder in `where`, or, if that is missing, in the nearest one above it.

        Raises:
          OSError: it cannot be made.
        """
        above = nearest(where)
        self._remove_stale(above)
        with self._lock:
            if self._is_over:
                raise OSError("the run is over")
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
            self._folders.append(made)
        return made

    def _remove_stale(self, above: Path) -> None:
        before = time.time() - STALE_S
        with suppress(OSError):
            for left in above.glob(f"{PREFIX}*"):
                found = left.lstat()
                if found.st_uid == os.geteuid() and found.st_mtime < before:
                    shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Remove all folders; none is made from now on."""
        with self._lock:
            self._is_over = True
            for folder in self._folders:
                for _ in range(3):  # a check that was given up on may be making a file in it
                    shutil.rmtree(folder, ignore_errors=True)
            self._folders.clear()


def nearest(path: Path) -> Path:
    """Return `path` if there is something, else the nearest folder above it."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
