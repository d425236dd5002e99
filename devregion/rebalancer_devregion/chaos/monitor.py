"""The monitor looks at the invariants again and again while a job runs.

The audit afterwards sees what is left at the end; what was wrong for a second only, this sees:
a record that names a copy before the copy is there, or counts that are not those of the rows.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from rebalancer_devregion.contents import md5
from rebalancer_devregion.evidence import open_to_read
from rebalancer_devregion.layout import Layout

#: Violations that are told; the others are counted.
_SHOWN = 10


@attrs.define
class Findings:
    """Findings count looks and keep texts of what was wrong.  Mutable state: both."""

    checked: Counter[str] = attrs.field(factory=Counter)
    violations: list[str] = attrs.field(factory=list)
    _told: set[str] = attrs.field(factory=set)

    def that(self, check: str, holds: bool, text: str) -> None:
        """Count one more look for `check`, and keep `text` unless it `holds`."""
        self.checked[check] += 1
        if not holds and text not in self._told:
            self._told.add(text)
            if len(self.violations) < _SHOWN:
                self.violations.append(f"{check}: {text}")


@attrs.frozen
class _Seen:
    """A record as it was last seen: its object, its storage nodes, their datacenters."""

    object_id: str
    names: frozenset[str]
    datacenters: frozenset[str]


class Monitor:
    """A monitor looks at a region while a job runs.  Blocking.

    Mutable state: what was found; each record as it was last seen, with the sharks that it named
    at first; and the copies that were whole when they were read, which must stay.
    """

    def __init__(self, layout: Layout) -> None:
        self.findings = Findings()
        self._layout = layout
        self._seen: dict[tuple[int, str], _Seen] = {}
        self._old: dict[str, frozenset[str]] = {}
        self._whole: dict[tuple[str, str], str] = {}
        with closing(open_to_read(layout.before_file)) as before:
            for row in before.execute("SELECT shard, key, object_id, value FROM records"):
                record = json.loads(row["value"])
                seen = _look(record)
                self._seen[row["shard"], row["key"]] = seen
                self._old[seen.object_id] = self._old.get(seen.object_id, seen.names) | seen.names

    def look(self, job_file: Path) -> None:
        """Look at every record, and at the job's rows."""
        for number in self._layout.shards:
            with closing(open_to_read(self._layout.shard_file(number))) as live:
                rows = live.execute("SELECT _key, _value FROM manta").fetchall()
            for row in rows:
                self._record((number, row["_key"]), json.loads(row["_value"]))
        for (object_id, shark), path in self._whole.items():
            there = (self._layout.manta_root(shark) / path).exists()
            self.findings.that("copies stay", there, f"{object_id} is gone from {shark}")
        agents = self._known_to_agents()
        with closing(open_to_read(job_file)) as job:
            job.execute("BEGIN")
            self._counts(job)
            ours = {row["id"] for row in job.execute("SELECT id FROM assignments")}
        for name, at in agents.items():
            self.findings.that("recorded, then sent", name in ours, f"{at} has {name}")

    def look_at_end(self, job_file: Path) -> None:
        """Look at a job that has just been called complete."""
        self.look(job_file)
        with closing(open_to_read(job_file)) as job:
            for row in job.execute("SELECT id, status FROM evacuateobjects"):
                done = row["status"] in ("complete", "skipped", "error")
                text = f"the job is complete, and {row['id']} is {row['status']}"
                self.findings.that("complete at the end only", done, text)
            for row in job.execute("SELECT shard, round, position, until FROM scans"):
                text = f"the job is complete, and a scan is not: {tuple(row)}"
                done = row["position"] >= row["until"]
                self.findings.that("complete at the end only", done, text)

    def _record(self, where: tuple[int, str], record: Mapping[str, Any]) -> None:
        now, before = _look(record), self._seen.get(where)
        if before is not None and before.object_id == now.object_id:
            text = f"{where}: {sorted(before.names)} became {sorted(now.names)}"
            self.findings.that("sharks", len(now.names) >= len(before.names), text)
            text = f"{where}: {sorted(before.datacenters)} became {sorted(now.datacenters)}"
            self.findings.that("datacenters", len(now.datacenters) >= len(before.datacenters), text)
        self._seen[where] = now
        for shark in now.names - self._old.get(now.object_id, frozenset()):
            self._copy(now.object_id, shark, record)

    def _copy(self, object_id: str, shark: str, record: Mapping[str, Any]) -> None:
        if (object_id, shark) in self._whole:
            return
        path = f"{record.get('creator') or record['owner']}/{object_id}"
        try:
            content = (self._layout.manta_root(shark) / path).read_bytes()
        except OSError as exc:
            self.findings.that("new copies", False, f"{shark} has no {object_id}: {exc.strerror}")
            return
        is_whole = (len(content), md5(content)) == (
            record["contentLength"],
            record["contentMD5"],
        )
        self.findings.that("new copies", is_whole, f"{object_id} on {shark} is another one")
        if is_whole:
            self._whole[object_id, shark] = path

    def _known_to_agents(self) -> dict[str, str]:
        """List the assignments that agents have, each with its agent."""
        known = {}
        for node in self._layout.nodes:
            state = self._layout.agent_state(node.manta_storage_id)
            for kind in ("scheduled", "completed"):
                for path in (state / kind).glob("*"):
                    known[path.name] = node.manta_storage_id
        return known

    def _counts(self, job: sqlite3.Connection) -> None:
        rows = Counter[tuple[str, str]]()
        for row in job.execute(
            "SELECT status, coalesce(skipped_reason, error, outcome, '') AS reason,"
            " count(*) AS n FROM evacuateobjects GROUP BY 1, 2"
        ):
            rows[row["status"], row["reason"]] = row["n"]
        (duplicates,) = job.execute("SELECT count(*) FROM duplicates").fetchone()
        if duplicates:
            rows["duplicates", ""] = duplicates
        (put_off,) = job.execute("SELECT count(*) FROM progress WHERE put_off").fetchone()
        if put_off:
            rows["put_off", ""] = put_off
        counters = {
            (row["status"], row["reason"]): row["objects"]
            for row in job.execute("SELECT * FROM counters WHERE objects <> 0")
        }
        text = f"counters {counters}, rows {dict(rows)}"
        self.findings.that("counts equal rows", counters == dict(rows), text)


def _look(record: Mapping[str, Any]) -> _Seen:
    sharks = record.get("sharks")
    entries = [s for s in sharks if isinstance(s, dict)] if isinstance(sharks, list) else []
    return _Seen(
        str(record.get("objectId", "")),
        frozenset(entry["manta_storage_id"] for entry in entries),
        frozenset(entry["datacenter"] for entry in entries),
    )
