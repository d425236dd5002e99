"""This module knows which failures are transient: asking once more can succeed later.

They pass by themselves or once a person helps.  Here is the one home of the lists of error codes;
`retry` asks again, and `sqlite` waits for a file, on the strength of them.
"""

import errno

from rebalancer.errors import JobFailed, PeerError, StoreBusy, StoreError

#: Errors of a process or machine that has run out of files or memory for now.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
#: Shortages of space and processes besides, and troubles of disks and mounts that a person mends.
TRANSIENT_ERRNO = SHORTAGES | frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
#: The same of a file that is opened: a file system that is read-only then was mounted so.
TRANSIENT_AT_OPENING = TRANSIENT_ERRNO - {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ENOBUFS,
    errno.EROFS,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
#: Primary result codes of sqlite that say that a file cannot be used now, not that it is no good:
#: busy, locked, no memory, read-only, I/O error, full, cannot open, protocol.
SQLITE_CODES = frozenset({5, 6, 7, 8, 10, 13, 14, 15})
#: Extended codes of those that waiting does not mend: SQLITE_READONLY_DBMOVED (the file was
#: removed) and SQLITE_IOERR_CORRUPTFS (its file system is broken).
SQLITE_FINAL_CODES = frozenset({8 | 4 << 8, 10 | 33 << 8})


def is_transient(exc: BaseException) -> bool:
    """Tell whether what failed with `exc` may succeed later, by itself or with a person's help."""
    if isinstance(exc, BaseExceptionGroup):
        return all(map(is_transient, exc.exceptions))
    if isinstance(exc, PeerError):
        return exc.is_transient
    if isinstance(exc, StoreBusy):
        return True
    if isinstance(exc, StoreError | JobFailed):
        return exc.__cause__ is not None and is_transient(exc.__cause__)
    if hasattr(exc, "sqlite_errorcode"):
        return is_transient_of_sqlite(exc)
    if isinstance(exc, OSError):
        return exc.errno in TRANSIENT_ERRNO
    # No thread can be had: the machine has too many.
    is_threads = isinstance(exc, RuntimeError) and "start new thread" in str(exc)
    return is_threads or isinstance(exc, MemoryError)


def is_transient_of_sqlite(exc: BaseException) -> bool:
    """Tell whether sqlite may do later what failed with `exc`; False for errors of others."""
    code = getattr(exc, "sqlite_errorcode", 0)  # errors of the module itself have none
    return code & 0xFF in SQLITE_CODES and code not in SQLITE_FINAL_CODES
