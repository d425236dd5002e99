"""A real PostgreSQL has tables as Moray makes them, where one is installed.  Blocking."""

import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import psycopg

from rebalancer.peers.buckets.database import DATABASE as BUCKETS_DATABASE
from rebalancer.peers.postgres import DATABASE, USER
from rebalancer_devregion.processes import ProcessError, find_program

Connection = psycopg.Connection[tuple[Any, ...]]

#: It answers within this many seconds of its start.
START_S = 30.0
_LOOK_S = 0.02
#: PostgreSQL refuses to run as root; any account without rights will do.
UNPRIVILEGED = "nobody"

#: Columns of `manta` besides its ids.
COLUMNS = (
    "_txn_snap",
    "_key",
    "_value",
    "_etag",
    "_mtime",
    "_vnode",
    "dirname",
    "name",
    "owner",
    "objectid",
    "type",
)
_OTHERS = """
    _txn_snap integer, _key text NOT NULL PRIMARY KEY, _value text NOT NULL,
    _etag character(8) NOT NULL,
    _mtime bigint DEFAULT (date_part('epoch', now()) * 1000)::bigint, _vnode bigint,
    dirname text, name text, owner text, objectid text, type text
"""
_INDEXED = ("_etag", "_id", "_mtime", "_vnode", "dirname", "name", "objectid", "owner", "type")
#: Columns of a bucket object; its row as a whole is what a deletion keeps.
BUCKET_COLUMNS = (
    "id",
    "name",
    "owner",
    "bucket_id",
    "created",
    "modified",
    "content_length",
    "content_md5",
    "content_type",
    "headers",
    "sharks",
    "properties",
)
_BUCKET_OBJECT = """
    id uuid NOT NULL, name text NOT NULL, owner uuid NOT NULL, bucket_id uuid NOT NULL,
    created timestamptz DEFAULT current_timestamp NOT NULL,
    modified timestamptz DEFAULT current_timestamp NOT NULL,
    content_length bigint NOT NULL, content_md5 bytea NOT NULL, content_type text NOT NULL,
    headers hstore, sharks text[], properties jsonb
"""
#: The tables of a vnode.
_BUCKET_SCHEMA = f"""
    CREATE SCHEMA {{schema}}
    CREATE TABLE manta_bucket (
        id uuid NOT NULL, name text NOT NULL, owner uuid NOT NULL,
        created timestamptz DEFAULT current_timestamp NOT NULL, PRIMARY KEY (owner, name)
    )
    CREATE TABLE manta_bucket_object ({_BUCKET_OBJECT}, PRIMARY KEY (owner, bucket_id, name))
    CREATE TABLE manta_bucket_deleted_object (
        {_BUCKET_OBJECT}, deleted_at timestamptz DEFAULT current_timestamp NOT NULL,
        PRIMARY KEY (owner, bucket_id, name, id)
    )
"""


@attrs.define(eq=False)
class Cluster:
    """A cluster is one server and its folder, which may lie where `UNPRIVILEGED` cannot go.

    Mutable state: the process, while it runs.
    """

    folder: Path
    host: str
    port: int
    _popen: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return host and port for a `hosts` table."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, on the data of its last run if there are any; return when it answers.

        Raises:
          ProcessError: it is not installed, or does not start.
        """
        if not (self.folder / "PG_VERSION").exists():
            self._make()
        self._end_former()
        quick = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
        where = (f"listen_addresses={self.host}", f"port={self.port}", "unix_socket_directories=")
        options = [word for option in (*quick, *where) for word in ("-c", option)]
        with (self.folder / "server.log").open("ab") as log, self._entered() as entered:
            self._popen = subprocess.Popen(
                [_program("postgres"), "-D", f"/proc/self/fd/{entered}", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=_user(),
                pass_fds=[entered],
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._popen.poll() is None:
            if self.is_running:
                return
            time.sleep(_LOOK_S)
        tail = (self.folder / "server.log").read_text(errors="replace")[-2000:]
        raise ProcessError(f"PostgreSQL does not start:\n{tail}")

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if (user := _user()) is not None:
            os.chown(self.folder, user, -1)
        with self._entered() as entered:
            made = subprocess.run(
                [
                    *(_program("initdb"), "-D", f"/proc/self/fd/{entered}", f"--username={USER}"),
                    *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
                ],
                user=user,
                pass_fds=[entered],
                capture_output=True,
                cwd="/",
                check=False,
            )
        if made.returncode:
            raise ProcessError(f"initdb: {made.stderr.decode(errors='replace')}")

    @contextmanager
    def _entered(self) -> Iterator[int]:
        """Open the folder, so that a process which inherits this needs no way to it."""
        entered = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield entered
        finally:
            os.close(entered)

    def _end_former(self) -> None:
        """End the server whose parent was killed, and which has the folder still."""
        try:
            pid = int((self.folder / "postmaster.pid").read_text().split()[0])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if f"listen_addresses={self.host}".encode() in words:
                os.kill(pid, signal.SIGINT)
        except (OSError, ValueError, IndexError):
            return
        deadline = time.monotonic() + START_S
        while (self.folder / "postmaster.pid").exists() and time.monotonic() < deadline:
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """End it at once, with all its connections."""
        if self._popen is not None:
            # Its fast shutdown: on SIGTERM it would wait for its clients.
            self._popen.send_signal(signal.SIGINT)
            self._popen.wait(START_S)

    @property
    def is_running(self) -> bool:
        """Tell whether it answers, whoever started it."""
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, database: str = DATABASE) -> Connection:
        """Connect as superuser, each statement a transaction; the caller closes the connection."""
        return psycopg.connect(
            host=self.host, port=self.port, user=USER, dbname=database, autocommit=True
        )

    def create(self, *, id_type: str = "bigint", has_idx: bool = False) -> None:
        """Make the database `moray` with an empty table `manta`, as Moray does.

        Old tables have `id_type` integer, and the second id column once these have run out.
        """
        with closing(self.connect("postgres")) as db:
            db.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
            db.execute(f"CREATE DATABASE {DATABASE}".encode())
        idx = ", _idx bigint" if has_idx else ""
        with closing(self.connect()) as db:
            db.execute("CREATE SEQUENCE manta_serial")
            ids = f"_id {id_type} DEFAULT nextval('manta_serial'){idx}"
            db.execute(f"CREATE TABLE manta ({ids}, {_OTHERS})".encode())
            for column in (*_INDEXED, *(["_idx"] if has_idx else [])):
                db.execute(
                    f"CREATE INDEX manta_{column}_idx ON manta ({column})"
                    f" WHERE {column} IS NOT NULL".encode()
                )

    def create_buckets(self, vnodes: Iterable[int], *, collation: str | None = None) -> None:
        """Make the database of a shard of the buckets tier, with the empty tables of `vnodes`.

        `collation` is a language of ICU by which it sorts, in place of the order of bytes.
        """
        locale = f" LOCALE_PROVIDER icu ICU_LOCALE '{collation}'" if collation else ""
        with closing(self.connect("postgres")) as db:
            db.execute(f"DROP DATABASE IF EXISTS {BUCKETS_DATABASE} WITH (FORCE)".encode())
            db.execute(f"CREATE DATABASE {BUCKETS_DATABASE}{locale} TEMPLATE template0".encode())
        with closing(self.connect(BUCKETS_DATABASE)) as db:
            db.execute("CREATE EXTENSION hstore")
            for vnode in vnodes:
                db.execute(bucket_schema(vnode))

    def fill(self, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows of `manta`; `names` are their columns."""
        with closing(self.connect()) as db:
            statement = f"COPY manta ({', '.join(names)}) FROM STDIN".encode()
            with db.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
            db.execute("ANALYZE manta")


def bucket_schema(vnode: int) -> bytes:
    """Return the statement that makes the tables of a vnode of the buckets tier."""
    return _BUCKET_SCHEMA.format(schema=f"manta_bucket_{vnode}").encode()


def _program(name: str) -> str:
    path = find_program(name)
    if path is None:
        raise ProcessError(f"{name} is not installed")
    return path


def _user() -> int | None:
    return None if os.geteuid() else pwd.getpwnam(UNPRIVILEGED).pw_uid


@contextmanager
def running(host: str = "127.0.0.1", port: int = 0) -> Iterator[Cluster]:
    """Run a new server in a temporary folder; `port` 0 takes a free one.

    Raises:
      ProcessError: it is not installed, or does not start.
    """
    if not port:
        with socket.create_server((host, 0)) as probe:
            port = int(probe.getsockname()[1])
    folder = Path(tempfile.mkdtemp(prefix="rebalancer-postgres-"))
    cluster = Cluster(folder, host, port)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def clone_shard(cluster: Cluster, shard_file: Path) -> None:
    """Fill `manta` with what an embedded Moray's file holds now: a clone stays as it was."""
    cluster.create()
    with closing(sqlite3.connect(f"file:{shard_file}?mode=ro", uri=True)) as db:
        names = ("_id", *COLUMNS)
        cluster.fill(names, db.execute(f"SELECT {', '.join(names)} FROM manta ORDER BY _id"))
