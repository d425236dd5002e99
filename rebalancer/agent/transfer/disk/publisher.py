"""This module gives staged objects their final names, and makes those durable."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import attrs

from rebalancer.agent.transfer.disk.folders import Tree
from rebalancer.agent.transfer.disk.objects import LocalFailure, Staged, failure_of
from rebalancer.agent.transfer.disk.sync import MANY, sync_file_system_of, sync_names
from rebalancer.domain import reasons
from rebalancer.domain.copies import file_of, folder_of
from rebalancer.log import get_logger

#: Folders that are remembered, whose names are on stable storage.
_KNOWN = 10_000

log = get_logger()


@attrs.define(eq=False)
class Publisher:
    """This object renames staged objects, and syncs them where they are to be durable.

    The contents are synced first, then the renames are made, then the folders are synced.

    Mutable state: folders whose names are on stable storage, by their paths below the root.
    """

    root: Path
    durable: bool
    #: Called when the root leads elsewhere than before: it was unmounted, or replaced.
    on_gone: Callable[[], None]
    _known: set[str] = attrs.field(factory=set)

    def publish(self, batch: Iterable[Staged]) -> dict[Staged, LocalFailure]:
        """Rename and sync what lies under temporary names; return why, for each that failed."""
        failed: dict[Staged, LocalFailure] = {}
        trees: dict[Tree, list[Staged]] = {}
        for item in batch:
            trees.setdefault(item.tree, []).append(item)
        for tree, items in trees.items():
            if tree.is_at(self.root):
                failed |= self._publish(tree, items)
                continue
            self.on_gone()
            gone = LocalFailure(reasons.AGENT_FS_ERROR, f"{self.root} is not what it was")
            failed |= dict.fromkeys(items, gone)
        return failed

    def _publish(self, tree: Tree, items: Sequence[Staged]) -> dict[Staged, LocalFailure]:
        failed: dict[Staged, LocalFailure] = {}
        if self.durable:
            by_name = {item.temporary: item for item in items}
            for name, exc in sync_names(by_name, tree.temp).items():
                log.error("temporary file not synced", file=name, error=str(exc))
                failed[by_name[name]] = failure_of(exc)
        folders: dict[str, list[Staged]] = {}
        for item in items:
            if item not in failed:
                folders.setdefault(folder_of(item.owner, item.name), []).append(item)
        # Where one sync is enough for all, no folder need be synced, or kept open, by itself.
        at_once = self.durable and len(folders) >= MANY
        for path, within in folders.items():
            failed |= self._rename_all(tree, path, within, sync=self.durable and not at_once)
        if at_once and not sync_file_system_of(tree.temp.fd):
            at_once = False
            for path, within in folders.items():
                failed |= self._sync_folder(tree, path, within)
        if self.durable and folders:
            try:
                self.sync_folders(tree, folders, is_done=at_once)
            except OSError as exc:
                failed |= dict.fromkeys(items, _failed_sync(exc))
        return failed

    def _rename_all(
        self, tree: Tree, path: str, items: Sequence[Staged], *, sync: bool
    ) -> dict[Staged, LocalFailure]:
        """Rename objects into their folder, which is made if it is missing."""
        failed: dict[Staged, LocalFailure] = {}
        try:
            folder = tree.root.make_path(path)
        except OSError as exc:
            return dict.fromkeys(items, failure_of(exc))
        for item in items:
            try:
                tree.temp.rename(item.temporary, folder, file_of(item.name))
            except OSError as exc:
                failed[item] = failure_of(exc)
        if sync and len(failed) < len(items):
            try:
                folder.sync()
            except OSError as exc:
                failed = dict.fromkeys(items, _failed_sync(exc)) | failed
        return failed

    def _sync_folder(
        self, tree: Tree, path: str, items: Sequence[Staged]
    ) -> dict[Staged, LocalFailure]:
        try:
            tree.root.enter_path(path).sync()
        except OSError as exc:
            return dict.fromkeys(items, _failed_sync(exc))
        return {}

    def sync_folders(self, tree: Tree, paths: Iterable[str], *, is_done: bool = False) -> None:
        """Bring the names of folders, and of all that lead to them, to stable storage.

        Also of those that were there: another process may have made one a moment ago.

        Raises:
          OSError: they may not be there.
        """
        unknown = {step for path in set(paths) - self._known for step in _steps(path)} - self._known
        if not unknown:
            return
        if not is_done:
            for parent in {step.rpartition("/")[0] for step in unknown}:
                (tree.root.enter_path(parent) if parent else tree.root).sync()
        if len(self._known) + len(unknown) > _KNOWN:
            self._known.clear()
        self._known |= unknown


def _steps(path: str) -> Iterator[str]:
    """Yield the path of each folder on the way to one: `a`, then `a/b`, then `a/b/c`."""
    return accumulate(path.split("/"), "{}/{}".format)


def _failed_sync(exc: OSError) -> LocalFailure:
    """Return a failure after the rename: the object cannot be published again, whatever it was."""
    log.error("folder not synced", error=str(exc))
    failure = failure_of(exc)
    return LocalFailure(failure.reason, str(failure))
