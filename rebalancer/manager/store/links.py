"""This module has rows of links: further records of objects that have several.

Links must name the new copies too, and are updated once the copies are made.
"""

import json
import sqlite3

from rebalancer.domain import states
from rebalancer.domain.reasons import DELETED, OVERWRITTEN
from rebalancer.domain.states import LinkStatus, ObjectEvent, ObjectStatus, move
from rebalancer.manager.store.orphans import forget_orphans
from rebalancer.manager.store.records import Update
from rebalancer.manager.store.unplaced import PAGE
from rebalancer.manager.store.updates import pending_update


def read_pending(db: sqlite3.Connection, after: tuple[int, str]) -> list[Update]:
    """Return a page of links behind the shard and key `after` whose objects' copies are made."""
    rows = db.execute(
        "SELECT r.number, l.id, l.key, l.shard, l.etag, l.object, a.dest_datacenter, a.dest_shark"
        " FROM links l JOIN records r ON r.id = l.id JOIN progress p ON p.number = r.number"
        " JOIN assignments a ON a.number = p.assignment"
        f" WHERE l.status = '{LinkStatus.WAITING}' AND (l.shard, l.key) > (?, ?)"
        f" AND (p.status = '{ObjectStatus.COMPLETE}'"
        f" OR p.outcome IN ('{DELETED}', '{OVERWRITTEN}'))"
        " ORDER BY l.shard, l.key LIMIT ?",
        (*after, PAGE),
    )
    return [pending_update(row) for row in rows]


def count_waiting(db: sqlite3.Connection, shark: str) -> int:
    """Return how many links wait whose objects have a copy on `shark`, or may have."""
    (count,) = db.execute(
        "SELECT count(*) FROM links l JOIN records r ON r.id = l.id"
        " JOIN progress p ON p.number = r.number JOIN assignments a ON a.number = p.assignment"
        f" WHERE l.status = '{LinkStatus.WAITING}' AND a.dest_shark = ?",
        (shark,),
    ).fetchone()
    return int(count)


def record_update(
    db: sqlite3.Connection, link: Update, event: ObjectEvent, detail: str | None
) -> bool:
    """Record how the update of a link ended, and why, if its record was not written.

    Returns False, and changes nothing, if the link does not wait any more: a person has removed
    or changed its row meanwhile, which is no reason to end a job.
    """
    ended = move(states.LINK, LinkStatus.WAITING, event)
    done = db.execute(
        "UPDATE links SET status = ?, detail = ? WHERE shard = ? AND key = ? AND status = ?",
        (ended.after, detail, link.shard, link.key, ended.before),
    )
    if ended.after is LinkStatus.COMPLETE:  # a record names the copy, whatever the row says
        forget_orphans(db, json.dumps([link.number]))
    return done.rowcount == 1
