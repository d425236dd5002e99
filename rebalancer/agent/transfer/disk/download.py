"""This module takes a large object to the disk while it comes, and verifies it."""

import hashlib
import os
from typing import Protocol

from rebalancer.agent.transfer.disk.folders import Folder, write_all
from rebalancer.agent.transfer.disk.objects import (
    LocalFailure,
    Staged,
    check_digest,
    failure_of,
    no_room,
)
from rebalancer.agent.transfer.disk.room import TRIES, Promised
from rebalancer.log import get_logger

log = get_logger()


class Disk(Protocol):
    """The folder that a download is written to, with the space that it has."""

    promised: Promised

    def free_bytes(self) -> int:
        """Return how many bytes may be used, the reserve not counted."""

    def discard(self, folder: Folder, temporary: str) -> bool:
        """Remove a temporary file; return whether that worked."""


class Download:
    """A download is an object on its way to the disk, hashed as it flows.

    Mutable state: the open file, the digest so far, the bytes so far, those promised beyond
    them, whether it was given up.
    """

    def __init__(self, files: Disk, staged: Staged, file: int, promised: int) -> None:
        self._files = files
        self._staged = staged
        self._file: int | None = file
        self._digest = hashlib.md5(usedforsecurity=False)
        self._is_discarded = False
        self._promised = promised
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append `data` and take it into the digest, if there is still room beyond the reserve.

        Raises:
          LocalFailure: there is none, or the disk does not take it.
        """
        self._digest.update(data)
        more = max(0, len(data) - self._promised)
        try:
            # Others who write to this disk may have used up what was promised.
            if not self._files.promised.take(more, self._files.free_bytes, TRIES):
                raise no_room(f"no room for the rest behind {self.size} bytes")
        except OSError as exc:
            raise failure_of(exc) from exc
        self._promised += more
        self.size += len(data)
        try:
            if self._file is not None:
                write_all(self._file, data)
        except OSError as exc:
            raise failure_of(exc) from exc
        self._keep_promise(len(data))

    def _keep_promise(self, size: int) -> None:
        kept = min(size, self._promised)
        self._promised -= kept
        self._files.promised.add(-kept)

    def finish(self, md5: str) -> Staged:
        """Close the file, all of which is written, and verify the object.

        Raises:
          LocalFailure: `MD5Mismatch`, and nothing is left of it; or the disk failed.
        """
        try:
            self._close()
        except OSError as exc:
            raise failure_of(exc) from exc
        try:
            check_digest(self._digest.digest(), md5)
        except LocalFailure:
            self.discard()
            raise
        return self._staged

    def discard(self) -> None:
        """Remove the file; only the first call does, so that a file that stays is counted once."""
        if self._is_discarded:
            return
        self._is_discarded = True
        try:
            self._close()
        except OSError as exc:
            log.error("temporary file not closed", error=str(exc))
        self._files.discard(self._staged.tree.temp, self._staged.temporary)

    def _close(self) -> None:
        self._keep_promise(self._promised)
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)
