"""This module has rows of final scans: records that name the evacuated shark after all."""

import sqlite3

import attrs

from rebalancer.domain import states
from rebalancer.domain.final_scan import is_news
from rebalancer.domain.objects import MantaObject
from rebalancer.domain.reasons import FOUND_TOO_LATE, read_word
from rebalancer.domain.states import LinkStatus, ObjectEvent, ObjectStatus, advance
from rebalancer.manager.store import scans
from rebalancer.manager.store.counts import REASON, Tally, error_and_outcome
from rebalancer.manager.store.discovery import (
    first_status,
    insert,
    is_record_of,
    note_duplicate,
)
from rebalancer.manager.store.orphans import note_orphan
from rebalancer.manager.store.records import FoundRecord, Remaining, Round, ScanPosition
from rebalancer.sqlite import Kept


def read_rounds(db: sqlite3.Connection) -> list[Round]:
    """Return the final scans, in their order."""
    rows = db.execute("SELECT round, started, found, remaining FROM rounds ORDER BY round")
    return [Round(*row) for row in rows]


def last_round(db: sqlite3.Connection) -> int:
    """Return the round that runs, or ran last: 0 is discovery, the others are final scans."""
    (number,) = db.execute("SELECT ifnull(max(round), 0) FROM rounds").fetchone()
    return int(number)


def begin_round(db: sqlite3.Connection) -> int:
    """Begin the next final scan, which lists remaining records anew; return its number."""
    number = last_round(db) + 1
    db.execute("INSERT INTO rounds (round) VALUES (?)", (number,))
    db.execute("DELETE FROM remaining")
    return number


def store_found(
    db: sqlite3.Connection,
    records: Kept[FoundRecord | Remaining],
    scanned: ScanPosition,
    *,
    is_last: bool,
) -> list[MantaObject]:
    """Store the records of one window of a final scan, and how far the scan has come.

    All `records` name the evacuated shark; they are read in the thread of the writer.  A record
    that is news gets another turn, unless this round `is_last`; any other record that is not
    having its turn is listed as remaining.  Returns the objects that need a destination.
    """
    tally, new, found, listed = Tally(), list[MantaObject](), 0, 0
    for record in records:
        if isinstance(record, Remaining):
            listed += _list_remaining(db, record)
            continue
        met = _meet_again(db, tally, record, is_last=is_last)
        found += met.is_news
        if met.why is not None:
            left = Remaining(record.shard, record.key, record.id, met.why)
            listed += _list_remaining(db, left)
        if met.obj is not None:
            new.append(met.obj)
    db.execute(
        "UPDATE rounds SET found = found + ?, remaining = remaining + ? WHERE round = ?",
        (found, listed, scanned.round),
    )
    scans.write(db, [scanned])
    tally.save(db)
    return new


@attrs.frozen
class _Met:
    """A record that a final scan met gets another turn, or a line in the list."""

    is_news: bool = False
    #: Why it is listed as remaining.
    why: str | None = None
    #: The object, if it needs a destination.
    obj: MantaObject | None = None


def _meet_again(
    db: sqlite3.Connection, tally: Tally, record: FoundRecord, *, is_last: bool
) -> _Met:
    known = db.execute(
        f"SELECT *, {REASON} AS reason FROM evacuateobjects WHERE id = ?",
        (record.id,),
    ).fetchone()
    if known is not None and not is_record_of(known, record):
        return _meet_link(db, tally, record, known, is_last=is_last)
    if known is not None:
        if known["status"] in states.OPEN_OBJECTS:
            return _Met(is_news=True)  # a person has put it back, and how it ends is not known
        is_unchanged = known["etag"] == record.etag
        if not is_news(known["status"], read_word(known["reason"]), is_unchanged=is_unchanged):
            return _Met(why=known["reason"])
    if known is not None and known["status"] == ObjectStatus.COMPLETE:
        _note_lost_name(db, known)
    if is_last:
        return _Met(why=FOUND_TOO_LATE.word)
    earlier = None
    if known is None:
        insert(db, [record])
    else:
        earlier = _take_again(db, tally, record, known)
    status = first_status(record)
    tally.add(status, record.reason, 1, record.size)
    if status is not ObjectStatus.UNPROCESSED or record.obj is None:
        return _Met(why=None if record.reason is None else record.reason.word)
    return _Met(is_news=True, obj=attrs.evolve(record.obj, earlier=earlier))


def _take_again(
    db: sqlite3.Connection, tally: Tally, record: FoundRecord, known: sqlite3.Row
) -> str | None:
    """Give a known object another turn, with its record as it is now; return where a copy lies."""
    old = ObjectStatus(known["status"])
    reopened = advance(states.OBJECT, old, ObjectEvent.REOPENED)
    reason = read_word(known["reason"])
    has_copy = old is ObjectStatus.COMPLETE or (reason is not None and reason.is_gone)
    earlier = known["dest_shark"] if has_copy else None
    db.execute(
        "UPDATE records SET object = ?, etag = ?, shard = ? WHERE number = ?",
        (record.text, record.etag, record.shard, known["number"]),
    )
    db.execute(
        "UPDATE progress SET status = ?, bytes = ?, error = ?, outcome = ?, detail = ?,"
        " skipped_reason = NULL, assignment = NULL, dest_shark = NULL, earlier_shark = ?,"
        " attempts = 0, tried = NULL, put_off = 0 WHERE number = ?",
        (
            first_status(record, reopened),
            record.size,
            *error_and_outcome(record.reason),
            record.detail,
            earlier,
            known["number"],
        ),
    )
    tally.add(old, reason, -1, -known["bytes"])
    return None if earlier is None else str(earlier)


def _note_lost_name(db: sqlite3.Connection, known: sqlite3.Row) -> None:
    """Note the copy of a complete object as an orphan, because its record names it no more."""
    # If the object has links, one of them may name the copy.
    if db.execute("SELECT 1 FROM links WHERE id = ?", (known["id"],)).fetchone() is None:
        note_orphan(db, known, "its record was put back")


def _meet_link(
    db: sqlite3.Connection,
    tally: Tally,
    record: FoundRecord,
    first: sqlite3.Row,
    *,
    is_last: bool,
) -> _Met:
    """Meet a further record of an object, which is written at the end of the round."""
    link = db.execute(
        "SELECT status, etag, detail FROM links WHERE shard = ? AND key = ?",
        (record.shard, record.key),
    ).fetchone()
    if link is not None and link["status"] == LinkStatus.WAITING:
        return _Met(is_news=first["reason"] is None, why=first["reason"])
    if link is not None:
        is_unchanged = link["etag"] == record.etag
        if not is_news(link["status"], read_word(link["detail"]), is_unchanged=is_unchanged):
            return _Met(why=link["detail"] or link["status"])
    if is_last:
        return _Met(why=FOUND_TOO_LATE.word)
    if link is None:
        note_duplicate(db, record, tally)
    else:
        reopened = advance(states.LINK, LinkStatus(link["status"]), ObjectEvent.REOPENED)
        db.execute(
            "UPDATE links SET status = ?, object = ?, etag = ?, detail = NULL"
            " WHERE shard = ? AND key = ?",
            (reopened, record.text, record.etag, record.shard, record.key),
        )
    return _Met(is_news=True)


def _list_remaining(db: sqlite3.Connection, left: Remaining) -> int:
    """List a record that stays; return 1, or 0 if it is listed already.

    So it is where a shard that came late catches up with earlier rounds, or is looked at twice.
    """
    values = attrs.astuple(left)
    count = db.execute("INSERT OR IGNORE INTO remaining VALUES (?, ?, ?, ?)", values).rowcount
    if not count:
        db.execute("REPLACE INTO remaining VALUES (?, ?, ?, ?)", values)
    return count
