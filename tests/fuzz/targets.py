"""The readers of outside bytes, each as a function of bytes that must not raise.

A target catches the errors that its reader is documented to raise, and checks that what was read
can be used.  Anything else is a finding.
"""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import attrs

from rebalancer.actions.declaration import MAX_WHOLE
from rebalancer.agent.limits import LimitValues
from rebalancer.agent.state.cursor import Cursor
from rebalancer.agent.state.posted import Posted, read_posted
from rebalancer.agent.state.reading import read as read_stored
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent.transfer.sources.engine import (
    MAX_HEAD_BYTES,
    PullFailure,
    read_head,
    read_status,
)
from rebalancer.agent_protocol import (
    Dialect,
    ReportedState,
    detect_dialect,
    read_assignment,
    read_report,
    report_to_wire,
)
from rebalancer.bodies import read_body
from rebalancer.config import read_agent, read_manager
from rebalancer.converter import parse_json
from rebalancer.domain.objects import Shark
from rebalancer.errors import RebalancerError, RequestError
from rebalancer.jsontext import dumps, loads
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.http import render, requests
from rebalancer.manager.pipeline.listings import EarlierJob, ObjectsFile, check
from rebalancer.manager.store import job_file, views
from rebalancer.peers.moray import fast

ORIGIN, DESTINATION = Shark("dc1", "1.stor.lab"), Shark("dc2", "2.stor.lab")
OBJECT = "00000000-0000-4000-8000-000000000001"
ACCOUNT = "00000000-0000-4000-8000-000000000002"
MD5 = "L9NrIZXTY37AYVZN9+gZ7w=="


def pieces(data: bytes) -> Iterator[bytes]:
    """`data` as a socket might bring it: in pieces whose sizes are drawn from its own bytes."""
    at = 0
    while at < len(data):
        size = 1 + data[at] % 61
        yield data[at : at + size]
        at += size


def fast_frames(data: bytes) -> None:
    """A decoder of Fast messages reads the same however the bytes are cut, or says why not."""
    whole, cut = fast.Decoder(), fast.Decoder()
    outcomes = []
    for decoder, parts in ((whole, iter([data])), (cut, pieces(data))):
        messages: list[fast.Message] = []
        failure = None
        try:
            for part in parts:
                messages.extend(decoder.feed(part))
        except fast.FastError as exc:
            failure = type(exc)
        outcomes.append((repr(messages) if failure is None else None, failure))
        for message in messages:
            with suppress(RebalancerError):
                fast.encode(message)
    assert outcomes[0] == outcomes[1]


def http_answers(data: bytes) -> None:
    """The heads of an answer are believed or refused alike, whatever libcurl hands over a line."""
    lines = data.splitlines(keepends=True)
    outcomes = []
    # A field of no meaning is enough for them not to be of the common kind.
    for head in (lines, [*lines[:1], b"TE-encoding:\r\n", *lines[1:]]):
        try:
            outcomes.append((read_status(head), read_head(head)))
        except PullFailure as failure:
            assert str(failure)
            outcomes.append((0, None))
    assert outcomes[0] == outcomes[1] or len(data) > MAX_HEAD_BYTES - 100


def request_bodies(data: bytes) -> None:
    """The bodies of all routes of both services are read, or refused with a message."""
    readers: tuple[Callable[[Any], Any], ...] = (
        read_assignment,
        LimitValues(None, 4).changed,
        requests.read_new_job,
        requests.read_change,
    )
    with suppress(RequestError):
        quickly = read_posted(data)
        value = read_body(data)
        assert quickly == Posted.of(read_assignment(value), detect_dialect(value))
    try:
        body = parse_json(data)
    except RequestError as exc:
        assert str(exc)
        return
    for read in readers:
        try:
            made = read(body)
        except RequestError as exc:
            assert 0 < len(str(exc)) < 10_000
        else:
            json.dumps(attrs.asdict(made) if attrs.has(type(made)) else made, default=str)


def queries(data: bytes) -> None:
    """The query of a listing is read, or refused with a message."""
    given = parse_qsl(data.decode("latin-1"), keep_blank_values=True)
    with suppress(RequestError):
        query = requests.read_objects_query(given)
        assert 1 <= query.limit <= requests.MAX_PAGE
        assert 0 <= query.after <= MAX_WHOLE
    with suppress(RequestError):
        Cursor.parse(data.decode("latin-1"))


def agent_reports(data: bytes) -> None:
    """An agent's report is read, in either dialect, or refused; and can be written again."""
    try:
        report = read_report(parse_json(data))
    except RequestError:
        return
    for dialect in Dialect:
        json.dumps(report_to_wire(report, dialect))


def records(data: bytes) -> None:
    """A record is read; splicing one entry into its text does what rewriting its value does."""
    action = Evacuate(ORIGIN)
    text = data.decode(errors="surrogateescape")
    action.read_upload(1, "/account/uploads/a", text)
    found = action.read(shard=1, key="/account/stor/a", etag="E", text=text)
    if found is None or found.obj is None:
        return
    spliced = action.splice(text, DESTINATION)
    if spliced is not None:
        value = loads(text)
        assert loads(spliced) == action.rewrite(value, DESTINATION)
        dumps(loads(spliced))


def manager_configuration(data: bytes) -> None:
    """A manager's configuration is read, or refused in words."""
    with suppress(RebalancerError):
        read_manager(data.decode(errors="replace"), "config.json")


def agent_configuration(data: bytes) -> None:
    """An agent's configuration is read, or refused in words."""
    with suppress(RebalancerError):
        read_agent(data.decode(errors="replace"), "config.toml")


def listing_files(data: bytes) -> None:
    """An operator's file of records is read, or refused in words."""
    path = folder() / "objects.ndjson"
    path.write_bytes(data)
    with suppress(RebalancerError):
        check(ObjectsFile(path))


def agent_file_cells(data: bytes) -> None:
    """An agent's state file with odd values in its cells is read, or refused as none of ours."""
    cells = [_cell(part) for part in data.split(b"\0")][:10]
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(_agent_file())
        db.execute("PRAGMA ignore_check_constraints=1")
        columns = ("object_id", "owner", "md5sum", "datacenter", "manta_storage_id", "status")
        with suppress(sqlite3.Error):
            for column, value in zip(columns, cells, strict=False):
                if value != b"":
                    db.execute(f"UPDATE tasks SET {column} = ?", (value,))
            if len(cells) > 6:
                db.execute("UPDATE rebalancer SET dialect = ?", (cells[6],))
            if len(cells) > 7:
                db.execute("UPDATE rebalancer SET received_ns = ?", (cells[7],))
            for column, value in zip(_OF_BUCKET, cells[8:], strict=False):
                db.execute(f"UPDATE tasks SET {column} = ?", (value,))
        db.commit()
        image = db.serialize()
    _read_agent_file(image)


def agent_file_bytes(data: bytes) -> None:
    """An agent's state file with some bytes changed is read, or refused as none of ours."""
    _read_agent_file(_patched(_agent_file(), data))


def job_file_cells(data: bytes) -> None:
    """A job's file with odd values in its cells can be shown, or is refused as none of ours."""
    cells = [_cell(part) for part in data.split(b"\0")][: len(_JOB_CELLS)]
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(_job_file())
        db.execute("PRAGMA ignore_check_constraints=1")
        for statement, value in zip(_JOB_CELLS, cells, strict=False):
            if value != b"":
                with suppress(sqlite3.Error):
                    db.execute(statement, (value,))
        db.commit()
        image = db.serialize()
    _show_job_file(image)


def job_file_bytes(data: bytes) -> None:
    """A job's file with some bytes changed can be shown, or is refused as none of ours."""
    _show_job_file(_patched(_job_file(), data))


# --- files -------------------------------------------------------------------------------

_JOB_CELLS = (
    "UPDATE config SET from_shark = ?",
    "UPDATE counters SET status = ?",
    "UPDATE counters SET reason = ?",
    "UPDATE counters SET objects = ?",
    "UPDATE counters SET bytes = ?",
    "UPDATE records SET object = ?",
    "UPDATE records SET key = ?",
    "UPDATE progress SET status = ?",
    "UPDATE progress SET bytes = ?",
    "UPDATE progress SET tried = ?",
    "UPDATE scans SET position = ?",
    "UPDATE scans SET until = ?",
    "UPDATE duplicates SET shards = ?",
    "UPDATE rounds SET found = ?",
)


@cache
def folder() -> Path:
    """A folder for files that live as long as one input."""
    return Path(tempfile.mkdtemp(prefix="rebalancer-fuzz-"))


@cache
def _agent_file() -> bytes:
    store = AssignmentStore(folder() / "agent")
    store.prepare()
    source = {"datacenter": "dc1", "manta_storage_id": "1.stor.lab"}
    task = {"object_id": OBJECT, "owner": ACCOUNT, "md5sum": MD5, "source": source}
    assignment = read_assignment({"id": OBJECT, "tasks": [task, {**task, **_OF_BUCKET}]})
    store.save(Posted.of(assignment, Dialect.LEGACY))
    found = store.find(OBJECT)
    assert found is not None
    return found.read_bytes()


@cache
def _job_file() -> bytes:
    path = folder() / "job.sqlite"
    job_file.create(path, ORIGIN)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "INSERT OR REPLACE INTO counters VALUES ('complete', '', 1, 1000);"
            "INSERT INTO records (number, id, shard, key, etag, object)"
            " VALUES (1, 'a', 1, '/k', 'E', '{}');"
            "INSERT INTO progress (number, status, bytes) VALUES (1, 'complete', 1000);"
            "INSERT INTO scans VALUES (1, '_id', 5, 10, 0);"
            "INSERT INTO duplicates VALUES ('a', '/k', '[1, 2]');"
            "INSERT INTO rounds (round) VALUES (1);"
        )
        db.execute("PRAGMA journal_mode=DELETE")
        return db.serialize()


def _read_agent_file(image: bytes) -> None:
    path = folder() / OBJECT
    path.write_bytes(image)
    with suppress(RebalancerError):
        stored = read_stored(path)
        for state in ReportedState:
            report = stored.report(state)
            json.dumps(report_to_wire(report, stored.dialect))
            detect_dialect(report_to_wire(report, stored.dialect))


def _show_job_file(image: bytes) -> None:
    path = folder() / "shown.sqlite"
    path.write_bytes(image)
    with suppress(RebalancerError):
        overview = views.read_job(path)
        json.dumps(attrs.asdict(render.results(overview.status)))
    for kind in views.REPORT:
        with suppress(RebalancerError):
            _, rows = views.report_page(path, kind, 0)
            json.dumps(list(rows), default=str)
    with suppress(RebalancerError):
        views.objects_page(path, None, None, 0, 10)
    for part in views.RETRYABLE:
        with suppress(RebalancerError):
            EarlierJob(path).page(part, 0)


def _patched(image: bytes, data: bytes) -> bytes:
    """`image` with changes drawn from `data`: three bytes of place and one of value each."""
    made = bytearray(image)
    for at in range(0, len(data) - 3, 4):
        place = int.from_bytes(data[at : at + 3], "big") % len(made)
        made[place] = data[at + 3]
    return bytes(made)


def _cell(part: bytes) -> Any:
    """A value of sqlite, its type by the first byte: i an integer, f a float, n NULL, t text."""
    kind, rest = part[:1], part[1:]
    match kind:
        case b"i":
            return int.from_bytes(rest[:8], "big", signed=True)
        case b"f":
            with suppress(ValueError):
                return float(rest.decode("latin-1"))
            return 0.5
        case b"n":
            return None
        case b"t":
            return rest.decode(errors="replace")
    return part


# --- all of them -------------------------------------------------------------------------

_OF_BUCKET = {"bucket_id": ACCOUNT, "object_name_hash": "d41d8cd98f00b204e9800998ecf8427e"}
_TASK = {
    "object_id": OBJECT,
    "owner": ACCOUNT,
    "md5sum": MD5,
    "source": {"datacenter": "dc1", "manta_storage_id": "3.stor.lab"},
}
_RECORD = {
    "key": "/account/stor/a",
    "objectId": OBJECT,
    "owner": ACCOUNT,
    "contentMD5": MD5,
    "contentLength": 5,
    "sharks": [attrs.asdict(ORIGIN), {"datacenter": "dc3", "manta_storage_id": "3.stor.lab"}],
}
_MANAGER = {
    "domain_name": "lab",
    "shards": [{"host": "1.moray.lab"}],
    "options": {"max_sharks": 5, "use_static_md_update_threads": True},
    "hosts": {"1.moray.lab": "127.0.0.1:2020"},
    "blacklist_datacenters": ["dc9"],
}


def _text(value: Any) -> bytes:
    return dumps(value).encode()


TARGETS: Mapping[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "fast_frames": (
        fast_frames,
        tuple(
            fast.encode(fast.Message(1, status, "getObject", data))
            for status, data in (
                (fast.Status.DATA, [{"bucket": "manta", "value": {"a": "é"}}]),
                (fast.Status.END, []),
                (fast.Status.ERROR, {"name": "NoError", "message": "none"}),
            )
        ),
    ),
    "http_answers": (
        http_answers,
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;x=1\r\nabc\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.0 404 No\r\n\r\nabc",
        ),
    ),
    "request_bodies": (
        request_bodies,
        (
            _text({"id": OBJECT, "tasks": [_TASK]}),
            _text({"id": OBJECT, "tasks": [{**_TASK, **_OF_BUCKET}]}),
            _text([OBJECT, [{**_TASK, "status": {"state": "Pending"}}]]),
            _text({"action": "evacuate", "params": {"from_shark": "1.stor", "max_objects": 10}}),
            _text({"action": "set_metadata_threads", "params": 3}),
            _text({"bandwidth_bytes_per_s": 10, "workers_per_assignment": 4}),
        ),
    ),
    "queries": (
        queries,
        (b"status=skipped&reason=x&after=5&limit=10", f"17.{OBJECT}".encode()),
    ),
    "agent_reports": (
        agent_reports,
        (
            _text(
                {
                    "uuid": OBJECT,
                    "stats": {
                        "state": {"Complete": [{**_TASK, "status": {"Failed": "MD5Mismatch"}}]},
                        "failed": 1,
                        "complete": 1,
                        "total": 1,
                    },
                }
            ),
            _text(
                {
                    "uuid": OBJECT,
                    "stats": {"state": "Running", "failed": 0, "complete": 1, "total": 2},
                }
            ),
        ),
    ),
    "records": (records, (_text(_RECORD), _text({**_RECORD, "creator": ACCOUNT, "n": 1.0}))),
    "manager_configuration": (manager_configuration, (_text(_MANAGER),)),
    "agent_configuration": (
        agent_configuration,
        (
            b'[server]\nhost = "0.0.0.0"\nport = 7878\n[storage]\nmanta_root = "/manta"\n'
            b'[source]\nallowed_domains = ["lab"]\n[log]\nlevel = "info"\n',
        ),
    ),
    "listing_files": (
        listing_files,
        (b'{"key": "/account/stor/a", "shard": 2}\n{"key": "/b"}\n',),
    ),
    "agent_file_cells": (
        agent_file_cells,
        (
            b'\0\0\0\0\0t{"Failed":"MD5Mismatch"}\0tlegacy\0i\0\0\0\1',
            b"t" + OBJECT.encode() + b"\0n",
        ),
    ),
    "agent_file_bytes": (agent_file_bytes, (b"\0\0\x10\5", b"\0\x10\0\xff\0\0\x12\1")),
    "job_file_cells": (
        job_file_cells,
        (b't{"datacenter":"dc1"}\0tcomplete\0t\0i\0\0\0\1', b"\0\0\0\0\0t{}\0t/k\0tskipped"),
    ),
    "job_file_bytes": (job_file_bytes, (b"\0\0\x10\5", b"\0\x10\0\xff\0\0\x12\1")),
}
