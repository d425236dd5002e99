"""This module compares the nodes' access logs with the agents' records: what was fetched where."""

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import attrs


@attrs.frozen
class Transfer:
    """A transfer is one answered GET: its end in seconds since 1970, its path, the bytes sent."""

    at: float
    path: str
    status: int
    sent: int

    @property
    def object_id(self) -> str:
        """Return the last part of the path, which begins with the object's id."""
        return self.path.rpartition("/")[2]


def transfers(log: Path) -> Iterator[Transfer]:
    """Yield the GETs of one access log."""
    if not log.exists():
        return
    with log.open() as lines:
        for line in lines:
            at, method, path, status, sent, *_ = line.rstrip("\n").split("\t")
            if method == "GET":
                yield Transfer(float(at), path, int(status), int(sent))


def recorded_tasks(state: Path) -> frozenset[str]:
    """Return the objects that the agent whose state is in `state` has recorded as copied.

    Read by plain sqlite, as an operator would, while the agent is not running.  Not read-only:
    a transaction that the kill cut must be rolled back first.
    """
    found: set[str] = set()
    for kind in ("scheduled", "completed"):
        for file in (state / kind).glob("*-*-*-*-*[0-9a-f]"):
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as db:
                columns = {row[1] for row in db.execute("PRAGMA table_info(tasks)")}
                # As a path ends in which a copy lies, of either tier.
                of_bucket = "coalesce(',' || object_name_hash, '')"
                name = f"object_id || {of_bucket}" if "object_name_hash" in columns else "object_id"
                rows = db.execute(f"SELECT {name}, status FROM tasks")
                found.update(name for name, status in rows if json.loads(status) == "Complete")
    return frozenset(found)


def fetched_again(
    logs: Collection[Path], recorded: Collection[str], after: float
) -> list[Transfer]:
    """Return the transfers that ended later than `after` of objects that were recorded by then."""
    known = frozenset(recorded)
    return [
        transfer
        for log in logs
        for transfer in transfers(log)
        if transfer.at > after and transfer.status == 200 and transfer.object_id in known
    ]
