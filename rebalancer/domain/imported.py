"""This module reads rows of a predecessor's jobs as rows of ours, however odd they are.  Pure."""

from collections.abc import Mapping
from typing import Any

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark, UnusableRecord, is_storage_id
from rebalancer.domain.reasons import Column, Reason, read_word
from rebalancer.domain.records import parse_record, read_size
from rebalancer.domain.states import JobState, ObjectStatus, words_of
from rebalancer.jsontext import is_text, loads_exactly

#: States of a predecessor's job that has ended, which both programs call the same.
_ENDED = {words_of(state).state: state for state in (JobState.COMPLETE, JobState.FAILED)}


@attrs.frozen
class ImportedObject:
    """An object of a predecessor's job as it goes into a job's file of ours."""

    id: str
    shard: int | None
    key: str | None
    etag: str | None
    #: Its record as it was discovered; None if it cannot be used.
    text: str | None
    status: ObjectStatus
    bytes: int
    dest_shark: str | None
    reason: Reason | None
    detail: str | None
    #: Whether something of the row was not as a predecessor writes it.
    is_odd: bool = False


def read_job_state(word: str) -> tuple[JobState, str | None]:
    """Return the state of an imported job, and its error if a predecessor had not completed it."""
    state = _ENDED.get(word)
    if state is JobState.COMPLETE:
        return state, None
    if state is JobState.FAILED:
        return state, "the Rust manager recorded this job as failed"
    return JobState.FAILED, f"the Rust manager had not ended this job, which was {word}"


def read_node(text: str | None) -> Shark:
    """Return the node that a predecessor's job emptied, by the JSON of its table `config`.

    Raises:
      ValueError: there is none that can be read.
    """
    try:
        found = None if text is None else loads_exactly(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError("its table config does not say which node it empties") from exc
    match found:
        case {"datacenter": str(datacenter), "manta_storage_id": str(name)} if is_storage_id(name):
            return Shark(datacenter, name)
    raise ValueError("its table config does not say which node it empties")


def read_object(row: Mapping[str, Any]) -> ImportedObject:
    """Read a row of a predecessor's `evacuateobjects`.

    A value that no column of ours can take is kept in words: nothing is lost, and nothing invented.
    """
    notes = list[str]()
    text, key, size = row["object"], None, 0
    try:
        record = parse_record(text or "")
        key = record.get("key")
        if not isinstance(key, str) or not key or not is_text(key):
            key = None
            raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "it has no key")
        size = read_size(record.get("contentLength"))
    except UnusableRecord as exc:
        notes.append(f"its record cannot be used: {exc}")
        if key is None:
            text = None
    shard = row["shard"]
    if shard is not None and shard < 1:  # to this program a shard of the second tier
        notes.append(f"its shard was {shard}")
        shard = None
    status, reason = _read_end(row, notes)
    is_odd = bool(notes)
    if status is not ObjectStatus.COMPLETE and row["assignment_id"] is not None:
        notes.append(f"in assignment {row['assignment_id']} of the Rust manager")
    return ImportedObject(
        row["id"],
        shard,
        key,
        row["etag"],
        text,
        status,
        size,
        row["dest_shark"],
        reason,
        "; ".join(notes) or None,
        is_odd,
    )


def _read_end(row: Mapping[str, Any], notes: list[str]) -> tuple[ObjectStatus, Reason | None]:
    """Return status and reason of a row, and note what this program has no word for."""
    if row["status"] not in list(ObjectStatus):
        notes.append(f"its status was {row['status']}")
        return ObjectStatus.SKIPPED, reasons.UNKNOWN
    status = ObjectStatus(row["status"])
    if status not in (ObjectStatus.SKIPPED, ObjectStatus.ERROR):
        return status, None
    of_status = {ObjectStatus.SKIPPED: "skipped_reason", ObjectStatus.ERROR: "error"}
    word = row[of_status[status]]
    reason = read_word(word)
    if reason is None or reason.column not in (Column.SKIPPED_REASON, Column.ERROR):
        notes.append("it has no reason" if word is None else f"its reason was {word}")
        return status, reasons.UNKNOWN
    return status, reason
