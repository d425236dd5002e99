"""This module judges folders and the file systems they lie on.  Pure."""

import statistics
from collections.abc import Iterator, Sequence

import attrs

from rebalancer.doctor.findings import Finding, ok, stops, warning
from rebalancer.units import size


@attrs.frozen
class Room:
    """The room on the file system of a folder; inodes are None where it does not count them."""

    purpose: str
    folder: str
    free_bytes: int
    #: The least that is worth a start: below it the program waits, or refuses objects.
    least_bytes: int
    free_inodes: int | None
    why: str = ""


#: Files and folders that a program may want to make in a day.
LEAST_INODES = 10_000


def room(seen: Sequence[Room]) -> Iterator[Finding]:
    """Judge how much room there is."""
    for one in seen:
        where = f"{one.purpose} {one.folder}"
        if one.free_bytes < one.least_bytes:
            why = f", {one.why}" if one.why else ""
            yield warning(
                f"{where} has {size(one.free_bytes)} free",
                f"{size(one.least_bytes)}{why}",
                "make room, or choose another file system",
            )
        elif one.free_inodes is not None and one.free_inodes < LEAST_INODES:
            yield warning(
                f"{where} has {one.free_inodes:,} inodes free",
                f"{LEAST_INODES:,}",
                "remove files, or make a file system with more inodes",
            )
        else:
            yield ok(f"{where}: {size(one.free_bytes)} free")


@attrs.frozen
class Folder:
    """A folder that was tried: the step that failed, if any, and its error."""

    purpose: str
    path: str
    step: str = ""
    error: str = ""
    is_full: bool = False
    #: Whether the program starts though the disk is full, because it has worked there before.
    is_waited_for: bool = False
    #: Where the path leads, if a part of it is a link.
    leads_to: str = ""
    #: What to do about the error, if the step does not say that already.
    do: str = ""


def folders(seen: Sequence[Folder]) -> Iterator[Finding]:
    """Judge folders in which files were made, renamed, synced and removed."""
    for one in seen:
        where = f"{one.purpose} {one.path}"
        if not one.step:
            link = f" (a link to {one.leads_to})" if one.leads_to else ""
            yield ok(f"{where}{link}: files are made, renamed and synced")
        elif one.is_full and one.is_waited_for:
            yield warning(
                f"{where}: cannot {one.step}: {one.error}",
                "room; the program waits for it",
                "make room on the file system",
            )
        else:
            yield stops(
                f"{where}: cannot {one.step}: {one.error}",
                "a folder in which the program's user may do so",
                one.do or ("make room on the file system" if one.is_full else _remedy(one.step)),
            )


#: What to do where another finding says it.
FOLDERS = "see the finding of folders"


def _remedy(step: str) -> str:
    if "rename" in step:
        return "put temp_dir and manta_root onto one file system"
    return "see to its owner, its mount and whether its disk is read-only (--user tries another)"


@attrs.frozen
class Wal:
    """A try of sqlite's WAL mode with two connections: empty if all went well."""

    path: str
    trouble: str = ""
    is_full: bool = False
    #: The folder for it could not be made.
    is_untried: bool = False


def wal(seen: Wal) -> Finding:
    """Judge whether sqlite's WAL mode works, in which the manager keeps jobs."""
    if not seen.trouble:
        return ok(f"{seen.path}: works, with memory that connections share")
    if seen.is_full:
        do = "make room on the file system"
        return stops(f"{seen.path}: cannot be tried: {seen.trouble}", "room", do)
    if seen.is_untried:
        why = f"{seen.path}: cannot be tried: {seen.trouble}"
        return stops(why, "a folder in which the program's user may do so", FOLDERS)
    return stops(
        f"{seen.path}: {seen.trouble}",
        "a local file system with mmap and locks",
        "put data_dir onto a local disk: ZFS, ext4, xfs",
    )


@attrs.frozen
class Mount:
    """The file system of a folder, as the system lists it; empty if it does not say."""

    purpose: str
    path: str
    kind: str = ""
    options: tuple[str, ...] = ()


#: Kinds of file systems that lie on another machine, and those that lie in memory.
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs"})
REMOTE |= {"beegfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "virtiofs"}
IN_MEMORY = frozenset({"tmpfs", "ramfs", "swapfs"})
#: Options with which a sync returns before its data are on the disk.
UNSAFE = frozenset({"nobarrier", "barrier=0", "barrier=none", "sync=disabled"})


def mounts(seen: Sequence[Mount]) -> Iterator[Finding]:
    """Judge the kinds of file systems, for what a try does not show."""
    for one in seen:
        where = f"{one.purpose} {one.path}"
        unsafe = sorted(UNSAFE.intersection(one.options))
        if one.kind in REMOTE:
            yield warning(
                f"{where} lies on {one.kind}, on another machine",
                "a local file system, whose locks and syncs hold",
                "move it to a local disk",
            )
        elif one.kind in IN_MEMORY:
            yield warning(
                f"{where} lies in memory ({one.kind})",
                "a disk: all of it is lost when the machine restarts",
                "move it to a disk",
            )
        elif unsafe:
            yield warning(
                f"{where} is mounted with {', '.join(unsafe)}",
                "a mount on which a sync reaches the disk",
                "mount it without, unless the disk's cache survives a loss of power",
            )
        else:
            yield ok(f"{where}: {one.kind or 'of unknown kind'}")


@attrs.frozen
class Writes:
    """Times of durable writes of 4 KiB in a folder, in seconds."""

    path: str
    took_s: tuple[float, ...]
    error: str = ""


#: A durable write that takes longer than this keeps the programs waiting.
SLOW_S = 0.05


def writes(seen: Writes) -> Finding:
    """Judge how long a durable write takes."""
    if not seen.took_s:
        why = seen.error or "it was not tried"
        return warning(f"{seen.path}: {why}", "a durable write", FOLDERS)
    middle, longest = statistics.median(seen.took_s), max(seen.took_s)
    found = f"{seen.path}: 4 KiB are durable after {_ms(middle)}, {_ms(longest)} at worst"
    if middle > SLOW_S:
        do = "use an SSD, or a log device of ZFS; every commit waits for one such write"
        return warning(found, f"{_ms(SLOW_S)} at most", do)
    return ok(found)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
