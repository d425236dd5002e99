"""This module keeps what a program waits for that only time or a person can mend.

A cause is shown to the operator for as long as it lasts.  The log has one warning when it begins,
one a minute while it lasts, and one line when it is over, however often it is met meanwhile.
"""

import datetime
from typing import Any

import attrs
import trio

from rebalancer.log import get_logger

#: Seconds between two warnings of the same cause.
REMIND_S = 60.0

log = get_logger()


@attrs.frozen
class Wait:
    """A wait has one cause.

    `subject` names the thing that is waited for, as a person would ("storinfo", "shard 2",
    "the disk of /rebalancer/db"); `detail` is its last error; `since` is UTC in ISO 8601, None if
    it is not known.
    """

    subject: str
    detail: str
    since: str | None


@attrs.define
class _Entry:
    wait: Wait
    began: float
    warned: float


class Waits:
    """The waits of a program or a job at the moment, by subject.

    `fields` are added to every line of the log.  Mutable state: the causes.  Methods have no
    await and are called from the event loop only.
    """

    def __init__(self, **fields: Any) -> None:
        self._entries: dict[str, _Entry] = {}
        self._log = log.bind(**fields)

    def begin(self, subject: str, detail: str) -> None:
        """Note that `subject` is waited for, perhaps still, because of `detail`."""
        now = trio.current_time()
        entry = self._entries.get(subject)
        if entry is None:
            since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            wait = Wait(subject, detail, since.replace("+00:00", "Z"))
            self._entries[subject] = _Entry(wait, now, now)
            self._log.warning("waiting", waits_for=subject, reason=detail)
            return
        entry.wait = attrs.evolve(entry.wait, detail=detail)
        if now - entry.warned >= REMIND_S:
            entry.warned = now
            waited = round(now - entry.began, 1)
            self._log.warning("still waiting", waits_for=subject, reason=detail, waited_s=waited)

    def end(self, subject: str) -> None:
        """Note that `subject` is not waited for any more; it need not have been."""
        entry = self._entries.pop(subject, None)
        if entry is not None:
            waited = round(trio.current_time() - entry.began, 1)
            self._log.info("waited for", waits_for=subject, waited_s=waited)

    @property
    def causes(self) -> list[Wait]:
        """Return every cause at the moment, the oldest first."""
        return [entry.wait for entry in self._entries.values()]
