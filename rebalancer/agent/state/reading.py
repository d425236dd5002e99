"""This module reads a file of the state folder, or says why it cannot be used.

A file may be broken, or of a newer agent, or not to be read at the moment.  Blocking.
"""

import errno
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from rebalancer.agent.state.statefile import (
    MAX_BYTES,
    BrokenFile,
    NewerFile,
    StoredAssignment,
    parse,
)
from rebalancer.errors import StoreError
from rebalancer.sqlite import connect

#: Endings of the files that sqlite keeps beside one while a program changes it.
COMPANIONS = ("-journal", "-wal", "-shm")
#: Errors of content, as against those of the machine or of another program's lock.
_CONTENT_ERRORS = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: Errors of opening what is no plain file: a symbolic link, or a socket.
_NO_FILE = {errno.ELOOP, errno.ENXIO}


def read(path: Path) -> StoredAssignment:
    """Read one file, of ours or of the predecessor.

    Raises:
      BrokenFile: it is no assignment.
      NewerFile: a newer agent has written it.
      StoreError: it cannot be read at the moment.
    """
    try:
        content, changed_ns = _content(path)
        return parse(path.name, content, changed_ns)
    except (BrokenFile, NewerFile) as exc:
        raise type(exc)(f"{path}: {exc}") from exc
    except (OSError, MemoryError) as exc:
        reason = getattr(exc, "strerror", None) or exc or "out of memory"
        raise StoreError(f"{path}: cannot be read: {reason}") from exc


def _content(path: Path) -> tuple[bytes, int]:
    """Read a file, whatever it is; return its content and when that was last changed."""
    try:
        # A pipe must not be waited for, nor a link followed out of the folder.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in _NO_FILE:
            raise BrokenFile("not an assignment: no plain file") from exc
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenFile("not an assignment: no plain file")
        if status.st_size > MAX_BYTES:
            raise BrokenFile(f"not an assignment: {status.st_size} bytes")
        if any(is_any(f"{path}{suffix}") for suffix in COMPANIONS):
            return _consistent(path), status.st_mtime_ns
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES), status.st_mtime_ns
    finally:
        os.close(descriptor)


def _consistent(path: Path) -> bytes:
    """Read a file that another program is changing: its content before, or after the change.

    The deployed agent, when killed, leaves a journal; a person's sqlite3 has one while it writes.
    """
    try:
        with closing(connect(path, mode="rw", wal=False)) as db:
            db.execute("BEGIN IMMEDIATE")
            content = db.serialize()
            db.execute("ROLLBACK")
            return content
    except (StoreError, sqlite3.Error) as exc:
        error = exc if isinstance(exc, sqlite3.Error) else exc.__cause__
        if getattr(error, "sqlite_errorcode", None) in _CONTENT_ERRORS:
            raise BrokenFile(f"not an assignment: {error}") from exc
        raise StoreError(f"{path}: cannot be read: {error}") from exc


def is_any(path: str | Path) -> bool:
    """Return whether anything has this name, be it a link to nothing.

    Raises:
      OSError: that cannot be seen.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True
