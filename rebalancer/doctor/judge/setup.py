"""This module judges a configuration, the files it names, and who runs the program.  Pure."""

from collections.abc import Iterator, Sequence

import attrs

from rebalancer.doctor.findings import Finding, ok, stops, warning


@attrs.frozen
class Configuration:
    """A configuration as it was read: its program, its place, and all that is wrong with it."""

    program: str
    place: str
    faults: tuple[str, ...] = ()


def configuration(seen: Configuration) -> Iterator[Finding]:
    """Judge a configuration."""
    if not seen.faults:
        yield ok(seen.place)
    for fault in seen.faults:
        yield stops(
            fault,
            "a configuration without faults",
            f"write or mend {seen.place}, or name another file with -c; docs/configuration.md has"
            " every key",
        )


@attrs.frozen
class Secret:
    """A file with a secret, and who else may read it or replace it."""

    path: str
    is_read_by_all: bool
    is_written_by_all: bool


def secrets(seen: Sequence[Secret]) -> Iterator[Finding]:
    """Judge the files of tokens and keys, and the configuration, by their permissions."""
    wrong = [one for one in seen if one.is_read_by_all or one.is_written_by_all]
    for one in wrong:
        may = "write" if one.is_written_by_all else "read"
        yield warning(
            f"{one.path} can be {'written' if may == 'write' else 'read'} by every user",
            "by the program's user alone",
            f"chmod o-{'w' if may == 'write' else 'rw'} {one.path}, owned by the program's user",
        )
    if not wrong:
        yield ok(f"files with secrets or settings that other users can use: none of {len(seen)}")


@attrs.frozen
class User:
    """The user who runs the checks, and the owner of the program's state, if there is any yet."""

    name: str
    owner: str | None
    is_root: bool


def user(seen: User) -> Finding:
    """Judge by whose permissions the checks were made."""
    if seen.is_root and seen.owner not in (None, seen.name):
        return warning(
            f"tried as {seen.name}, who may do everything; the state belongs to {seen.owner}",
            "the user that the program runs as",
            f"try again with --user {seen.owner}",
        )
    return ok(f"tried as {seen.name}")


@attrs.frozen
class Holder:
    """A holder is the process that has claimed a folder, if any, or why nobody can say so."""

    folder: str
    #: The process; empty if the folder is free.
    text: str = ""
    trouble: str = ""


def running(seen: Sequence[Holder]) -> Iterator[Finding]:
    """Say which program has claimed the folders."""
    for one in seen:
        if one.trouble:
            yield stops(
                f"{one.folder} cannot be claimed: {one.trouble}",
                "a folder whose file .lock can be locked",
                "see to the owner of .lock, or to the file system's locks",
            )
        elif one.text:
            yield ok(f"running: {one.text} has {one.folder}")
    if not any(one.trouble or one.text for one in seen):
        yield ok("not running")


@attrs.frozen
class Port:
    """An address to serve on, and the trouble of binding it, if any."""

    purpose: str
    address: str
    trouble: str = ""
    #: The process that listens there is the one that has claimed our folders.
    is_ours: bool = False
    is_in_use: bool = False
    is_forbidden: bool = False
    holder: str = ""


def ports(seen: Sequence[Port]) -> Iterator[Finding]:
    """Judge the addresses that the program serves on."""
    for one in seen:
        where = f"{one.purpose} at {one.address}"
        if not one.trouble:
            yield ok(f"{where}: free")
        elif one.is_ours:
            yield ok(f"{where}: running: {one.holder}")
        else:
            if one.is_in_use:
                do = "end the program that has it (ss -ltnp, pfiles), or configure another port"
            elif one.is_forbidden:
                do = "allow it: net_privaddr of SMF, AmbientCapabilities=CAP_NET_BIND_SERVICE of"
                do += " systemd; or configure a port above 1023"
            else:
                do = "configure an address of this machine"
            yield stops(f"{where}: {one.trouble}", "an address to listen at", do)


@attrs.frozen
class ListOfJobs:
    """A manager's list of jobs: its version, None if there is no list, and the newest known."""

    path: str
    version: int | None
    newest: int
    trouble: str = ""


def list_of_jobs(seen: ListOfJobs) -> Finding:
    """Judge whether the manager can go on with the jobs that are there."""
    if seen.trouble:
        return stops(
            f"{seen.path} cannot be read: {seen.trouble}",
            "the manager's list of jobs, or none",
            "see to its owner, or move away what is no file",
        )
    if seen.version is None:
        return ok(f"{seen.path}: none yet")
    if seen.version > seen.newest:
        return stops(
            f"{seen.path} is of version {seen.version}, made by a newer version of this program",
            f"a version up to {seen.newest}",
            "install that version again: docs/operating.md says how to go back",
        )
    return ok(f"{seen.path}: of a version that this program knows")
