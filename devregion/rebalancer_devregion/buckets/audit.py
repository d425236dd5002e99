"""An audit of the buckets tier compares its rows and files after a job with what they were.

Its checks have the numbers of the audit of the directory tier, and two of its own.  It shares no
code with the programs that are audited.  Blocking.
"""

import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from rebalancer_devregion.buckets.kinds import BY_SERVER, EXPECTED, BucketKind
from rebalancer_devregion.buckets.tables import (
    VNODES,
    connected,
    name_hash,
    path_of,
    schema_of,
)
from rebalancer_devregion.buckets.users import Change
from rebalancer_devregion.checks import BUCKET_TITLES, Check
from rebalancer_devregion.evidence import reason_of
from rebalancer_devregion.expectations import ObjectEnd, accepts
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.postgres import Connection

Row = Mapping[str, Any]
#: Of each node, its files by their paths: size and MD5 in hexadecimal digits.
Files = Mapping[str, Mapping[str, tuple[int, str]]]
#: What a job may say of an object that a user replaced or deleted.
REPLACED = (None, ("complete", ""), ("skipped", "overwritten"), ("skipped", "deleted"))
#: What a user's write decides besides the object's bytes.
WRITTEN = ("content_type", "headers", "properties")


@attrs.frozen(order=True)
class Key:
    """A key names a row: its shard by its number in the tier, its vnode, its primary key."""

    shard: int
    vnode: int
    owner: str
    bucket_id: str
    name: str

    def __str__(self) -> str:
        return f"/v2/{self.vnode}/{self.owner}/{self.bucket_id}/{self.name}"


@attrs.frozen
class Changed:
    """A change of a user: the row before and after it."""

    kind: Change
    replaced: Row
    now: Row | None


@attrs.define
class _Shards:
    """The tier's shards hold this, and their journals say it.  Mutable: it is read bit by bit."""

    before: dict[Key, tuple[BucketKind, Row]] = attrs.field(factory=dict)
    after: dict[Key, Row] = attrs.field(factory=dict)
    changes: defaultdict[Key, list[Changed]] = attrs.field(factory=lambda: defaultdict(list))
    deletions: list[tuple[Key, Row]] = attrs.field(factory=list)
    files: dict[tuple[str, str], tuple[int, str]] = attrs.field(factory=dict)
    collected: set[tuple[str, str]] = attrs.field(factory=set)


def audit_buckets(layout: Layout, job: sqlite3.Connection, *, disturbed: bool) -> list[Check]:
    """Check the invariants of the buckets tier, and return the checks; none without such a tier.

    `job` is the file of the job; `disturbed` says that sources did not always answer.
    """
    if not layout.buckets:
        return []
    shards = _Shards()
    for number in layout.buckets:
        with connected(layout, number) as db:
            _read(shards, db, number, VNODES[number])
    auditor = _Auditor(layout, shards, _files_of(layout), job, disturbed)
    auditor.run()
    return list(auditor.checks.values())


def _read(shards: _Shards, db: Connection, number: int, vnodes: Sequence[int]) -> None:
    for vnode, kind, text in db.execute("SELECT vnode, kind, row::text FROM region.before"):
        row = _row(text)
        shards.before[_key(number, vnode, row)] = BucketKind(kind), row
    for vnode in vnodes:
        table = f"{schema_of(vnode)}.manta_bucket_object"
        for (text,) in db.execute(f"SELECT to_jsonb(o)::text FROM {table} o".encode()):
            row = _row(text)
            shards.after[_key(number, vnode, row)] = row
    for vnode, kind, old, new in db.execute(
        "SELECT vnode, kind, replaced::text, now::text FROM region.changes ORDER BY number"
    ):
        replaced = _row(old)
        now = None if new is None else _row(new)
        key = _key(number, vnode, replaced)
        shards.changes[key].append(Changed(Change(kind), replaced, now))
    for vnode, text in db.execute("SELECT vnode, row::text FROM region.deletions"):
        row = _row(text)
        shards.deletions.append((_key(number, vnode, row), row))
    for node, path, size, digest in db.execute("SELECT * FROM region.files"):
        shards.files[node, path] = size, digest
    shards.collected.update((n, p) for n, p in db.execute("SELECT * FROM region.collected"))


def _row(text: str) -> dict[str, Any]:
    # A number keeps its digits.
    row: dict[str, Any] = json.loads(text, parse_int=_number, parse_float=_number)
    return row


def _number(digits: str) -> tuple[str, str]:
    return "number", digits


def _key(number: int, vnode: int, row: Row) -> Key:
    return Key(number, vnode, row["owner"], row["bucket_id"], row["name"])


def _files_of(layout: Layout) -> Files:
    """Return the bucket objects' files of all nodes."""
    files: dict[str, dict[str, tuple[int, str]]] = {}
    for node in layout.nodes:
        root = layout.manta_root(node.manta_storage_id)
        files[node.manta_storage_id] = {
            str(path.relative_to(root)): (
                path.stat().st_size,
                hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
            )
            for path in (root / "v2").rglob("*")
            if path.is_file()
        }
    return files


@attrs.frozen
class _Auditor:
    """An auditor makes one audit of the buckets tier.  Mutable state: the checks."""

    layout: Layout
    shards: _Shards
    files: Files
    job: sqlite3.Connection
    disturbed: bool
    checks: dict[int, Check] = attrs.field(
        factory=lambda: {number: Check(number, title) for number, title in BUCKET_TITLES.items()}
    )

    def run(self) -> None:
        """Make all checks."""
        rows = {
            row["id"]: row
            for row in self.job.execute("SELECT * FROM evacuateobjects WHERE shard < 0")
        }
        for key, (_, before) in self.shards.before.items():
            self._row(key, before, rows)
        for key in self.shards.after.keys() - self.shards.before.keys():
            self.checks[5].that(False, f"{key}: came from nowhere")
        self._ends(rows)
        self._deletions()
        self._data(rows)
        self._references()

    # --- rows: invariants 1 to 5, and what users wrote -------------------------------------

    def _wanted(self, key: Key, before: Row) -> Row | None:
        """Return a row as users have left it, with the sharks that the last upload was given."""
        wanted: Row | None = before
        for change in self.shards.changes.get(key, ()):
            if change.kind is Change.TOUCH and wanted is not None:
                wanted = {**(change.now or {}), "sharks": wanted["sharks"]}
            else:
                wanted = change.now
        return wanted

    def _row(self, key: Key, before: Row, rows: Mapping[str, sqlite3.Row]) -> None:
        wanted, after = self._wanted(key, before), self.shards.after.get(key)
        if wanted is None:
            self.checks[5].that(after is None, f"{key}: came back after a user deleted it")
            return
        if after is None:
            self.checks[4].that(False, f"{key}: the row is gone")
            return
        row = rows.get(_copy_name(after))
        moved = after["sharks"] != wanted["sharks"]
        complete = row is not None and row["status"] == "complete"
        lay_there = self.layout.evacuated in _names(wanted)
        self.checks[5].that(
            moved == (complete and lay_there),
            f"{key}: {'changed' if moved else 'unchanged'}, its object is"
            f" {row['status'] if row else 'not in the job'}",
        )
        self._only_sharks(key, wanted, after, moved=moved)
        same = all(wanted[name] == after[name] for name in WRITTEN)
        self.checks[13].that(same, f"{key}: has not the headers or properties of its user")
        if wanted["sharks"]:
            self._copies(key, wanted, after, moved=moved)

    def _only_sharks(self, key: Key, wanted: Row, after: Row, *, moved: bool) -> None:
        # A server sets the time of an update; a statement leaves that of the user.
        free = {"sharks", "modified"} if moved and self._is_by_server() else {"sharks"}
        same = all(wanted[name] == after[name] for name in wanted if name not in free)
        if moved:
            old, new = wanted["sharks"], after["sharks"]
            same = same and len(old) == len(new)
            for was, now in zip(old, new, strict=False):
                is_evacuated = _name(was) == self.layout.evacuated
                # A server knows nothing of what follows a second colon.
                is_same = was == now or (
                    self._is_by_server() and was.split(":")[:2] == now.split(":")
                )
                same = same and (is_evacuated or is_same)
                same = same and _name(now) != self.layout.evacuated
        self.checks[4].that(same, f"{key}: more than one entry of sharks changed")

    def _is_by_server(self) -> bool:
        config = json.loads((self.layout.folder / "etc" / "manager.json").read_text())
        return str(config.get("buckets_update")) == "mdapi"

    def _copies(self, key: Key, wanted: Row, after: Row, *, moved: bool) -> None:
        path, digest = _path(after), after["content_md5"].removeprefix("\\x")

        def is_good(node: str) -> bool:
            return bool(self.files.get(node, {}).get(path, (0, ""))[1] == digest)

        old, new = _names(wanted), _names(after)
        for node in new - old:
            size = self.files.get(node, {}).get(path, (-1, ""))[0]
            whole = is_good(node) and _number(str(size)) == after["content_length"]
            self.checks[1].that(whole, f"{key}: names {node}, where no good copy lies")
        was_good = {
            node for node in old if self.shards.files.get((node, path), (0, ""))[1] == digest
        }
        self.checks[2].that(
            len(new) >= len(old) and sum(map(is_good, new)) >= len(was_good),
            f"{key}: lay on {sorted(old)}, now on {sorted(new)}",
        )
        datacenters = len(_datacenters(after)) >= len(_datacenters(wanted))
        twice = moved and len(after["sharks"]) > len(new)
        self.checks[3].that(datacenters and not twice, f"{key}: {after['sharks']}")

    # --- the job's rows: invariants 6 and 7 ------------------------------------------------

    def _ends(self, rows: Mapping[str, sqlite3.Row]) -> None:
        known = set()
        for key, (kind, before) in self.shards.before.items():
            name = _copy_name(before)
            known.add(name)
            row = rows.get(name)
            found = None if row is None else (row["status"], reason_of(row))
            if any(change.kind is not Change.TOUCH for change in self.shards.changes.get(key, ())):
                text = f"{key}: replaced by a user, is {found}"
                self.checks[6].that(found in REPLACED, text)
                continue
            wanted, end = EXPECTED[kind], None if found is None else ObjectEnd(*found)
            if self._is_by_server():
                wanted = BY_SERVER.get(kind, wanted)
            holds = accepts(wanted, end, disturbed=self.disturbed)
            self.checks[6].that(holds, f"{kind} {key}: is {found}, expected {wanted}")
        unknown = sorted(rows.keys() - known)
        self.checks[6].that(not unknown, f"the job has rows of others: {unknown[:3]}")
        for name, row in rows.items():
            is_over = row["status"] in ("complete", "skipped", "error")
            self.checks[7].that(is_over, f"{name} is {row['status']}")

    # --- what users did not write: 12 ------------------------------------------------------

    def _deletions(self) -> None:
        """Check that each row which ever reached the deleted table was put there by a user."""
        by_users = {
            (key, change.replaced["id"])
            for key, changes in self.shards.changes.items()
            for change in changes
        }
        self.checks[12].that(True, "")
        for key, row in self.shards.deletions:
            self.checks[12].that((key, row["id"]) in by_users, f"{key}: {row['id']} was deleted")

    # --- what lies about: 9 and 10 ---------------------------------------------------------

    def _data(self, rows: Mapping[str, sqlite3.Row]) -> None:
        collected = self.shards.collected
        for (node, path), known in self.shards.files.items():
            now = self.files[node].get(path)
            text = f"{node}: {path} is {'gone' if now is None else 'changed'}"
            is_garbage = now is None and (node, path) in collected
            self.checks[10].that(now == known or is_garbage, text)
        named = {(node, _path(row)) for row in self.shards.after.values() for node in _names(row)}
        orphans = {(r["object_id"], r["shark"]) for r in self.job.execute("SELECT * FROM orphans")}
        for node, path in self._new_files():
            _, _, bucket_id, _, file = path.split("/")
            name = f"{bucket_id}/{file}"
            is_orphan = (name, node) in orphans
            is_sent = name in rows and rows[name]["dest_shark"] == node
            self.checks[9].that(is_sent or is_orphan, f"{node}: {path} came from nowhere")
            is_known = (node, path) in named | collected or is_orphan
            text = f"{node}: no row names {path}, and it is not in orphans"
            self.checks[10].that(is_known, text)

    def _new_files(self) -> Iterator[tuple[str, str]]:
        for node, present in self.files.items():
            for path in present:
                if (node, path) not in self.shards.files:
                    yield node, path

    # --- what is left: 11 ------------------------------------------------------------------

    def _references(self) -> None:
        check, evacuated = self.checks[11], self.layout.evacuated
        listed = {
            (-row["shard"], row["key"])
            for row in self.job.execute("SELECT * FROM remaining WHERE shard < 0")
        }
        mentions = set()
        for key, row in self.shards.after.items():
            where = key.shard, str(key)
            in_headers = evacuated in ((row["headers"] or {}).get("x-preallocated-sharks") or "")
            if in_headers or any(evacuated in shark for shark in row["sharks"] or ()):
                mentions.add(where)
                check.that(where in listed, f"{key}: names {evacuated}, and is not listed")
        for number, text in sorted(listed - mentions):
            check.that(False, f"shard {number} {text}: is listed, and does not name {evacuated}")


def _name(shark: str) -> str:
    parts = shark.split(":")
    return parts[1] if len(parts) > 1 else ""


def _names(row: Row) -> set[str]:
    return {_name(shark) for shark in row["sharks"] or ()} - {""}


def _datacenters(row: Row) -> set[str]:
    return {shark.split(":")[0] for shark in row["sharks"] or () if ":" in shark}


def _path(row: Row) -> str:
    return path_of(row["owner"], row["bucket_id"], row["id"], row["name"])


def _copy_name(row: Row) -> str:
    """Return the id under which a job knows the object of a row."""
    return f"{row['bucket_id']}/{row['id']},{name_hash(row['name'])}"
