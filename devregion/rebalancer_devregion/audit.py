"""The audit: a region after a job against what it was, invariant by invariant, object by object.

The numbers are those of the project's invariants.  What a crash or a race could have broken on
the way shows in what is left: records, files, the job's rows, the agents' state.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from rebalancer.domain.final_scan import FOUND_TOO_LATE
from rebalancer.domain.objects import upload_sharks
from rebalancer_devregion.checks import TITLES, Audit, Check
from rebalancer_devregion.contents import md5
from rebalancer_devregion.expectations import EXPECTED, Kind, Outcome, accepts
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.writer import REPLACING, Change, Changed, read_journal

#: What a job may say of an object that a user replaced or deleted.
REPLACED = (None, ("complete", ""), ("skipped", "overwritten"), ("skipped", "deleted"))


@attrs.frozen
class _Pair:
    """One record before and after."""

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
    """Check everything.  Blocking; reads only.

    The files of all nodes are read once; their digests are all that is kept of them.
    `disturbed`: the nodes' HTTP servers did not always answer.
    """
    return _Auditor(layout, job_file, disturbed=disturbed).run()


class _Auditor:
    """One audit.

    Mutable state: the checks, when the job began its last look, and what it then had no round
    left for.
    """

    def __init__(self, layout: Layout, job_file: Path, *, disturbed: bool) -> None:
        self._layout = layout
        self._disturbed = disturbed
        self._job_file = job_file
        self._checks = {number: Check(number) for number in TITLES}
        self._last_look = 0.0
        self._too_late: set[tuple[int, str]] = set()
        self._changes, self._user_files = read_journal(layout.journal_file)

    def run(self) -> Audit:
        with closing(_open(self._job_file)) as job, closing(_open(self._layout.before_file)) as old:
            rows = {row["id"]: row for row in job.execute("SELECT * FROM evacuateobjects")}
            files = {
                node.manta_storage_id: dict(_files(self._layout.manta_root(node.manta_storage_id)))
                for node in self._layout.nodes
            }
            named: defaultdict[str, set[str]] = defaultdict(set)
            self._last_look = _last_look(job)
            self._too_late = {
                (row["shard"], row["key"])
                for row in job.execute("SELECT * FROM remaining WHERE why = ?", (FOUND_TOO_LATE,))
            }
            for change in self._changes.values():
                # The front end takes care of the copies that a record named when it was replaced.
                if change.kind in REPLACING or self._is_late(change):
                    named[change.object_id] |= _names(change.replaced)
            for pair in self._pairs(old):
                row = rows.get(pair.object_id)
                self._record(pair, row, files)
                named[pair.object_id] |= _names(pair.after)
                if self._layout.evacuated in _names(pair.before) - _names(pair.after):
                    recorded = row is not None and row["status"] == "complete"
                    text = f"the old copy of {pair.object_id} is not on record"
                    self._checks[10].that(recorded, text)
            self._rows(job, old, rows)
            self._leftovers(job)
            self._data(job, old, rows, files, named)
            self._references(job)
        return Audit(tuple(self._checks.values()))

    def _pairs(self, old: sqlite3.Connection) -> Iterator[_Pair]:
        """Every record; what a user made of it is what the job had to leave as it was."""
        for number in self._layout.shards:
            with closing(_open(self._layout.shard_file(number))) as live:
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
        """A record that came while the job ran."""
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
        """Whether the job had no round left for it, or its last look may have come before it."""
        return change.at >= self._last_look or (change.shard, change.key) in self._too_late

    # --- records: invariants 1 to 5 ------------------------------------------------------

    def _record(
        self,
        pair: _Pair,
        row: sqlite3.Row | None,
        files: Mapping[str, Mapping[str, tuple[int, str]]],
    ) -> None:
        where = f"shard {pair.shard} {pair.key}"
        if pair.after is None:
            self._checks[4].that(False, f"{where}: the record is gone")
            return
        moved = pair.after != pair.before
        complete = row is not None and row["status"] == "complete"
        if pair.kind is not Kind.DIRECTORY:
            lay_there = self._layout.evacuated in _names(pair.before)
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
        before = _texts(pair.before)
        now = _texts(after)
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

    def _copies(
        self, pair: _Pair, where: str, files: Mapping[str, Mapping[str, tuple[int, str]]]
    ) -> None:
        after = pair.after or {}
        old, new = _names(pair.before), _names(after)
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
        before_dcs, now_dcs = _datacenters(pair.before), _datacenters(after)
        self._checks[3].that(
            len(now_dcs) >= len(before_dcs) and not twice,
            f"{where}: was in {sorted(before_dcs)}, is in {sorted(now_dcs)}",
        )

    # --- the job's rows: invariants 6 and 7 ----------------------------------------------

    def _rows(
        self, job: sqlite3.Connection, old: sqlite3.Connection, rows: Mapping[str, sqlite3.Row]
    ) -> None:
        check = self._checks[6]
        expected_ids = set()
        replaced = {
            change.object_id for change in self._changes.values() if change.kind in REPLACING
        }
        for change in self._changes.values():
            if change.kind is Change.LATE:
                row = rows.get(change.object_id)
                found = None if row is None else (row["status"], _reason(row))
                holds = found == ("complete", "") or (found is None and self._is_late(change))
                check.that(holds, f"late {change.object_id}: is {found}, expected complete")
                expected_ids |= {change.object_id} & rows.keys()
        for record in old.execute("SELECT DISTINCT object_id, kind FROM records"):
            kind, object_id = Kind(record["kind"]), record["object_id"]
            if kind is Kind.DIRECTORY:
                continue
            outcome, row = EXPECTED[kind], rows.get(object_id)
            found = None if row is None else (row["status"], _reason(row))
            wanted = None if outcome is None else (outcome.status, outcome.reason)
            if object_id in replaced:
                # Before, while or after the job met it.
                check.that(found in REPLACED, f"{kind} {object_id}: replaced by a user, is {found}")
                expected_ids |= {object_id} & rows.keys()
                continue
            holds = accepts(
                outcome,
                None if found is None else Outcome(*found),
                disturbed=self._disturbed,
            )
            check.that(holds, f"{kind} {object_id}: is {found}, expected {wanted}")
            if outcome is not None:
                expected_ids.add(object_id)
        check.that(rows.keys() == expected_ids, "the job has rows of objects it should not have")
        counted: defaultdict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for row in rows.values():
            n, size = counted[row["status"], _reason(row)]
            counted[row["status"], _reason(row)] = n + 1, size + row["bytes"]
        (duplicates,) = job.execute("SELECT count(*) FROM duplicates").fetchone()
        if duplicates:
            counted["duplicates", ""] = duplicates, 0
        counters = {
            (r["status"], r["reason"]): (r["objects"], r["bytes"])
            for r in job.execute("SELECT * FROM counters WHERE objects <> 0")
        }
        check.that(counters == dict(counted), f"counters {counters}, rows {dict(counted)}")
        for row in rows.values():
            done = row["status"] in ("complete", "skipped", "error")
            self._checks[7].that(done, f"{row['id']} is {row['status']}")
        for assignment in job.execute("SELECT id, state FROM assignments"):
            done = assignment["state"] in ("rejected", "post_processed")
            self._checks[7].that(done, f"assignment {assignment['id']} is {assignment['state']}")
        for link in job.execute("SELECT id, key, status FROM links"):
            done = link["status"] == "complete" or rows[link["id"]]["status"] != "complete"
            self._checks[7].that(done, f"{link['key']} of {link['id']} is {link['status']}")

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
        files: Mapping[str, Mapping[str, tuple[int, str]]],
        named: Mapping[str, set[str]],
    ) -> None:
        orphans = {(r["object_id"], r["shark"]) for r in job.execute("SELECT * FROM orphans")}
        replaced = {
            r["object_id"]
            for r in old.execute(
                "SELECT object_id FROM records WHERE kind = ?", (Kind.WRONG_AT_DESTINATION,)
            )
        }
        seeded: defaultdict[str, set[str]] = defaultdict(set)
        for file in old.execute("SELECT * FROM files"):
            node, path = file["node"], file["path"]
            seeded[node].add(path)
            now = files[node].get(path)
            object_id = path.rpartition("/")[2]
            # What lay under the name of an object that came here was no user's data.
            is_replaced = object_id in replaced and node in named[object_id]
            self._checks[10].that(
                now is not None and (now == (file["bytes"], file["md5"]) or is_replaced),
                f"{node}: {path} is {'gone' if now is None else 'changed'}",
            )
        for node, path, size, digest in self._user_files:
            seeded[node].add(path)
            is_there = files[node].get(path) == (size, digest)
            self._checks[10].that(is_there, f"{node}: {path}, of a user, is gone or changed")
        for node, present in files.items():
            for path in present.keys() - seeded[node]:
                object_id = path.rpartition("/")[2]
                self._checks[9].that(
                    object_id in rows
                    and (rows[object_id]["dest_shark"] == node or (object_id, node) in orphans),
                    f"{node}: {path} came from nowhere",
                )
                self._checks[10].that(
                    node in named[object_id] or (object_id, node) in orphans,
                    f"{node}: no record names {path}, and it is not in orphans",
                )

    # --- what is left: invariant 11 ------------------------------------------------------

    def _references(self, job: sqlite3.Connection) -> None:
        """Every live record against the job's list.

        What was written after the job had begun to look for the last time is not its fault.
        """
        check, evacuated = self._checks[11], self._layout.evacuated
        listed = {(row["shard"], row["key"]) for row in job.execute("SELECT * FROM remaining")}
        late = {where for where, change in self._changes.items() if change.at >= self._last_look}
        mentions = set()
        for number in self._layout.shards:
            with closing(_open(self._layout.shard_file(number))) as live:
                for key, text in live.execute("SELECT _key, _value FROM manta"):
                    where, record = (number, key), json.loads(text)
                    if f'"{evacuated}"' in text:
                        mentions.add(where)
                    uploads = {shark.manta_storage_id for shark in upload_sharks(record)}
                    is_named = evacuated in _names(record) | uploads
                    check.that(
                        not is_named or where in listed or where in late,
                        f"shard {number} {key}: names {evacuated}, and is not listed",
                    )
        for number, key in sorted(listed):
            check.that(
                (number, key) in mentions | late,
                f"shard {number} {key}: is listed, and does not name {evacuated}",
            )


def _last_look(job: sqlite3.Connection) -> float:
    """When the last final scan began, in seconds of the epoch; 0 without any."""
    row = job.execute("SELECT started FROM rounds ORDER BY round DESC LIMIT 1").fetchone()
    return 0.0 if row is None else datetime.fromisoformat(row["started"]).timestamp()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    return db


def _files(root: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """Every file of a node but unfinished ones: its path, and its size and digest."""
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] != "rebalancer":
            content = path.read_bytes()
            yield str(name), (len(content), md5(content))


def _names(record: Mapping[str, Any] | None) -> set[str]:
    sharks = (record or {}).get("sharks")
    if not isinstance(sharks, list):
        return set()
    return {s["manta_storage_id"] for s in sharks if isinstance(s, dict)}


def _datacenters(record: Mapping[str, Any]) -> set[str]:
    return {s["datacenter"] for s in record.get("sharks", []) if isinstance(s, dict)}


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in record.items()}


def _reason(row: sqlite3.Row) -> str:
    return str(row["skipped_reason"] or row["error"] or row["outcome"] or "")
