"""This module keeps assignments on disk, a sqlite file each, as the deployed agent left them.

    <state>/scheduled/<uuid>     not finished; replaced as tasks finish
    <state>/completed/<uuid>     finished
    <state>/saving/<uuid>        being written
    <state>/quarantine/<uuid>    not readable as an assignment

A file is always written whole, into `saving`, synced, and moved into its place by rename, which
is atomic: there is no half of one anywhere, none needs a journal, and the syncs of several are
one.  From `scheduled` to `completed` they are moved likewise, so an assignment is always in
exactly one of the two.  Blocking; called in threads.
"""

import heapq
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import attrs

from rebalancer.agent.state.cursor import Cursor, list_folder
from rebalancer.agent.state.posted import Posted
from rebalancer.agent.state.reading import COMPANIONS, is_any, read
from rebalancer.agent.state.statefile import StoredAssignment
from rebalancer.agent.state.statefile import image as file_image
from rebalancer.agent.transfer.disk.folders import write_all
from rebalancer.agent.transfer.disk.sync import sync_path, sync_paths
from rebalancer.errors import Conflict, Forbidden, NotFound, StoreError
from rebalancer.log import get_logger

#: More assignments than this hardly move between folders while these are listed.
MOVING = 100

log = get_logger()


@attrs.frozen
class AssignmentStore:
    """This object reads and writes the state folder of an agent."""

    folder: Path
    #: Assignments to work on; those that are done; those being written; files that are none.
    scheduled: Path = attrs.field(init=False)
    completed: Path = attrs.field(init=False)
    saving: Path = attrs.field(init=False)
    quarantine: Path = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Name the folders."""
        for name in ("scheduled", "completed", "saving", "quarantine"):
            object.__setattr__(self, name, self.folder / name)

    def prepare(self) -> None:
        """Make the folders, and forget what was never promised.

        Raises:
          StoreError: the folder cannot be used.
        """
        try:
            for folder in (self.scheduled, self.completed, self.saving, self.quarantine):
                folder.mkdir(parents=True, exist_ok=True)
            # Else a loss of power could take the folder of an assignment that a request has stored.
            sync_path(self.folder)
            with suppress(PermissionError):  # then it is another's, who made our folder long ago
                sync_path(self.folder.parent)
            left_over = list(self.saving.iterdir())
        except OSError as exc:
            raise StoreError(f"{self.folder}: {exc}") from exc
        for left in left_over:
            try:
                left.unlink()
            except OSError as exc:  # in nobody's way: what is written next replaces it
                log.warning("unfinished file of state not removed", path=str(left), error=str(exc))

    def save(self, posted: Posted) -> StoredAssignment:
        """Store a new assignment: on return it survives a power failure.

        Raises:
          Conflict: an assignment of this id is known.
          StoreError: the disk does not take it, and nothing is left of it.
        """
        stored = StoredAssignment(posted.key, posted.rows, posted.dialect, time.time_ns())
        if self.find(stored.id) is not None:
            raise Conflict(f"assignment {posted.id} is known already")
        is_saved = False
        try:
            errors = self._replace([stored])
            self._sync(self.scheduled, errors, [] if errors[0] else [0])
            (error,) = errors
            is_saved = error is None
        finally:
            if not is_saved:
                with suppress(OSError):
                    (self.scheduled / stored.id).unlink(missing_ok=True)
        if error is not None:
            raise StoreError(f"assignment {posted.id} cannot be saved: {error}") from error
        return stored

    def write(self, assignments: Sequence[StoredAssignment]) -> list[StoreError | None]:
        """Write how the tasks of unfinished assignments stand: durable on return.

        Those that are finished now are moved to the completed ones.  An assignment that the disk
        does not take is unchanged, and has its error in the answer.
        """
        errors = self._replace(assignments)
        moved = []
        for index, assignment in enumerate(assignments):
            if errors[index] is None and assignment.is_finished:
                try:
                    _put(f"{self.scheduled}/{assignment.id}", f"{self.completed}/{assignment.id}")
                    moved.append(index)
                except OSError as exc:
                    errors[index] = exc
        # A name must be in its new folder before it goes from the old one.
        self._sync(self.completed, errors, moved)
        self._sync(self.scheduled, errors, [i for i, error in enumerate(errors) if error is None])
        return [
            None
            if error is None
            else StoreError(f"progress of {assignment.id} cannot be saved: {error}")
            for assignment, error in zip(assignments, errors, strict=True)
        ]

    def _sync(self, folder: Path, errors: list[Exception | None], concerned: Sequence[int]) -> None:
        """Make names in a folder durable, or note why not for those `concerned`."""
        if concerned:
            try:
                sync_path(folder)
            except OSError as exc:
                for index in concerned:
                    errors[index] = exc

    def _replace(self, assignments: Sequence[StoredAssignment]) -> list[Exception | None]:
        """Write files whole and put them among the scheduled ones; says why not, one by one.

        Their content is durable, their names are not yet.
        """
        errors: dict[str, Exception] = {}
        written: dict[str, str] = {}
        in_place: set[str] = set()
        try:
            for assignment in assignments:
                path = f"{self.saving}/{assignment.id}"
                try:
                    _write_file(path, assignment)
                    written[path] = assignment.id
                except Exception as exc:  # whatever it is of one, the others are written
                    errors[assignment.id] = exc
            for path, failure in sync_paths(written, self.saving).items():
                errors[written.pop(path)] = failure
            for path, name in list(written.items()):
                try:
                    _put(path, f"{self.scheduled}/{name}")
                    in_place.add(name)
                except OSError as exc:
                    errors[written.pop(path)] = exc
        finally:
            for name in {assignment.id for assignment in assignments} - in_place:
                with suppress(OSError):
                    os.unlink(f"{self.saving}/{name}")
        return [errors.get(assignment.id) for assignment in assignments]

    def find(self, assignment_id: str) -> Path | None:
        """Return the file of an assignment, or None if it is unknown.

        Raises:
          StoreError: that cannot be seen at the moment.
        """
        # In the direction in which files move, or one could slip by between the two looks.
        name = assignment_id.lower()
        for folder in (self.scheduled, self.completed):
            if _is_there(f"{folder}/{name}"):
                return folder / name
        return None

    def load(self, assignment_id: str) -> tuple[StoredAssignment, bool]:
        """Return an assignment, and whether it is among the completed.

        Raises:
          NotFound: there is none of this id.
          BrokenFile: its file is none.
          NewerFile: its file is of a newer agent.
          StoreError: its file cannot be read at the moment.
        """
        # It may move from scheduled to completed between two looks, but not back.
        for _ in range(2):
            if (path := self.find(assignment_id)) is None:
                raise NotFound(f"there is no assignment {assignment_id}")
            try:
                return read(path), path.parent == self.completed
            except StoreError:
                if _is_there(path):
                    raise
        raise NotFound(f"there is no assignment {assignment_id}")

    def unfinished(self, limit: int, running: Collection[str] = ()) -> tuple[list[str], int]:
        """Return the first unfinished assignments but for `running`, and how many there are.

        They are in the order they were received: that of the files' modification time, which
        `write` keeps, so that no file need be opened for it.

        Raises:
          OSError: the folder cannot be read at the moment.
        """
        in_all = 0

        def entries() -> Iterator[Cursor]:
            nonlocal in_all
            for cursor in list_folder(self.scheduled):
                if cursor.id not in running:
                    yield cursor
                    in_all += 1

        first = heapq.nsmallest(limit, entries())
        return [cursor.id for cursor in first], in_all

    def newest(self, limit: int, before: Cursor | None = None) -> list[Cursor]:
        """Return the assignments received last, or last before `before`; newest first.

        Raises:
          StoreError: a folder cannot be read at the moment.
        """
        entries = (c for folder in (self.scheduled, self.completed) for c in list_folder(folder))
        known = (c for c in entries if before is None or c < before)
        # An assignment that moves from folder to folder may be met twice.
        try:
            found = heapq.nlargest(limit + MOVING, known)
        except OSError as exc:
            raise StoreError(f"{self.folder}: {exc.strerror or exc}") from exc
        return list(dict.fromkeys(found))[:limit]

    def delete(self, assignment_id: str) -> None:
        """Forget a completed assignment.

        Raises:
          NotFound: there is none; Forbidden: it is not completed.
          StoreError: its file cannot be removed at the moment.
        """
        path = self.find(assignment_id)
        if path is None:
            raise NotFound(f"there is no assignment {assignment_id}")
        if path.parent != self.completed:
            raise Forbidden(f"assignment {assignment_id} is not completed")
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise StoreError(f"assignment {assignment_id} cannot be deleted: {exc}") from exc

    def set_aside(self, assignment_id: str) -> bool:
        """Move a file that is no assignment out of the way, beside any earlier one of its name.

        False if there is none any more.

        Raises:
          StoreError: it cannot be moved at the moment.
        """
        source = self.find(assignment_id)
        if source is None:
            return False
        try:
            target = next(
                path for path in _names(self.quarantine / source.name) if not is_any(path)
            )
            for suffix in ("", *COMPANIONS):
                with suppress(FileNotFoundError):
                    os.rename(f"{source}{suffix}", f"{target}{suffix}")
        except OSError as exc:
            raise StoreError(f"{source} cannot be put into quarantine: {exc}") from exc
        return True


def _write_file(path: str, assignment: StoredAssignment) -> None:
    image = file_image(assignment)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(file, image)
        os.utime(file, ns=(assignment.received_ns, assignment.received_ns))
    finally:
        os.close(file)


def _put(source: str, target: str) -> None:
    """Move a whole file into its place.

    What a killed program has left beside a torn file of that name goes first: a journal would be
    played back into the whole one.
    """
    for suffix in COMPANIONS:
        with suppress(FileNotFoundError):
            os.unlink(f"{target}{suffix}")
    os.rename(source, target)


def _names(path: Path) -> Iterator[Path]:
    """Yield `path`, then the same name with 1, 2 and so on behind it."""
    yield path
    for number in count(1):
        yield path.with_name(f"{path.name}.{number}")


def _is_there(path: str | Path) -> bool:
    try:
        return is_any(path)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror or exc}") from exc
