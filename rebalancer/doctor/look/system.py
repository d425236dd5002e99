"""This module looks at Python and its libraries, at limits, clocks and encodings."""

import importlib
import locale
import os
import pwd
import re
import resource
import select
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from rebalancer.archive import is_archive
from rebalancer.config import AgentConfig, ManagerConfig
from rebalancer.doctor.judge import system as judge
from rebalancer.doctor.subject import MANAGER, Subject
from rebalancer.natives import PACKAGES, describe

#: A statement for each feature of sqlite that the programs use.
FEATURES = {
    "json_each": "SELECT value FROM json_each('[1]')",
    "ON CONFLICT": "INSERT INTO t VALUES (1) ON CONFLICT (n) DO UPDATE SET n = 1",
    "RETURNING": "UPDATE t SET n = 1 RETURNING n",
    "window functions": "SELECT count(*) OVER () FROM t",
}


def event_loop(_subject: Subject) -> list[str]:
    """Return the names of what Python can wait with."""
    return dir(select)


def python(_subject: Subject) -> judge.Version:
    """Return the version of Python."""
    return sys.version_info[:3]


def sqlite(_subject: Subject) -> judge.Sqlite:
    """Try the features of sqlite, in memory."""
    missing = []
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY) WITHOUT ROWID")
        for name, statement in FEATURES.items():
            try:
                db.execute(statement).fetchall()
            except sqlite3.Error:
                missing.append(name)
    return judge.Sqlite(sqlite3.sqlite_version_info, sqlite3.threadsafety, tuple(missing))


def libraries(_subject: Subject) -> list[judge.Library]:
    """Look up the versions of the Python packages that ours requires.

    The one file brings the versions that it was built with, and requires none.
    """
    if is_archive():
        return []
    from importlib import metadata  # which takes 20 ms, and no start looks here

    try:
        required = metadata.requires("manta-rebalancer") or []
    except metadata.PackageNotFoundError:
        return []
    return [library for line in required if (library := _library(line)) is not None]


_REQUIREMENT = re.compile(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:\s*;(.*))?$")
_PLATFORM = re.compile(r'sys_platform\s*(==|!=)\s*"(\w+)"')


def _library(line: str) -> judge.Library | None:
    """Read a requirement; None for one of an extra or of another platform, or one in vain."""
    from importlib import metadata

    found = _REQUIREMENT.match(line)
    marker = (found and found[3]) or ""
    clauses = _PLATFORM.findall(marker)
    is_here = any((sys.platform == name) is (sign == "==") for sign, name in clauses)
    if found is None or "extra" in marker or (marker and not is_here):
        return None
    try:
        version = _numbers(metadata.version(found[1]))
    except metadata.PackageNotFoundError:
        if found[1] in PACKAGES:  # there is another form of it
            return None
        version = None
    return judge.Library(found[1], version, _numbers(found[2]))


def _numbers(text: str) -> judge.Version:
    """Return the numbers that a version begins with."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def natives(subject: Subject) -> list[judge.Native]:
    """Load the native libraries of a program."""
    forms = dict(describe())
    build = forms.pop("build")
    spelt = ", ".join(f"{part}: {form}" for part, form in forms.items())
    one = _libpq if subject.program == MANAGER else _libcurl
    return [judge.Native("build", f"{build} ({spelt})"), one(subject.config)]


def _libpq(config: object) -> judge.Native:
    is_needed = isinstance(config, ManagerConfig) and (
        config.discovery == "direct_db" or config.looks_at_buckets
    )
    otherwise = "no clone can be searched, and no bucket object moved"
    install = "pip install 'psycopg[binary]', or install the system's libpq"
    try:
        pq = importlib.import_module("psycopg.pq")
        version = ".".join(map(str, divmod(pq.version(), 10000)))
    except ImportError as exc:
        return judge.Native("libpq", "", _line(exc), is_needed, otherwise, install)
    return judge.Native("libpq", f"{version} (psycopg: {pq.__impl__})")


def _libcurl(config: object) -> judge.Native:
    is_needed = isinstance(config, AgentConfig) and config.source.engine == "libcurl"
    if isinstance(config, AgentConfig) and config.source.engine == "plain":
        return judge.Native("libcurl", "is not used: source.engine is 'plain'")
    otherwise = "objects are pulled by the plain engine, which is slower"
    install = "install pycurl: pip, apt or pkgin; or set source.engine to 'plain'"
    try:
        pycurl = importlib.import_module("pycurl")
    except ImportError as exc:
        return judge.Native("libcurl", "", _line(exc), is_needed, otherwise, install)
    return judge.Native("libcurl", str(pycurl.version_info()[1]))


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def encoding(_subject: Subject) -> tuple[str, str]:
    """Return the encodings of texts and of the names of files."""
    return locale.getencoding() if not sys.flags.utf8_mode else "utf-8", sys.getfilesystemencoding()


def clock(subject: Subject) -> judge.Clock:
    """Compare this machine's clock with that of the file system of the program's state."""
    started = time.monotonic()
    ahead = None
    try:
        folder = subject.scratch.folder(subject.state.path)
        file = folder / "clock"
        before = time.time()
        file.write_bytes(b"")
        after = time.time()
        stamped = file.stat().st_mtime
        # A file system may keep whole seconds, and the kernel's time of a tick ago.
        ahead = 0.0 if before - 2 <= stamped <= after + 2 else stamped - after
    except OSError:
        pass
    time.sleep(0.01)
    return judge.Clock(time.time(), ahead, time.monotonic() - started)


def files(subject: Subject) -> judge.Files:
    """Return the limits of open files, and how many the configuration can use."""
    soft, hard = (
        None if one == resource.RLIM_INFINITY else one
        for one in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if subject.program == MANAGER:
        config, options = subject.manager, subject.manager.options
        shards = len(config.shards)
        clones = shards if config.discovery == "direct_db" else 0
        connections, jobs = options.max_metadata_update_threads, config.max_concurrent_jobs
        buckets = (config.bucket_primaries, config.bucket_clones, config.bucket_servers)
        clones += judge.FILES_OF_A_BUCKETS_SHARD * len(set().union(*buckets))
        needed = judge.files_of_manager(shards, connections, clones, jobs)
        return judge.Files(soft, hard, needed, is_raised=True)
    server = subject.agent.server
    pulls = server.workers * server.workers_per_assignment
    return judge.Files(soft, hard, judge.files_of_agent(pulls, server.fetchers), is_raised=False)


def user() -> str:
    """Return the name of the user of this process."""
    return name_of(os.geteuid())


def name_of(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def owner(path: Path) -> str | None:
    """Return the owner of a file or folder, None if it is not there."""
    try:
        return name_of(path.stat().st_uid)
    except OSError:
        return None
