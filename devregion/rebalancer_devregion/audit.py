"""An audit compares a region after a job with what it was, object by object.

The numbers of its checks are those of the project's invariants.  What a crash or a race could have
broken on the way shows in what is left: records, files, the job's rows, the agents' state.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from rebalancer.domain.reasons import FOUND_TOO_LATE
from rebalancer.domain.records import upload_sharks
from rebalancer_devregion.buckets.audit import audit_buckets
from rebalancer_devregion.checks import TITLES, Audit, Check
from rebalancer_devregion.evidence import (
    datacenters_in,
    files_below,
    last_look_of,
    names_in,
    open_to_read,
    reason_of,
    texts_of,
)
from rebalancer_devregion.expectations import EXPECTED, Kind, ObjectEnd, accepts
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.writer import REPLACING, Change, Changed, read_journal

#: Of each node, its files by their paths: size and MD5.
Files = Mapping[str, Mapping[str, tuple[int, str]]]
#: What a job may say of an object that a user replaced or deleted.
REPLACED = (None, ("complete", ""), ("skipped", "overwritten"), ("skipped", "deleted"))


@attrs.frozen
class _Pair:
    """A pair is one record before and after the job."""

    shard: int
    key: str
    kind: Kind
    object_id: str
    before: dict[str, Any]
    before_etag: str | None
    after: dict[str, Any] | None
    after_etag: str | None
    #: Whether `before` was written too late to be moved.
    is_late: bool = False


def audit(layout: Layout, job_file: Path, *, disturbed: bool = False) -> Audit:
    """Check every invariant of a region, and return the checks.  Blocking; reads only.

    The files of all nodes are read once; their digests are all that is kept of them.
    `disturbed` says that the nodes' HTTP servers did not always answer.
    """
    return _Auditor(layout, job_file, disturbed=disturbed).run()


class _Auditor:
    """An auditor makes one audit.

    Mutable state: the checks, when the job began its last round, and the records for which it then
    had no round left.
    """

    def __init__(self, layout: Layout, job_file: Path, *, disturbed: bool) -> None:
        self._layout = layout
        self._disturbed = disturbed
        self._job_file = job_file
        self._checks = {number: Check(number, title) for number, title in TITLES.items()}
        self._last_look = 0.0
        self._too_late: set[tuple[int, str]] = set()
        self._changes, self._user_files = read_journal(layout.journal_file)

    def run(self) -> Audit:
        with (
            closing(open_to_read(self._job_file)) as job,
            closing(open_to_read(self._layout.before_file)) as old,
        ):
            every = {row["id"]: row for row in job.execute("SELECT * FROM evacuateobjects")}
            # Bucket objects have a slash in their ids, and an audit of their own.
            rows = {object_id: row for object_id, row in every.items() if "/" not in object_id}
            files = {
                node.manta_storage_id: dict(
                    files_below(self._layout.manta_root(node.manta_storage_id))
                )
                for node in self._layout.nodes
            }
            named: defaultdict[str, set[str]] = defaultdict(set)
            self._last_look = last_look_of(job)
            self._too_late = {
                (row["shard"], row["key"])
                for row in job.execute(
                    "SELECT * FROM remaining WHERE why = ?", (FOUND_TOO_LATE.word,)
                )
            }
            for change in self._changes.values():
                # The front end takes care of the copies that a record named when it was replaced.
                if change.kind in REPLACING or self._is_late(change):
                    named[change.object_id] |= names_in(change.replaced)
            for pair in self._pairs(old):
                row = rows.get(pair.object_id)
                self._record(pair, row, files)
                named[pair.object_id] |= names_in(pair.after)
                if self._layout.evacuated in names_in(pair.before) - names_in(pair.after):
                    recorded = row is not None and row["status"] == "complete"
                    text = f"the old copy of {pair.object_id} is not on record"
                    self._checks[10].that(recorded, text)
            self._rows(old, rows)
            self._counters(job, every)
            self._ends(job, every)
            self._leftovers(job)
            self._data(job, old, rows, files, named)
            self._references(job)
            buckets = audit_buckets(self._layout, job, disturbed=self._disturbed)
        return Audit(tuple(self._checks.values()), tuple(buckets))

    def _pairs(self, old: sqlite3.Connection) -> Iterator[_Pair]:
        """Yield every record; one that a user changed is compared with what the user made of it."""
        for number in self._layout.shards:
            with closing(open_to_read(self._layout.shard_file(number))) as live:
                for row in old.execute("SELECT * FROM records WHERE shard = ?", (number,)):
                    now = live.execute(
                        "SELECT _value, _etag FROM manta WHERE _key = ?", (row["key"],)
                    ).fetchone()
                    pair = _Pair(
                        row["shard"],
                        row["key"],
                        Kind(row["kind"]),
                        row["object_id"],
                        json.loads(row["value"]),
                        row["etag"],
                        None if now is None else json.loads(now["_value"]),
                        None if now is None else now["_etag"],
                    )
                    change = self._changes.get((row["shard"], row["key"]))
                    if change is None:
                        yield pair
                    elif change.value is None:
                        text = f"shard {pair.shard} {pair.key}: came back after a user deleted it"
                        self._checks[5].that(pair.after is None, text)
                    else:
                        yield attrs.evolve(
                            pair,
                            object_id=change.value["objectId"],
                            before=change.value,
                            before_etag=change.etag,
                            is_late=self._is_late(change),
                        )
                for change in self._changes.values():
                    if change.shard == number and change.kind in (Change.LATE, Change.OPEN):
                        yield self._new_pair(live, change)

    def _new_pair(self, live: sqlite3.Connection, change: Changed) -> _Pair:
        """Return the pair of a record that was written while the job ran."""
        now = live.execute(
            "SELECT _value, _etag FROM manta WHERE _key = ?", (change.key,)
        ).fetchone()
        return _Pair(
            change.shard,
            change.key,
            Kind.ORDINARY if change.kind is Change.LATE else Kind.DIRECTORY,
            change.object_id,
            change.value or {},
            change.etag,
            None if now is None else json.loads(now["_value"]),
            None if now is None else now["_etag"],
            self._is_late(change),
        )

    def _is_late(self, change: Changed) -> bool:
        """Tell whether a change came after the job's last round began, or with no round left."""
        return change.at >= self._last_look or (change.shard, change.key) in self._too_late

    # --- records: invariants 1 to 5 ------------------------------------------------------

    def _record(
        self,
        pair: _Pair,
        row: sqlite3.Row | None,
        files: Files,
    ) -> None:
        where = f"shard {pair.shard} {pair.key}"
        if pair.after is None:
            self._checks[4].that(False, f"{where}: the record is gone")
            return
        moved = pair.after != pair.before
        complete = row is not None and row["status"] == "complete"
        if pair.kind is not Kind.DIRECTORY:
            lay_there = self._layout.evacuated in names_in(pair.before)
            self._checks[5].that(
                (moved == (complete and lay_there) or (pair.is_late and not moved))
                and (moved or pair.after_etag == pair.before_etag),
                f"{where}: {'changed' if moved else 'unchanged'}, its object is"
                f" {row['status'] if row else 'not in the job'}",
            )
        self._only_sharks(pair, where)
        if not (isinstance(pair.before.get("sharks"), list) and pair.before["sharks"]):
            return
        self._copies(pair, where, files)

    def _only_sharks(self, pair: _Pair, where: str) -> None:
        evacuated, after = self._layout.evacuated, pair.after or {}
        before = texts_of(pair.before)
        now = texts_of(after)
        same = before.keys() == now.keys() and all(
            before[name] == now[name] for name in before if name != "sharks"
        )
        sharks = pair.before.get("sharks")
        if isinstance(sharks, list) and after != pair.before:
            kept = after["sharks"]
            same = same and len(kept) == len(sharks)
            for old, new in zip(sharks, kept, strict=False):
                is_evacuated = old.get("manta_storage_id") == evacuated
                same = same and (is_evacuated or old == new)
                same = same and new.get("manta_storage_id") != evacuated
        elif "sharks" in before:
            same = same and before["sharks"] == now["sharks"]
        self._checks[4].that(same, f"{where}: more than one entry of sharks changed")

    def _copies(self, pair: _Pair, where: str, files: Files) -> None:
        after = pair.after or {}
        old, new = names_in(pair.before), names_in(after)
        account = pair.before.get("creator") or pair.before.get("owner")
        path, digest = f"{account}/{pair.object_id}", pair.before.get("contentMD5")

        def is_good(shark: str) -> bool:
            return files.get(shark, {}).get(path, (0, ""))[1] == digest

        for shark in new - old:
            size = files.get(shark, {}).get(path, (-1, ""))[0]
            whole = is_good(shark) and size == pair.before["contentLength"]
            self._checks[1].that(whole, f"{where}: names {shark}, where no good copy lies")
        self._checks[2].that(
            len(new) >= len(old) and sum(map(is_good, new)) >= sum(map(is_good, old)),
            f"{where}: lay on {sorted(old)}, now on {sorted(new)}",
        )
        entries = [s for s in after.get("sharks", []) if isinstance(s, dict)]
        twice = len(entries) > len(new) and after != pair.before
        before_dcs, now_dcs = datacenters_in(pair.before), datacenters_in(after)
        self._checks[3].that(
            len(now_dcs) >= len(before_dcs) and not twice,
            f"{where}: was in {sorted(before_dcs)}, is in {sorted(now_dcs)}",
        )

    # --- the job's rows: invariants 6 and 7 ----------------------------------------------

    def _rows(self, old: sqlite3.Connection, rows: Mapping[str, sqlite3.Row]) -> None:
        expected = self._late_objects(rows) | self._seeded_objects(old, rows)
        holds = rows.keys() == expected
        self._checks[6].that(holds, "the job has rows of objects it should not have")

    def _late_objects(self, rows: Mapping[str, sqlite3.Row]) -> set[str]:
        """Check the objects that users wrote while the job ran; return those that may have rows."""
        expected = set()
        for change in self._changes.values():
            if change.kind is Change.LATE:
                found = _end_of(rows.get(change.object_id))
                holds = found == ("complete", "") or (found is None and self._is_late(change))
                text = f"late {change.object_id}: is {found}, expected complete"
                self._checks[6].that(holds, text)
                expected |= {change.object_id} & rows.keys()
        return expected

    def _seeded_objects(self, old: sqlite3.Connection, rows: Mapping[str, sqlite3.Row]) -> set[str]:
        """Check the objects that were there before the job; return those that may have rows."""
        check, expected = self._checks[6], set()
        replaced = {
            change.object_id for change in self._changes.values() if change.kind in REPLACING
        }
        for record in old.execute("SELECT DISTINCT object_id, kind FROM records"):
            kind, object_id = Kind(record["kind"]), record["object_id"]
            if kind is Kind.DIRECTORY:
                continue
            wanted, found = EXPECTED[kind], _end_of(rows.get(object_id))
            if object_id in replaced:
                # Before, while or after the job met it.
                check.that(found in REPLACED, f"{kind} {object_id}: replaced by a user, is {found}")
                expected |= {object_id} & rows.keys()
                continue
            end = None if found is None else ObjectEnd(*found)
            holds = accepts(wanted, end, disturbed=self._disturbed)
            text = wanted and (wanted.status, wanted.reason)
            check.that(holds, f"{kind} {object_id}: is {found}, expected {text}")
            if wanted is not None:
                expected.add(object_id)
        return expected

    def _counters(self, job: sqlite3.Connection, rows: Mapping[str, sqlite3.Row]) -> None:
        """Check that the job's counts are those of its rows."""
        counted: defaultdict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for row in rows.values():
            objects, size = counted[row["status"], reason_of(row)]
            counted[row["status"], reason_of(row)] = objects + 1, size + row["bytes"]
        (duplicates,) = job.execute("SELECT count(*) FROM duplicates").fetchone()
        if duplicates:
            counted["duplicates", ""] = duplicates, 0
        counters = {
            (r["status"], r["reason"]): (r["objects"], r["bytes"])
            for r in job.execute("SELECT * FROM counters WHERE objects <> 0")
        }
        text = f"counters {counters}, rows {dict(counted)}"
        self._checks[6].that(counters == dict(counted), text)

    def _ends(self, job: sqlite3.Connection, rows: Mapping[str, sqlite3.Row]) -> None:
        """Check that every object, assignment and link is at an end."""
        check = self._checks[7]
        for row in rows.values():
            is_over = row["status"] in ("complete", "skipped", "error")
            check.that(is_over, f"{row['id']} is {row['status']}")
        for assignment in job.execute("SELECT id, state FROM assignments"):
            is_over = assignment["state"] in ("rejected", "post_processed")
            check.that(is_over, f"assignment {assignment['id']} is {assignment['state']}")
        for link in job.execute("SELECT id, key, status FROM links"):
            is_over = link["status"] == "complete" or rows[link["id"]]["status"] != "complete"
            check.that(is_over, f"{link['key']} of {link['id']} is {link['status']}")

    # --- what lies about: invariants 8 to 10 ---------------------------------------------

    def _leftovers(self, job: sqlite3.Connection) -> None:
        known = {row["id"] for row in job.execute("SELECT id FROM assignments")}
        for node in self._layout.nodes:
            name = node.manta_storage_id
            temporary = list((self._layout.manta_root(name) / "rebalancer").glob("[!.]*"))
            self._checks[8].that(not temporary, f"{name}: {len(temporary)} temporary files")
            state = self._layout.agent_state(name)
            for kind in ("scheduled", "saving", "quarantine"):
                left = sorted(path.name for path in (state / kind).glob("*"))
                self._checks[8].that(not left, f"{name}: {kind} {left[:3]}")
            for path in (state / "completed").glob("*"):
                self._checks[9].that(path.name in known, f"{name}: unknown {path.name}")

    def _data(
        self,
        job: sqlite3.Connection,
        old: sqlite3.Connection,
        rows: Mapping[str, sqlite3.Row],
        files: Files,
        named: Mapping[str, set[str]],
    ) -> None:
        known = self._old_files(old, files, named)
        self._new_files(job, rows, files, named, known)

    def _old_files(
        self, old: sqlite3.Connection, files: Files, named: Mapping[str, set[str]]
    ) -> Mapping[str, set[str]]:
        """Check the files of before and of users; return the paths of both by their nodes."""
        check = self._checks[10]
        replaced = {
            r["object_id"]
            for r in old.execute(
                "SELECT object_id FROM records WHERE kind = ?", (Kind.WRONG_AT_DESTINATION,)
            )
        }
        known: defaultdict[str, set[str]] = defaultdict(set)
        for file in old.execute("SELECT * FROM files"):
            node, path = file["node"], file["path"]
            known[node].add(path)
            now = files[node].get(path)
            object_id = path.rpartition("/")[2]
            # What lay under the name of an object that came here was no user's data.
            is_replaced = object_id in replaced and node in named[object_id]
            is_same = now == (file["bytes"], file["md5"])
            text = f"{node}: {path} is {'gone' if now is None else 'changed'}"
            check.that(now is not None and (is_same or is_replaced), text)
        for node, path, size, digest in self._user_files:
            known[node].add(path)
            is_there = files[node].get(path) == (size, digest)
            check.that(is_there, f"{node}: {path}, of a user, is gone or changed")
        return known

    def _new_files(
        self,
        job: sqlite3.Connection,
        rows: Mapping[str, sqlite3.Row],
        files: Files,
        named: Mapping[str, set[str]],
        known: Mapping[str, set[str]],
    ) -> None:
        """Check that files which nobody else made are the job's copies: named, or orphans."""
        orphans = {(r["object_id"], r["shark"]) for r in job.execute("SELECT * FROM orphans")}
        for node, present in files.items():
            for path in present.keys() - known[node]:
                object_id = path.rpartition("/")[2]
                is_orphan = (object_id, node) in orphans
                is_sent = object_id in rows and rows[object_id]["dest_shark"] == node
                is_ours = object_id in rows and (is_sent or is_orphan)
                self._checks[9].that(is_ours, f"{node}: {path} came from nowhere")
                text = f"{node}: no record names {path}, and it is not in orphans"
                self._checks[10].that(node in named[object_id] or is_orphan, text)

    # --- what is left: invariant 11 ------------------------------------------------------

    def _references(self, job: sqlite3.Connection) -> None:
        """Check that every live record which names the evacuated node is on the job's list.

        A record that was written after the job had begun its last round is not its fault.
        """
        check, evacuated = self._checks[11], self._layout.evacuated
        listed = {
            (row["shard"], row["key"])
            for row in job.execute("SELECT * FROM remaining WHERE shard > 0")
        }
        late = {where for where, change in self._changes.items() if change.at >= self._last_look}
        mentions = set()
        for number in self._layout.shards:
            with closing(open_to_read(self._layout.shard_file(number))) as live:
                for key, text in live.execute("SELECT _key, _value FROM manta"):
                    where, record = (number, key), json.loads(text)
                    if f'"{evacuated}"' in text:
                        mentions.add(where)
                    uploads = {shark.manta_storage_id for shark in upload_sharks(record)}
                    is_named = evacuated in names_in(record) | uploads
                    check.that(
                        not is_named or where in listed or where in late,
                        f"shard {number} {key}: names {evacuated}, and is not listed",
                    )
        for number, key in sorted(listed):
            check.that(
                (number, key) in mentions | late,
                f"shard {number} {key}: is listed, and does not name {evacuated}",
            )


def _end_of(row: sqlite3.Row | None) -> tuple[str, str] | None:
    """Return an object's status and reason; None if the job has no row of it."""
    return None if row is None else (row["status"], reason_of(row))
