"""This module puts objects onto the node's disk: unfinished ones, and durably finished ones.

Blocking; called in threads, in batches.
"""

import base64
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ELOOP, ENOENT, ENOTDIR
from pathlib import Path

import attrs

from rebalancer import lock
from rebalancer.agent.transfer.disk.download import Download
from rebalancer.agent.transfer.disk.folders import (
    FILE_MODE,
    FOLDER_MODE,
    Folder,
    Tree,
    let_read,
    write_all,
)
from rebalancer.agent.transfer.disk.names import TEMPORARY, new_run, temporary_name
from rebalancer.agent.transfer.disk.objects import (
    LocalFailure,
    Staged,
    Whole,
    check_digest,
    check_names,
    failure_of,
    no_room,
)
from rebalancer.agent.transfer.disk.probe import make_tree, prove
from rebalancer.agent.transfer.disk.publisher import Publisher
from rebalancer.agent.transfer.disk.room import TRIES, Promised
from rebalancer.domain.copies import file_of, folder_of, is_copy, parts_of
from rebalancer.log import get_logger

_READ_BYTES = 1 << 20
#: The account and object of the probe.
_NOBODY = "00000000-0000-0000-0000-000000000000"

log = get_logger()


@attrs.define(eq=False)
class ObjectFiles:
    """This object does all that touches the folders of a node's objects.

    Mutable state: its folders while they are open, and the number of the next temporary name.
    """

    root: Path
    temp: Path
    reserve_bytes: int
    durable: bool
    #: Called when a temporary file could not be removed.
    on_cleanup_failure: Callable[[], None]
    #: The part that this run's temporary names share; each has a number besides.
    run: str = attrs.field(factory=new_run)
    promised: Promised = attrs.field(factory=Promised.alone)
    _tree: Tree | None = None
    _serial: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)
    _publisher: Publisher = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin with the folders closed."""
        self._publisher = Publisher(self.root, self.durable, self.rest)

    def _folders(self) -> Tree:
        """Open the root and the folder of temporary files, unless they are open.

        Raises:
          OSError: one of them is not there.
        """
        tree = self._tree
        if tree is None:
            tree = self._tree = Tree.open(self.root, self.temp)
        return tree

    def rest(self) -> None:
        """Close the folders: nothing is under way, and somebody may want to unmount them."""
        self._tree = None

    # --- the start ---------------------------------------------------------------------------

    def prepare(self) -> int:
        """Prove that objects can be put into place, and remove unfinished ones; return how many.

        Only names that this agent or the deployed one gives are removed, never anything else.

        Raises:
          ConfigError: they cannot be put into place.
        """
        prove(self.root, self.temp, self._temporary(_NOBODY, _NOBODY))
        return self.clear("")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Claim the folder of temporary files for this process: a second agent would clear it.

        Raises:
          StoreError: another agent has it, and which.
          ConfigError: it cannot be used, or made.
        """
        make_tree(self.root, self.temp)
        with lock.claimed(self.temp, "rebalancer-agent"):
            yield

    def clear(self, run: str) -> int:
        """Remove the temporary files of a run that is over (empty: of all); return how many.

        Raises:
          OSError: the folder is not there.
        """
        removed, folder = 0, self._folders().temp
        with os.scandir(folder.fd) as entries:
            for entry in entries:
                found = TEMPORARY.fullmatch(entry.name)
                is_meant = found and (found[1] or "").startswith(run)
                if is_meant and entry.is_file(follow_symlinks=False):
                    removed += self.discard(folder, entry.name)
        self.rest()
        return removed

    # --- what is there -----------------------------------------------------------------------

    def existing(self, names: Iterable[tuple[str, str]]) -> set[str]:
        """Return the names among (owner, name) pairs whose copies have a regular file already."""
        folders: dict[str, list[str]] = {}
        for owner, name in names:
            if is_copy(owner, name):
                folders.setdefault(folder_of(owner, name), []).append(name)
        found = set()
        for path, within in folders.items():
            with suppress(OSError):
                folder = self._folders().root.enter_path(path)
                found |= {name for name in within if _is_regular(folder, file_of(name))}
        return found

    def is_there(self, owner: str, name: str, md5: str) -> bool:
        """Return whether a durable file with this MD5 (base64) is where a copy of `name` lies.

        A run that was killed may have given it its name without coming to the sync of its folder.

        Raises:
          LocalFailure: this is the name of no copy, so the path could lead anywhere.
        """
        check_names(owner, name)
        path = folder_of(owner, name)
        try:
            tree = self._folders()
            folder = tree.root.enter_path(path)
            file = folder.read(file_of(name))
            try:
                if not _has_digest(file, md5):
                    return False
                let_read(file, FILE_MODE)
                let_read(folder.fd, FOLDER_MODE)
                if self.durable:
                    os.fsync(file)
                    folder.sync()
                    self._publisher.sync_folders(tree, [path])
            finally:
                os.close(file)
        except OSError as exc:
            if exc.errno not in (ENOENT, ELOOP, ENOTDIR):
                error = str(exc)
                log.error("copy on disk not usable", owner=owner, object=name, error=error)
            return False
        return True

    # --- room --------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        """Return how many bytes may be used, the reserve not counted.

        Raises:
          OSError: the folder is not there.
        """
        tree = self._tree
        return self._free(self.temp if tree is None else tree.temp.fd)

    def _free(self, where: Path | int) -> int:
        found = os.statvfs(where)
        return max(0, found.f_bavail * found.f_frsize - self.reserve_bytes)

    # --- new ones ----------------------------------------------------------------------------

    def open(self, owner: str, name: str, length: int | None) -> Download:
        """Begin a download of `length` bytes (None: unknown).

        Raises:
          LocalFailure: no room for it, or the file cannot be made.
        """
        check_names(owner, name)
        temporary, size = self._temporary(owner, name), length or 0
        try:
            tree = self._folders()
            if not self.promised.take(size, self.free_bytes, TRIES):
                raise no_room(f"{size} bytes do not fit")
            try:
                file = tree.temp.create(temporary)
            except BaseException:
                self.promised.add(-size)
                raise
        except OSError as exc:
            raise failure_of(exc) from exc
        return Download(self, Staged(tree, temporary, owner, name), file, size)

    def _temporary(self, owner: str, name: str) -> str:
        return temporary_name(owner, parts_of(name)[0], self.run, next(self._serial))

    def put(self, batch: Sequence[Whole | Staged]) -> dict[Whole | Staged, LocalFailure]:
        """Give objects their final names; return why, for each that could not have it.

        Those in memory are verified and written first.  For all others than the failed ones, the
        file, its name and its folder are on stable storage on return: the contents first, then
        the renames, then the folders.  Nothing is left of an object that failed, unless it came
        staged and files or memory were short: then it can be put into place again.
        """
        whole = [item for item in batch if isinstance(item, Whole)]
        staged = [item for item in batch if isinstance(item, Staged)]
        written: dict[Staged, Whole] = {}
        try:
            failed = self._write_all(whole, written)
            unpublished = self._publisher.publish([*staged, *written])
        except BaseException:
            for item in written:
                self.discard(item.tree.temp, item.temporary)
            raise
        for item, failure in unpublished.items():
            source = written.get(item, item)
            failed[source] = failure
            if source is not item or not failure.is_short:
                self.discard(item.tree.temp, item.temporary)
        return failed

    def _write_all(
        self, batch: Sequence[Whole], written: dict[Staged, Whole]
    ) -> dict[Whole | Staged, LocalFailure]:
        """Verify objects and write them under temporary names, into `written`; return failures."""
        failed: dict[Whole | Staged, LocalFailure] = {}
        size = sum(len(one.body) for one in batch)
        try:
            tree = self._folders()
            is_promised = self.promised.take(size, self.free_bytes, TRIES)
        except OSError as exc:
            return dict.fromkeys(batch, failure_of(exc))
        try:
            for one in batch:
                try:
                    if not is_promised and len(one.body) > self.free_bytes():
                        raise no_room(f"{len(one.body)} bytes do not fit")
                    written[self._write(tree, one)] = one
                except OSError as exc:
                    failed[one] = failure_of(exc)
                except LocalFailure as exc:
                    failed[one] = exc
        finally:
            if is_promised:
                self.promised.add(-size)
        return failed

    def _write(self, tree: Tree, one: Whole) -> Staged:
        """Verify an object and write it under a temporary name; nothing is left if that fails.

        Raises:
          LocalFailure: `MD5Mismatch`, or the names are no UUIDs.
          OSError: the disk did not take it.
        """
        check_names(one.owner, one.name)
        check_digest(hashlib.md5(one.body, usedforsecurity=False).digest(), one.md5)
        temporary = self._temporary(one.owner, one.name)
        file = tree.temp.create(temporary)
        try:
            try:
                write_all(file, one.body)
            finally:
                os.close(file)
        except BaseException:
            self.discard(tree.temp, temporary)
            raise
        return Staged(tree, temporary, one.owner, one.name)

    def discard(self, folder: Folder, temporary: str) -> bool:
        """Remove a temporary file; return whether that worked.

        A file that stays is removed at the next start.
        """
        try:
            folder.remove(temporary)
        except FileNotFoundError:
            pass
        except OSError as exc:
            _, object_id, _ = temporary.split(".")
            path = f"{folder.path}/{temporary}"
            log.error("temporary file not removed", object=object_id, path=path, error=str(exc))
            self.on_cleanup_failure()
            return False
        return True


def _is_regular(folder: Folder, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode)


def _has_digest(file: int, md5: str) -> bool:
    """Return whether an open file is a regular one with this MD5 (base64).

    Raises:
      OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return False
    digest = hashlib.md5(usedforsecurity=False)
    while block := os.read(file, _READ_BYTES):
        digest.update(block)
    return base64.b64encode(digest.digest()).decode() == md5
