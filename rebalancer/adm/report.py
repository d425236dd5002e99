"""A job's report: passed on as it comes, and told whole from cut off."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import attrs

from rebalancer.adm.client import AdmError, Body, Manager
from rebalancer.api.objects import ReportEnd, ReportJob


@attrs.define
class Tally:
    """A tally tells whether a report is whole: its last line counts the lines before it.

    Mutable state: what has been seen.
    """

    lines: int = 0
    #: The first line, or what there is of it: the job.
    _first: bytes = b""
    #: The last line, or what there is of it.
    _last: bytes = b""

    def add(self, piece: bytes) -> None:
        """Take more of the report."""
        if not self.lines:
            self._first += piece.partition(b"\n")[0]
        self.lines += piece.count(b"\n")
        text = self._last + piece
        self._last = text[text.rfind(b"\n", 0, -1) + 1 :]

    @property
    def job(self) -> ReportJob:
        """Return the job that a whole report is about.

        Raises:
          AdmError: the first line tells of none.
        """
        return Body(json.loads(self._first), ReportJob).read()

    def check(self) -> None:
        """Check what has been seen.

        Raises:
          AdmError: it is not a whole report.
        """
        try:
            end = Body(json.loads(self._last), ReportEnd).read()
        except (ValueError, RecursionError, AdmError):
            end = None
        if not self._last.endswith(b"\n") or end is None or end.type != "end":
            raise AdmError(f"the report broke off after {self.lines:,} lines: it has no end")
        if end.lines != (between := self.lines - 2):
            raise AdmError(f"the report has {between:,} lines where {end.lines:,} were told")


async def save_report(manager: Manager, job_id: str, out: BinaryIO) -> Tally:
    """Write a job's report to `out` as it comes; return what was seen of it.

    Raises:
      AdmError: no answer, or it cannot be written; or it is not whole, after it was written.
    """
    tally = Tally()
    async with manager.report(job_id) as pieces:
        async for piece in pieces:
            tally.add(piece)
            out.write(piece)
    tally.check()
    return tally


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path`, on stable storage, only if it is written to its end.

    A link stays, and leads to it.

    Raises:
      AdmError: it cannot be written.
    """
    # Of what is no file, such as /dev/null, another program relies on what it is.
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise AdmError(f"{path}: is there, and is no file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as exc:
        raise AdmError(f"{path}: {exc.strerror}") from exc
    try:
        with open(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        # As others are made: mkstemp's are for their owner alone.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except OSError as exc:
        raise AdmError(f"{path}: {exc.strerror}") from exc
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
