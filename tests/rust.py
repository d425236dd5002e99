"""The databases of a Rust manager, on a real PostgreSQL: tables as it makes them."""

import json
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from rebalancer_devregion.postgres import Cluster

REASONS = (
    *("agent_fs_error", "agent_assignment_no_ent", "agent_busy", "assignment_error"),
    *("assignment_mismatch", "assignment_rejected", "destination_insufficient_space"),
    *("destination_unreachable", "md5_mismatch", "network_error"),
    *("object_already_on_dest_shark", "object_already_in_datacenter", "source_other_error"),
    "source_is_evac_shark",
    *(f"{{http_status_code:{code}}}" for code in range(100, 600)),
)
ERRORS = (
    *("bad_moray_client", "bad_moray_object", "bad_manta_object", "bad_shard_number"),
    *("duplicate_shark", "internal_error", "metadata_update_failed", "missing_sharks"),
    "bad_content_length",
)
STATUSES = ("unprocessed", "assigned", "skipped", "error", "post_processing", "complete")
#: What a row of `evacuateobjects` is unless the test says otherwise.
COLUMNS = dict.fromkeys(
    ("assignment_id", "object", "shard", "dest_shark", "etag", "skipped_reason", "error")
)


def _one_of(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def make_manager(cluster: Cluster) -> None:
    """The list of jobs, empty; databases of jobs of an earlier test go."""
    with closing(cluster.connect("postgres")) as db:
        kept = ("postgres", "template0", "template1")
        for (name,) in db.execute("SELECT datname FROM pg_database").fetchall():
            if name not in kept:
                db.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
        db.execute("CREATE DATABASE rebalancer")
    with closing(cluster.connect("rebalancer")) as db:
        db.execute(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, action TEXT CHECK (action IN ('evacuate',"
            " 'none')), state TEXT CHECK (state IN ('init', 'setup', 'running', 'stopped',"
            " 'complete', 'failed')))"
        )


def list_job(cluster: Cluster, job_id: str, state: str, action: str = "evacuate") -> None:
    """A job on the list, without a database."""
    with closing(cluster.connect("rebalancer")) as db:
        db.execute("INSERT INTO jobs VALUES (%s, %s, %s)", (job_id, action, state))


def make_job(
    cluster: Cluster,
    job_id: str,
    state: str,
    objects: Sequence[dict[str, Any]] = (),
    duplicates: Sequence[tuple[str, str | None, Sequence[int | None] | None]] = (),
    node: Any = None,
    checks: bool = True,
    json_type: str = "JSONB",
) -> None:
    """A job and its database; without `checks` its words may be any."""
    list_job(cluster, job_id, state)
    with closing(cluster.connect("postgres")) as db:
        db.execute(f'CREATE DATABASE "{job_id}"'.encode())
    reasons, errors, statuses = (
        f" CHECK ({column} IN ({_one_of(words)}))" if checks else ""
        for column, words in (("skipped_reason", REASONS), ("error", ERRORS), ("status", STATUSES))
    )
    with closing(cluster.connect(job_id)) as db:
        db.execute(
            f"CREATE TABLE evacuateobjects (id TEXT PRIMARY KEY, assignment_id TEXT,"
            f" object {json_type}, shard INT, dest_shark TEXT, etag TEXT,"
            f" status TEXT {'NOT NULL' if checks else ''}{statuses}, skipped_reason TEXT{reasons},"
            f" error TEXT{errors})".encode()
        )
        db.execute("CREATE INDEX assignment_id ON evacuateobjects (assignment_id)")
        db.execute("CREATE TABLE config (id INT PRIMARY KEY, from_shark JSONB)")
        db.execute("CREATE TABLE duplicates (id TEXT PRIMARY KEY, key TEXT, shards INT[])")
        told = {"datacenter": "dc1", "manta_storage_id": "1.stor.lab"} if node is None else node
        db.execute("INSERT INTO config VALUES (1, %s)", (json.dumps(told),))
        for row in objects:
            values = {**COLUMNS, **row}
            if isinstance(values["object"], dict):
                values["object"] = json.dumps(values["object"])
            names, places = ", ".join(values), ", ".join(["%s"] * len(values))
            db.execute(
                f"INSERT INTO evacuateobjects ({names}) VALUES ({places})".encode(),
                list(values.values()),
            )
        for duplicate in duplicates:
            db.execute("INSERT INTO duplicates VALUES (%s, %s, %s)", duplicate)


def dsn(cluster: Cluster) -> str:
    """How to connect to it."""
    return f"postgres://postgres@{cluster.address}/"
