"""This module puts objects onto the node's disk: unfinished ones, and durably finished ones.

Blocking; called in threads, in batches.
"""

import base64
import errno
import hashlib
import itertools
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from rebalancer import lock
from rebalancer.agent.transfer.disk.folders import (
    FILE_MODE,
    FOLDER_MODE,
    Folder,
    Tree,
    let_read,
    write_all,
)
from rebalancer.agent.transfer.disk.room import TRIES, Promised
from rebalancer.agent.transfer.disk.sync import MANY, sync_file_system_of, sync_names
from rebalancer.domain import reasons
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.domain.reasons import Reason
from rebalancer.errors import ConfigError
from rebalancer.log import get_logger
from rebalancer.transient import SHORTAGES

_READ_BYTES = 1 << 20
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
#: A name of ours tells its run; one of the deployed agent ends in the id of a thread.
_TEMPORARY = re.compile(rf"{_UUID}\.{_UUID}\.(?:([0-9a-f]{{32}})|[0-9]{{1,20}}|ThreadId\([0-9]+\))")
#: The folder in which a start proves that objects can be put into place.
_PROBE = ".rebalancer-probe"
#: So many accounts are remembered whose folders are on stable storage.
_KNOWN = 10_000
_FULL = (errno.ENOSPC, errno.EDQUOT)

log = get_logger()


class LocalFailure(Exception):
    """The node's disk did not do what was asked.

    `may_pass` tells that this process was short of files or memory, which says nothing of the
    object: it is tried again.
    """

    def __init__(self, reason: Reason, detail: str, *, may_pass: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.may_pass = may_pass


def _failure(exc: OSError) -> LocalFailure:
    full = exc.errno in _FULL
    reason = reasons.DESTINATION_INSUFFICIENT_SPACE if full else reasons.AGENT_FS_ERROR
    return LocalFailure(reason, str(exc), may_pass=exc.errno in SHORTAGES)


def _no_room(detail: str) -> LocalFailure:
    return LocalFailure(reasons.DESTINATION_INSUFFICIENT_SPACE, detail)


def new_run() -> str:
    """Make a name that no other run has."""
    return uuid.uuid4().hex[:16]


# These two are not frozen, which would take four times as long: there is one for each object.
@attrs.define(eq=False)
class Whole:
    """An object lies whole in memory, not verified, with the MD5 (base64) that it is to have."""

    owner: str
    object_id: str
    md5: str
    body: bytes


@attrs.define(eq=False)
class Staged:
    """A verified object lies in `tree` under its temporary name, until it gets its own."""

    tree: Tree
    temporary: str
    owner: str
    object_id: str


@attrs.define(eq=False)
class ObjectFiles:
    """This object does all that touches the folders of a node's objects.

    Mutable state: its folders while they are open; accounts whose folders are on stable storage;
    the number of the next temporary name.
    """

    root: Path
    temp: Path
    reserve_bytes: int
    durable: bool
    #: Called when a temporary file could not be removed.
    on_cleanup_failure: Callable[[], None]
    #: What this run's temporary names have in common; each has a number besides.
    run: str = attrs.field(factory=new_run)
    promised: Promised = attrs.field(factory=Promised.alone)
    _tree: Tree | None = None
    _known: set[str] = attrs.field(factory=set)
    _serial: "itertools.count[int]" = attrs.field(init=False, factory=itertools.count)

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
        """Prove that objects can be put into place, and remove unfinished ones; returns how many.

        Only names that this agent or the deployed one gives are removed, never anything else.

        Raises:
          ConfigError: they cannot be put into place.
        """
        self._prove(self._make())
        return self.clear("")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Claim the folder of temporary files for this process: a second agent would clear it.

        Raises:
          StoreError: another agent has it, and which.
          ConfigError: it cannot be used, or made.
        """
        self._make()
        with lock.claimed(self.temp, "rebalancer-agent"):
            yield

    def _make(self) -> Tree:
        """Open the folders; that of temporary files is made if it is missing, the root never.

        Raises:
          ConfigError: they cannot be used.
        """
        if not self.root.is_dir():
            expected = "expected a folder; the agent never makes it"
            raise ConfigError(f"storage.manta_root {self.root}: {expected}")
        try:
            return Tree.make(self.root, self.temp)
        except OSError as exc:
            expected = "expected a folder below existing ones, without a link below manta_root"
            raise ConfigError(f"storage.temp_dir {self.temp}: {expected}: {exc}") from exc

    def _prove(self, tree: Tree) -> None:
        """Put a file into place as an object would be, and remove it.

        Raises:
          ConfigError: which step failed, and why.
        """
        if tree.root.identity()[0] != tree.temp.identity()[0]:
            expected = f"expected the file system of manta_root {self.root}"
            raise ConfigError(f"storage.temp_dir {self.temp}: {expected}")
        name = f"{uuid.UUID(int=0)}.{uuid.UUID(int=0)}.{self.run}{next(self._serial):016x}"
        step = "create a file in temp_dir"
        try:
            file = tree.temp.create(name)
            try:
                os.write(file, b"probe")
                step = "sync a file"
                os.fsync(file)
            finally:
                os.close(file)
            step = "create a folder in manta_root"
            probe = tree.root.make(_PROBE)
            step = "rename a file from temp_dir into a folder of manta_root"
            tree.temp.rename(name, probe, name)
            step = "sync a folder"
            os.fsync(probe.fd)
            # A run that was killed may have made an account's folder without coming to this.
            os.fsync(tree.root.fd)
            step = "remove a file"
            probe.remove(name)
        except OSError as exc:
            if exc.errno not in _FULL:
                where = f"manta_root {self.root}, temp_dir {self.temp}"
                raise ConfigError(f"storage: cannot {step} ({where}): {exc.strerror}") from exc
            # That passes, and is told of each object until then.
            log.warning("the disk of the objects is full", step=step)
        finally:
            _remove_probes(tree, name)

    def clear(self, run: str) -> int:
        """Remove the temporary files of a run that is over (empty: of all); returns how many.

        Raises:
          OSError: the folder is not there.
        """
        removed, folder = 0, self._folders().temp
        with os.scandir(folder.fd) as entries:
            for entry in entries:
                found = _TEMPORARY.fullmatch(entry.name)
                is_meant = found and (found[1] or "").startswith(run)
                if is_meant and entry.is_file(follow_symlinks=False):
                    removed += self.discard(folder, entry.name)
        self.rest()
        return removed

    # --- what is there -----------------------------------------------------------------------

    def existing(self, names: Iterable[tuple[str, str]]) -> set[str]:
        """Return the object ids among (owner, object id) pairs that have a regular file already."""
        accounts: dict[str, list[str]] = {}
        for owner, object_id in names:
            if is_loose_uuid(owner) and is_loose_uuid(object_id):
                accounts.setdefault(owner, []).append(object_id)
        found = set()
        for owner, objects in accounts.items():
            with suppress(OSError):
                account = self._folders().root.enter(owner)
                found |= {name for name in objects if _is_regular(account, name)}
        return found

    def is_there(self, owner: str, object_id: str, md5: str) -> bool:
        """Tell whether a file with this MD5 (base64) is under an object's name, on stable storage.

        A run that was killed may have given it its name without coming to the sync of its folder.

        Raises:
          LocalFailure: a name is no UUID, so it could be anywhere.
        """
        _check_names(owner, object_id)
        try:
            tree = self._folders()
            account = tree.root.enter(owner)
            file = account.read(object_id)
            try:
                if not _has_digest(file, md5):
                    return False
                let_read(file, FILE_MODE)
                let_read(account.fd, FOLDER_MODE)
                if self.durable:
                    os.fsync(file)
                    os.fsync(account.fd)
                    self._sync_accounts(tree, [owner])
            finally:
                os.close(file)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                log.error("not usable as it is", owner=owner, object=object_id, error=str(exc))
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

    def open(self, owner: str, object_id: str, length: int | None) -> "Download":
        """Begin a download of `length` bytes (None: unknown).

        Raises:
          LocalFailure: no room for it, or the file cannot be made.
        """
        _check_names(owner, object_id)
        temporary, size = self._temporary(owner, object_id), length or 0
        try:
            tree = self._folders()
            if not self.promised.take(size, self.free_bytes, TRIES):
                raise _no_room(f"{size} bytes do not fit")
            try:
                file = tree.temp.create(temporary)
            except BaseException:
                self.promised.add(-size)
                raise
        except OSError as exc:
            raise _failure(exc) from exc
        return Download(self, Staged(tree, temporary, owner, object_id), file, size)

    def _temporary(self, owner: str, object_id: str) -> str:
        """Make a temporary name, for each try a new one: two assignments must not share a file."""
        return f"{owner}.{object_id}.{self.run}{next(self._serial):016x}"

    def put(self, batch: Sequence[Whole | Staged]) -> dict[Whole | Staged, LocalFailure]:
        """Give objects their final names; returns why, for each that could not have it.

        Those in memory are verified and written first.  For all others than the failed ones, the
        file, its name and its folder are on stable storage on return: the contents first, then
        the renames, then the folders.  Of one that failed nothing is left, unless it was staged
        and its failure may pass: that one can be put into place again.
        """
        whole = [item for item in batch if isinstance(item, Whole)]
        staged = [item for item in batch if isinstance(item, Staged)]
        written: dict[Staged, Whole] = {}
        try:
            failed = self._write_all(whole, written)
            unpublished = self._publish_all([*staged, *written])
        except BaseException:
            for item in written:
                self.discard(item.tree.temp, item.temporary)
            raise
        for item, failure in unpublished.items():
            source = written.get(item, item)
            failed[source] = failure
            if source is not item or not failure.may_pass:
                self.discard(item.tree.temp, item.temporary)
        return failed

    def _write_all(
        self, batch: Sequence[Whole], written: dict[Staged, Whole]
    ) -> dict[Whole | Staged, LocalFailure]:
        """Verify objects and write them under temporary names, into `written`; returns failures."""
        failed: dict[Whole | Staged, LocalFailure] = {}
        size = sum(len(one.body) for one in batch)
        try:
            tree = self._folders()
            is_promised = self.promised.take(size, self.free_bytes, TRIES)
        except OSError as exc:
            return dict.fromkeys(batch, _failure(exc))
        try:
            for one in batch:
                try:
                    if not is_promised and len(one.body) > self.free_bytes():
                        raise _no_room(f"{len(one.body)} bytes do not fit")
                    written[self._write(tree, one)] = one
                except OSError as exc:
                    failed[one] = _failure(exc)
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
        _check_names(one.owner, one.object_id)
        check_digest(hashlib.md5(one.body, usedforsecurity=False).digest(), one.md5)
        temporary = self._temporary(one.owner, one.object_id)
        file = tree.temp.create(temporary)
        try:
            try:
                write_all(file, one.body)
            finally:
                os.close(file)
        except BaseException:
            self.discard(tree.temp, temporary)
            raise
        return Staged(tree, temporary, one.owner, one.object_id)

    def _publish_all(self, batch: Iterable[Staged]) -> dict[Staged, LocalFailure]:
        """Rename and sync what lies under temporary names; returns why, for each that failed."""
        failed: dict[Staged, LocalFailure] = {}
        trees: dict[Tree, list[Staged]] = {}
        for item in batch:
            trees.setdefault(item.tree, []).append(item)
        for tree, items in trees.items():
            if tree.is_at(self.root):
                failed |= self._publish(tree, items)
                continue
            self.rest()
            gone = LocalFailure(reasons.AGENT_FS_ERROR, f"{self.root} is not what it was")
            failed |= dict.fromkeys(items, gone)
        return failed

    def _publish(self, tree: Tree, items: Sequence[Staged]) -> dict[Staged, LocalFailure]:
        failed: dict[Staged, LocalFailure] = {}
        if self.durable:
            by_name = {item.temporary: item for item in items}
            for name, exc in sync_names(by_name, tree.temp).items():
                log.error("not synced", file=name, error=str(exc))
                failed[by_name[name]] = _failure(exc)
        accounts: dict[str, list[Staged]] = {}
        for item in items:
            if item not in failed:
                accounts.setdefault(item.owner, []).append(item)
        # Where one sync is enough for all, no folder need be synced, or kept open, by itself.
        at_once = self.durable and len(accounts) >= MANY
        for owner, of_owner in accounts.items():
            failed |= self._rename_all(tree, owner, of_owner, sync=self.durable and not at_once)
        if at_once and not sync_file_system_of(tree.temp.fd):
            at_once = False
            for owner, of_owner in accounts.items():
                failed |= self._sync_account(tree, owner, of_owner)
        if self.durable and accounts:
            try:
                self._sync_accounts(tree, accounts, is_done=at_once)
            except OSError as exc:
                failed |= dict.fromkeys(items, _failed_sync(exc))
        return failed

    def _rename_all(
        self, tree: Tree, owner: str, items: Sequence[Staged], *, sync: bool
    ) -> dict[Staged, LocalFailure]:
        """Rename objects of one account into its folder, which is made if it is missing."""
        failed: dict[Staged, LocalFailure] = {}
        try:
            account = tree.root.make(owner)
            let_read(account.fd, FOLDER_MODE)
        except OSError as exc:
            return dict.fromkeys(items, _failure(exc))
        for item in items:
            try:
                tree.temp.rename(item.temporary, account, item.object_id)
            except OSError as exc:
                failed[item] = _failure(exc)
        if sync and len(failed) < len(items):
            try:
                os.fsync(account.fd)
            except OSError as exc:
                failed = dict.fromkeys(items, _failed_sync(exc)) | failed
        return failed

    def _sync_account(
        self, tree: Tree, owner: str, items: Sequence[Staged]
    ) -> dict[Staged, LocalFailure]:
        try:
            os.fsync(tree.root.enter(owner).fd)
        except OSError as exc:
            return dict.fromkeys(items, _failed_sync(exc))
        return {}

    def _sync_accounts(self, tree: Tree, owners: Iterable[str], *, is_done: bool = False) -> None:
        """Bring the names of accounts' folders to stable storage.

        Also of those that were there: another process may have made one a moment ago.

        Raises:
          OSError: they may not be there.
        """
        unknown = set(owners) - self._known
        if not unknown:
            return
        if not is_done:
            os.fsync(tree.root.fd)
        if len(self._known) + len(unknown) > _KNOWN:
            self._known.clear()
        self._known |= unknown

    def discard(self, folder: Folder, temporary: str) -> bool:
        """Remove a temporary file; tells whether that worked.

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


def _remove_probes(tree: Tree, name: str) -> None:
    """Remove the probe `name`, wherever it is, and what a start that was killed left of its own."""
    with suppress(OSError):
        tree.temp.remove(name)
    with suppress(OSError):
        probe = tree.root.enter(_PROBE)
        for left in os.listdir(probe.fd):
            if _TEMPORARY.fullmatch(left):
                probe.remove(left)
        os.rmdir(_PROBE, dir_fd=tree.root.fd)


def _failed_sync(exc: OSError) -> LocalFailure:
    """Return a failure after the rename: the object cannot be published again, whatever it was."""
    log.error("folder not synced", error=str(exc))
    failure = _failure(exc)
    return LocalFailure(failure.reason, str(failure))


def _check_names(owner: str, object_id: str) -> None:
    """Check that both names are UUIDs.

    Raises:
      LocalFailure: one is none, so it could be anywhere.
    """
    if not (is_loose_uuid(owner) and is_loose_uuid(object_id)):
        raise LocalFailure(reasons.AGENT_FS_ERROR, f"{owner}/{object_id}: expected two UUIDs")


class Download:
    """A download is an object on its way to the disk, hashed as it flows.

    Mutable state: the open file, the digest so far, the bytes so far, those promised beyond
    them, whether it was given up.
    """

    def __init__(self, files: ObjectFiles, staged: Staged, file: int, promised: int) -> None:
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
            # What was promised may have been used up by others who write to this disk.
            if not self._files.promised.take(more, self._files.free_bytes, TRIES):
                raise _no_room(f"no room for the rest behind {self.size} bytes")
        except OSError as exc:
            raise _failure(exc) from exc
        self._promised += more
        self.size += len(data)
        try:
            if self._file is not None:
                write_all(self._file, data)
        except OSError as exc:
            raise _failure(exc) from exc
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
            raise _failure(exc) from exc
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


def check_digest(digest: bytes, md5: str) -> None:
    """Compare an MD5 with the base64 form of the expected one.

    Raises:
      LocalFailure: `MD5Mismatch`.
    """
    actual = base64.b64encode(digest).decode()
    if actual != md5:
        raise LocalFailure(reasons.MD5_MISMATCH, f"MD5 is {actual}, expected {md5}")


def _is_regular(folder: Folder, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode)


def _has_digest(file: int, md5: str) -> bool:
    """Tell whether an open file is a regular one with this MD5 (base64).

    Raises:
      OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return False
    digest = hashlib.md5(usedforsecurity=False)
    while block := os.read(file, _READ_BYTES):
        digest.update(block)
    return base64.b64encode(digest.digest()).decode() == md5
