"""This module claims a folder for one process at a time, by a lock that ends with the process.

Two programs on one folder of state would each believe that they alone change it.  There is no file
of a process's number that could be left over: whatever ends the process frees the folder.
"""

import datetime
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rebalancer.errors import StoreError

#: The file in the folder that is locked.  It stays when the folder is free: removing it would let
#: two processes lock two files of one name.
LOCK_FILE = ".lock"
#: A lock may outlive its holder for the moment between the fork and the exec of a child process.
PATIENCE_S = 1.0
_LOOK_S = 0.05


@contextmanager
def claimed(folder: Path, program: str) -> Iterator[None]:
    """Claim `folder`, made if need be, for this process until the end of the context.

    Child processes do not inherit the claim.  Blocking: up to `PATIENCE_S` where the folder is
    another's.

    Raises:
      StoreError: another process has it, and which; or the file cannot be made or locked.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not O_EXCL: the file of an earlier holder is locked again.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror or exc}") from exc
    try:
        _lock(file, folder)
        _sign(file, program)
        yield
    finally:
        os.close(file)


def holder(folder: Path) -> str:
    """Return which process has claimed `folder`, empty if none has.

    Raises:
      OSError: nobody can say so: the file of the claim cannot be read or locked.
    """
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    try:
        # A shared lock, for an instant: whoever claims the folder meanwhile tries again.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(file)
    finally:
        os.close(file)
    return ""


def _lock(file: int, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StoreError(f"{folder} is in use by {_holder(file)}") from None
            time.sleep(_LOOK_S)
        except OSError as exc:
            raise StoreError(f"{folder / LOCK_FILE}: cannot be locked: {exc.strerror}") from exc
        else:
            return


def _sign(file: int, program: str) -> None:
    """Write who has the folder, for the message of whoever comes next."""
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # On a full disk the claim is good without a name.
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, f"{program}, process {os.getpid()}, since {since}\n".encode(), 0)


def _holder(file: int) -> str:
    text = os.pread(file, 200, 0).decode(errors="replace").partition("\n")[0]
    return "".join(c for c in text if c.isprintable()) or "another process"
