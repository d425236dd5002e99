"""This module keeps what a program waits for that only time or a person can mend.

A cause is shown to the operator for as long as it lasts.  The log has one warning when it begins,
one a minute while it lasts, and one line when it is over, however often it is met meanwhile.
"""

import datetime
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import trio

from rebalancer.log import get_logger

#: Seconds between two warnings of the same cause.
REMIND_S = 60.0

#: How subjects begin, and of which kind the cause is then: there are as many subjects as nodes,
#: shards and files, and few kinds, which metrics have as labels.
KINDS = {
    "storinfo": "storinfo",
    "shard ": "shard",
    "buckets shard ": "shard",
    "the clone of shard ": "clone",
    "the clone of buckets shard ": "clone",
    "the agents' token": "token",
    "the list of objects": "listing",
    "the agent of ": "agent",
    "storage node ": "agent",
    "any destination": "destination",
    "a destination for what is left": "destination",
    "opening ": "file",
    "reading ": "file",
    "writing ": "file",
    "this machine, or its peers": "machine",
    "its turn": "turn",
    "the list of stored assignments": "backlog",
    "assignment ": "assignment",
    "fetcher process ": "fetcher",
    "files that fetcher process ": "files",
}
#: The kind of a cause whose subject begins like none of these.
OTHER = "other"

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

    @property
    def kind(self) -> str:
        """Return the kind of the cause, of which there are few."""
        begins = self.subject.startswith
        return next((kind for start, kind in KINDS.items() if begins(start)), OTHER)


def by_kind(causes: Iterable[Wait]) -> Mapping[str, tuple[int, float]]:
    """Return how many causes there are of each kind, and for how many seconds the oldest lasts.

    These are 0 where it is not known since when.
    """
    found = dict[str, tuple[int, float]]()
    now = datetime.datetime.now(datetime.UTC)
    for cause in causes:
        count, longest_s = found.get(cause.kind, (0, 0.0))
        lasts_s = 0.0
        with suppress(TypeError, ValueError):  # a job's row that a person has changed
            lasts_s = (now - datetime.datetime.fromisoformat(cause.since or "")).total_seconds()
        found[cause.kind] = count + 1, max(longest_s, lasts_s)
    return found


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
