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
#: Seconds for which the end of a run waits for folders that are just made, and for the removal.
PATIENCE_S = 1.0


@attrs.define(eq=False)
class Scratch:
    """This object makes folders beside a program's files, and has a list of them.

    Nobody waits without end for a file system that hangs.  Mutable state, under a lock: the folders
    that are there, how many are just made, and whether the run is over.
    """

    _folders: list[Path] = attrs.field(factory=list)
    _making: int = 0
    _is_over: bool = False
    _changed: threading.Condition = attrs.field(factory=threading.Condition)

    def folder(self, where: Path) -> Path:
        """Make a folder in `where`, or, if that is missing, in the nearest one above it.

        Raises:
          OSError: it cannot be made.
        """
        above = nearest(where)
        self._remove_stale(above)
        with self._changed:
            if self._is_over:
                raise OSError("the run is over")
            self._making += 1
        made = []
        try:
            made.append(Path(tempfile.mkdtemp(prefix=PREFIX, dir=above)))
        finally:
            with self._changed:
                self._making -= 1
                self._folders += made
                self._changed.notify_all()
        return made[0]

    def _remove_stale(self, above: Path) -> None:
        before = time.time() - STALE_S
        with suppress(OSError):
            for left in above.glob(f"{PREFIX}*"):
                found = left.lstat()
                if found.st_uid == os.geteuid() and found.st_mtime < before:
                    shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Remove all folders; none is made from now on.

        A later run removes what a file system that hangs has kept.
        """
        with self._changed:
            self._is_over = True
            self._changed.wait_for(lambda: not self._making, PATIENCE_S)
        remover = threading.Thread(target=self._remove_all, daemon=True)
        remover.start()
        remover.join(PATIENCE_S)

    def _remove_all(self) -> None:
        for folder in self._folders:
            for _ in range(3):  # a check that was given up on may be making a file in it
                shutil.rmtree(folder, ignore_errors=True)


def nearest(path: Path) -> Path:
    """Return `path` if there is something, else the nearest folder above it."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
