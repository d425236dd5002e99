"""This module tries the folders of a program: it makes, renames, syncs and removes files there."""

import errno
import os
import sqlite3
import time
from contextlib import closing, suppress
from itertools import chain, islice
from pathlib import Path

import attrs

from rebalancer.agent.transfer.disk.folders import Folder, Tree
from rebalancer.agent.transfer.disk.objects import FULL
from rebalancer.agent.transfer.disk.probe import try_steps
from rebalancer.doctor.judge import disks as judge
from rebalancer.doctor.look.system import owner
from rebalancer.doctor.scratch import PREFIX, nearest
from rebalancer.doctor.subject import MANAGER, Place, Subject
from rebalancer.lock import LOCK_FILE

#: Durable writes that are timed, and the time after which no other is begun.
WRITES, WRITING_S = 20, 2.0
#: Bytes that must be free: for the job's files of a manager, and for the state of an agent.
LEAST_OF_MANAGER, LEAST_OF_AGENT = 2 << 30, 100 << 20
#: Files of a state that are looked at, whatever their number.
MOST_LOOKED_AT = 10_000


def folders(subject: Subject) -> list[judge.Folder]:
    """Put a file into place in each of the program's folders, as the program does."""
    found = [_look_inside(_try(subject, subject.state, subject.state))]
    if subject.program == MANAGER:
        return found
    _, root, temp = subject.places
    if not root.path.is_dir():
        step, error = "be used", "it is no folder, and the agent never makes it"
        do = "mount it, or set storage.manta_root"
        return [*found, judge.Folder(root.purpose, str(root.path), step, error, do=do)]
    if os.path.lexists(temp.path):
        try:
            Tree.open(root.path, temp.path)
        except OSError as exc:
            step = "be opened without a link below manta_root"
            return [*found, _failed(temp, step, exc)]
    return [*found, _try(subject, temp, root)]


def _try(subject: Subject, temp: Place, root: Place) -> judge.Folder:
    """Put a file into place in `root` by way of `temp`, which may be the same."""
    where = temp
    step = "make a folder"
    try:
        first = subject.scratch.folder(temp.path)
        where = root
        second = first if root == temp else subject.scratch.folder(root.path)
        tree = Tree(root=Folder.open(second), temp=Folder.open(first))
    except OSError as exc:
        return _failed(where, step, exc)
    failed = try_steps(tree, "probe")
    if failed is not None:
        if temp == root:  # the steps are called as an agent's objects come to their places
            step = failed.step.replace("in temp_dir", "there").replace("from temp_dir into", "into")
            step = step.replace("manta_root", temp.purpose)
            return _failed(temp, step, failed.error)
        return _failed(temp, failed.step, failed.error)
    leads_to = os.path.realpath(temp.path)
    is_link = leads_to != os.path.abspath(temp.path)
    return judge.Folder(temp.purpose, str(temp.path), leads_to=leads_to if is_link else "")


def _failed(place: Place, step: str, exc: OSError) -> judge.Folder:
    # A manager changes its list of jobs at each start, so it does not start without room.
    waits = place.purpose != "data_dir" and os.path.exists(place.path / LOCK_FILE)
    return judge.Folder(
        place.purpose,
        str(place.path),
        step,
        exc.strerror or str(exc),
        is_full=exc.errno in FULL,
        is_waited_for=waits,
    )


def _look_inside(found: judge.Folder) -> judge.Folder:
    """Look at what is in the folder of a state: one file system, and all of it this user's."""
    if found.step:
        return found
    folder = Path(found.path)
    try:
        device = folder.stat().st_dev
        for path in islice(chain(folder.iterdir(), folder.glob("*/*")), MOST_LOOKED_AT):
            if PREFIX in str(path.relative_to(folder)):  # of a check at work
                continue
            if path.is_dir() and path.stat().st_dev != device:
                error = "it is on another file system"
                step = f"rename files into its folder {path.name}"
                return attrs.evolve(found, step=step, error=error, do="have one file system")
            if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
                do = f"chown -R it to the program's user; now {owner(path)} owns that file"
                step = f"use {path.relative_to(folder)}"
                return attrs.evolve(found, step=step, error=os.strerror(errno.EACCES), do=do)
    except OSError:  # the folder is not there yet, or a file is gone again
        pass
    return found


def wal(subject: Subject) -> judge.Wal:
    """Use a database in WAL mode by two connections, beside the manager's own."""
    path = subject.state.path
    try:
        file = subject.scratch.folder(path) / "wal.sqlite"
        with closing(sqlite3.connect(file)) as writer, closing(sqlite3.connect(file)) as reader:
            (mode,) = writer.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                return judge.Wal(str(path), f"sqlite has journal mode {mode} there in place of WAL")
            writer.execute("PRAGMA synchronous=FULL")
            with writer:
                writer.execute("CREATE TABLE t (n)")
            reader.execute("BEGIN")
            before = reader.execute("SELECT count(*) FROM t").fetchone()
            with writer:
                writer.execute("INSERT INTO t VALUES (1)")
            held = reader.execute("SELECT count(*) FROM t").fetchone()
            reader.execute("COMMIT")
            after = reader.execute("SELECT count(*) FROM t").fetchone()
            if [before[0], held[0], after[0]] != [0, 0, 1]:
                return judge.Wal(str(path), "a second connection does not see what it should")
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except (OSError, sqlite3.Error) as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        is_full = code == sqlite3.SQLITE_FULL or getattr(exc, "errno", None) in FULL
        is_untried = isinstance(exc, OSError) and not is_full
        why = getattr(exc, "strerror", None) or str(exc)
        return judge.Wal(str(path), why, is_full, is_untried)
    return judge.Wal(str(path))


def room(subject: Subject) -> list[judge.Room]:
    """Return how much room there is for the program's files."""
    found = []
    for place in subject.places:
        if place.purpose == "temp_dir":  # on the file system of manta_root
            continue
        with suppress(OSError):
            seen = os.statvfs(nearest(place.path))
            inodes = seen.f_favail if seen.f_files else None
            least, why = _least(subject, place)
            free = seen.f_bavail * seen.f_frsize
            found.append(judge.Room(place.purpose, str(place.path), free, least, inodes, why))
    return found


def _least(subject: Subject, place: Place) -> tuple[int, str]:
    if subject.program == MANAGER:
        return LEAST_OF_MANAGER, "a job of a million objects has some 2 GB"
    if place.purpose == "state_dir":
        return LEAST_OF_AGENT, "for assignments"
    reserve = subject.agent.storage.reserve_mb << 20
    return reserve + 1, "for storage.reserve_mb is never used and every object is refused"


def mounts(subject: Subject) -> list[judge.Mount]:
    """Return what file systems the program's folders lie on, where the system lists them."""
    listed = _listed()
    found = []
    for place in subject.places:
        path = os.path.realpath(nearest(place.path))
        at = [one for one in listed if path == one or path.startswith(one.rstrip("/") + "/")]
        kind, options = listed[max(at, key=len)] if at else ("", ())
        found.append(judge.Mount(place.purpose, str(place.path), kind, options))
    return found


def _listed() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return kind and options of each mount: Linux lists them, and so does illumos."""
    for file in ("/proc/self/mounts", "/etc/mnttab"):
        with suppress(OSError):
            lines = [line.split() for line in Path(file).read_text().splitlines()]
            return {_unescaped(at): (kind, tuple(options.split(",")))
                    for _, at, kind, options, *_ in lines}  # fmt: skip
    return {}


def _unescaped(path: str) -> str:
    for char in " \t\n\\":
        path = path.replace(f"\\{ord(char):03o}", char)
    return path


def writes(subject: Subject) -> judge.Writes:
    """Time durable writes of 4 KiB in the folder of the program's state."""
    path = subject.state.path
    took: list[float] = []
    try:
        file = os.open(subject.scratch.folder(path) / "write", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            until = time.monotonic() + WRITING_S
            while len(took) < WRITES and time.monotonic() < until:
                started = time.perf_counter()
                os.write(file, bytes(4096))
                os.fsync(file)
                took.append(time.perf_counter() - started)
        finally:
            os.close(file)
    except OSError as exc:
        return judge.Writes(str(path), (), exc.strerror or str(exc))
    return judge.Writes(str(path), tuple(took))
