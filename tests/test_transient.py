"""Which failures are transient."""

import errno
import sqlite3

import pytest

from rebalancer.errors import JobFailed, PeerRefused, PeerUnreachable, StoreBusy, StoreError
from rebalancer.transient import SQLITE_CODES, SQLITE_FINAL_CODES, is_transient


def caused(exc: Exception, cause: Exception) -> Exception:
    exc.__cause__ = cause
    return exc


def sqlite_error(code: int) -> Exception:
    exc = Exception("sqlite says so")
    exc.sqlite_errorcode = code  # type: ignore[attr-defined]
    return exc


@pytest.mark.parametrize(
    ("exc", "helps"),
    [
        (PeerUnreachable("away"), True),
        (PeerRefused("no"), False),
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.ENFILE, "too many open files in the system"), True),
        (OSError(errno.ENOSPC, "no space left"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EIO, "a broken disk"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (OSError(errno.EACCES, "not allowed"), False),
        (sqlite_error(5), True),  # busy
        (sqlite_error(13), True),  # full
        (sqlite_error(14 | 1 << 8), True),  # cannot open, in more words
        (sqlite_error(10 | 3 << 8), True),  # I/O error, in more words
        (sqlite_error(8), True),  # read-only
        (sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), False),
        (sqlite_error(sqlite3.SQLITE_IOERR_CORRUPTFS), False),
        (sqlite_error(11), False),  # corrupt
        (sqlite_error(19), False),  # a constraint
        (caused(StoreError("f"), sqlite_error(13)), True),
        (caused(StoreError("f"), sqlite_error(26)), False),  # no database
        (StoreError("not ours"), False),
        (StoreBusy("locked"), True),
        (caused(JobFailed("f"), OSError(errno.EMFILE, "too many")), True),
        (JobFailed("no such shark"), False),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("a mistake"), False),
        (MemoryError(), True),
        (ZeroDivisionError(), False),
        (ExceptionGroup("", [PeerUnreachable("away"), OSError(errno.EMFILE, "")]), True),
        (ExceptionGroup("", [PeerUnreachable("away"), ValueError()]), False),
    ],
    ids=repr,
)
def test_which_failures_are_transient(exc: Exception, helps: bool) -> None:
    """Whatever passes by itself or is mended by a person outside; no mistake of ours."""
    assert is_transient(exc) is helps


def test_codes_of_sqlite_are_those_of_its_module() -> None:
    """The lists are numbers, because programs without a state file have no sqlite in memory."""
    assert {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    } == SQLITE_CODES
    assert {sqlite3.SQLITE_READONLY_DBMOVED, sqlite3.SQLITE_IOERR_CORRUPTFS} == SQLITE_FINAL_CODES
