"""Objects on this node's disk: unfinished ones, finished ones, and the durable step between.

Blocking; called in threads, in batches.
"""

import base64
import errno
import hashlib
import itertools
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from rebalancer.agent.sync import sync_path, sync_paths
from rebalancer.domain import reasons
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.domain.reasons import Reason
from rebalancer.log import get_logger

FILE_MODE, FOLDER_MODE = 0o644, 0o755
_READ_BYTES = 1 << 20
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_TEMPORARY = re.compile(rf"{_UUID}\.{_UUID}\.([0-9a-f]{{32}})")

log = get_logger()


class LocalFailure(Exception):
    """This node's disk did not do what was asked."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _failure(exc: OSError) -> LocalFailure:
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = reasons.DESTINATION_INSUFFICIENT_SPACE if full else reasons.AGENT_FS_ERROR
    return LocalFailure(reason, str(exc))


def new_run() -> str:
    """A name that no other run has."""
    return uuid.uuid4().hex[:16]


@attrs.frozen(eq=False)
class Staged:
    """A verified object under its temporary name, and where it belongs.

    Paths are texts here: putting a pathlib one together costs as much as writing a small file.
    """

    temporary: str
    folder: str
    final: str


@attrs.frozen
class ObjectFiles:
    """The object root of this node."""

    root: Path
    temp: Path
    reserve_bytes: int
    durable: bool
    #: Called when a temporary file could not be removed.
    on_cleanup_failure: Callable[[], None]
    #: What this run's temporary names have in common; each has a number besides.
    run: str = attrs.field(factory=new_run)
    _serial: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)

    def _place(self, owner: str, object_id: str) -> Staged:
        """Where an object belongs, and a new temporary name for it.

        A new one for each try: two assignments with one object must not share a file.

        Raises:
          LocalFailure: a name is no UUID, so it could be anywhere.
        """
        if not (is_loose_uuid(owner) and is_loose_uuid(object_id)):
            raise LocalFailure(reasons.AGENT_FS_ERROR, f"{owner}/{object_id}: expected two UUIDs")
        folder = f"{self.root}/{owner}"
        temporary = f"{self.temp}/{owner}.{object_id}.{self.run}{next(self._serial):016x}"
        return Staged(temporary, folder, f"{folder}/{object_id}")

    def prepare(self) -> int:
        """Make the folders and remove what earlier runs left unfinished; how many files.

        Only names that this agent gives are removed, never anything else.
        """
        self.temp.mkdir(parents=True, exist_ok=True)
        if self.durable:
            # A run that was killed may have made an account's folder without coming to this.
            sync_path(self.root)
        return self.clear("")

    def clear(self, run: str) -> int:
        """Remove the temporary files of a run that is over (empty: of all); how many."""
        removed = 0
        with os.scandir(self.temp) as entries:
            for entry in entries:
                found = _TEMPORARY.fullmatch(entry.name)
                if found and found[1].startswith(run) and entry.is_file(follow_symlinks=False):
                    removed += self.discard(entry.path)
        return removed

    def existing(self, names: Iterable[tuple[str, str]]) -> set[str]:
        """The object ids among (owner, object id) pairs that have a file already."""
        return {name for owner, name in names if os.path.exists(f"{self.root}/{owner}/{name}")}

    def is_there(self, owner: str, object_id: str, md5: str) -> bool:
        """Whether a file with this MD5 (base64) lies under an object's name, on stable storage.

        A run that was killed may have given it its name without coming to the sync of its folder.

        Raises:
          LocalFailure: a name is no UUID, so it could be anywhere.
        """
        place = self._place(owner, object_id)
        if not has_digest(Path(place.final), md5):
            return False
        return not self._sync_all({place.final: [place], place.folder: [place]})

    def free_bytes(self) -> int:
        """Bytes that may be used, the reserve not counted.

        Raises:
          OSError: the folder is not there.
        """
        found = os.statvfs(self.temp)
        return max(0, found.f_bavail * found.f_frsize - self.reserve_bytes)

    def open(self, owner: str, object_id: str, length: int | None) -> "Download":
        """Begin a download of `length` bytes (None: unknown).

        Raises:
          LocalFailure: no room for it, or the file cannot be made.
        """
        place = self._place(owner, object_id)
        try:
            if length is not None and length > self.free_bytes():
                detail = f"{length} bytes do not fit"
                raise LocalFailure(reasons.DESTINATION_INSUFFICIENT_SPACE, detail)
            # A missing folder is not made again: its file system may just not be mounted.
            file = os.open(place.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        except OSError as exc:
            raise _failure(exc) from exc
        return Download(self, place, file)

    def stage(self, owner: str, object_id: str, body: bytes | memoryview, md5: str) -> Staged:
        """Verify a whole object and write it under a temporary name.

        Raises:
          LocalFailure: `MD5Mismatch`, no room, or the disk failed; nothing is left of it.
        """
        check_digest(hashlib.md5(body, usedforsecurity=False).digest(), md5)
        download = self.open(owner, object_id, len(body))
        try:
            download.append(body)
            return download.close()
        except BaseException:
            download.discard()
            raise

    def publish(self, batch: Sequence[Staged]) -> dict[Staged, LocalFailure]:
        """Give verified objects their final names; why for those that could not have it.

        For all others, the file, its name and its folder are on stable storage on return: the
        contents first, then the renames, then the folders.
        """
        failed = self._sync_all({item.temporary: [item] for item in batch})
        folders: dict[str, list[Staged]] = {}
        for item in batch:
            if item in failed:
                continue
            try:
                self._rename(item)
            except OSError as exc:
                failed[item] = _failure(exc)
            else:
                folders.setdefault(item.folder, []).append(item)
        for item in failed:
            self.discard(item.temporary)
        return failed | self._sync_all(folders)

    def _rename(self, item: Staged) -> None:
        try:
            os.rename(item.temporary, item.final)
        except FileNotFoundError:
            # The account's first object here; another one may make its folder just now.
            with suppress(FileExistsError):
                os.mkdir(item.folder, FOLDER_MODE)
            if self.durable:
                sync_path(self.root)
            os.rename(item.temporary, item.final)

    def _sync_all(self, paths: Mapping[str, Sequence[Staged]]) -> dict[Staged, LocalFailure]:
        """Bring files or folders to stable storage; the items of those that failed."""
        if not self.durable:
            return {}
        failed = {}
        for path, exc in sync_paths(paths, self.temp).items():
            log.error("not synced", path=path, error=str(exc))
            failed.update(dict.fromkeys(paths[path], _failure(exc)))
        return failed

    def discard(self, temporary: str) -> bool:
        """Remove a temporary file; whether that worked.  One that stays goes at the next start."""
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        except OSError as exc:
            _, object_id, _ = os.path.basename(temporary).split(".")
            log.error(
                "temporary file not removed", object=object_id, path=temporary, error=str(exc)
            )
            self.on_cleanup_failure()
            return False
        return True


class Download:
    """An object on its way to the disk, hashed as it flows.

    Mutable state: the open file, the digest so far, the bytes so far, whether it was given up.
    """

    def __init__(self, files: ObjectFiles, staged: Staged, file: int) -> None:
        self._files = files
        self._staged = staged
        self._file: int | None = file
        self._digest = hashlib.md5(usedforsecurity=False)
        self._is_discarded = False
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data` and take it into the digest.

        Raises:
          LocalFailure: the disk does not take it.
        """
        self._digest.update(data)
        self.append(data)

    def append(self, data: bytes | memoryview) -> None:
        """Append `data`, which is verified already.

        Raises:
          LocalFailure: the disk does not take it.
        """
        self.size += len(data)
        view = memoryview(data)
        try:
            while view and self._file is not None:
                view = view[os.write(self._file, view) :]
        except OSError as exc:
            raise _failure(exc) from exc

    def finish(self, md5: str) -> Staged:
        """All bytes are written: the object, verified.

        Raises:
          LocalFailure: `MD5Mismatch`, and nothing is left of it; or the disk failed.
        """
        staged = self.close()
        try:
            check_digest(self._digest.digest(), md5)
        except LocalFailure:
            self.discard()
            raise
        return staged

    def close(self) -> Staged:
        """All bytes are written.

        Raises:
          LocalFailure: the disk failed.
        """
        try:
            self._close()
        except OSError as exc:
            raise _failure(exc) from exc
        return self._staged

    def discard(self) -> None:
        """Leave nothing behind; once, so that a file that stays counts as one."""
        if self._is_discarded:
            return
        self._is_discarded = True
        try:
            self._close()
        except OSError as exc:
            log.error("temporary file not closed", error=str(exc))
        self._files.discard(self._staged.temporary)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


def check_digest(digest: bytes, md5: str) -> None:
    """Compare an MD5 with the base64 form of the expected one.

    Raises:
      LocalFailure: `MD5Mismatch`.
    """
    actual = base64.b64encode(digest).decode()
    if actual != md5:
        raise LocalFailure(reasons.MD5_MISMATCH, f"MD5 is {actual}, expected {md5}")


def has_digest(path: Path, md5: str) -> bool:
    """Whether the file at `path` has this MD5 (base64)."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError:
        return False
    return base64.b64encode(digest.digest()).decode() == md5
