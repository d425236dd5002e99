"""This module judges a Python with its libraries, its limits, its clock and its locale.  Pure."""

import math
from collections.abc import Collection, Iterator, Sequence

import attrs

from rebalancer.doctor.findings import Finding, ok, stops, warning

Version = tuple[int, ...]

#: Versions of Python that all tests run with: from the first to the last.
PYTHON: tuple[Version, Version] = (3, 11), (3, 14)
#: The first sqlite with RETURNING, and the first whose ON CONFLICT has no known fault.
SQLITE: Version = (3, 35)
SQLITE_UPSERT: Version = (3, 37, 1)
#: The first sqlite of each minor version without a rare fault of two connections that write to one
#: file at a time.  No version above the last of these has the fault.
SQLITE_WAL_RESET: Sequence[Version] = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
#: A clock before this time was never set: 2025-01-01.
EPOCH_OF_RELEASE = 1_735_689_600
#: Seconds that two clocks may be apart.
SKEW_S = 5.0


def spell(version: Version) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def event_loop(names: Collection[str]) -> Finding:
    """Judge the names in Python's module `select`."""
    for name in ("epoll", "kqueue"):
        if name in names:
            return ok(name)
    # Builds of Python for illumos often have neither.
    return stops(
        "this Python cannot wait for many sockets, for its module select has neither epoll nor"
        " kqueue",
        "one of them",
        "use a Python built with one of them, or run the manager in a Linux zone",
    )


def python(version: Version) -> Finding:
    """Judge the version of Python."""
    first, last = PYTHON
    expected = f"{spell(first)} to {spell(last)}"
    if version[:2] < first:
        return stops(f"Python {spell(version)}", expected, "use a newer Python")
    if version[:2] > last:
        found = f"Python {spell(version)}, with which nothing was tested"
        return warning(found, expected, "use a tested version, or run tools/test with this one")
    return ok(f"Python {spell(version)}")


@attrs.frozen
class Sqlite:
    """A `Sqlite` is the library that Python was built with, and what it could not do."""

    version: Version
    threadsafety: int
    #: Features that are needed, and that a try has not found.
    missing: tuple[str, ...] = ()


def sqlite(seen: Sqlite) -> Finding:
    """Judge sqlite, in which both programs keep their state."""
    found = f"sqlite {spell(seen.version)}"
    newer = "use a Python with a newer sqlite"
    if seen.version < SQLITE or seen.missing:
        lack = f", without {', '.join(seen.missing)}" if seen.missing else ""
        return stops(f"{found}{lack}", f"{spell(SQLITE)} or newer, with all features", newer)
    if not seen.threadsafety:
        return stops(f"{found}, built for a single thread", "one for several threads", newer)
    if seen.version < SQLITE_UPSERT:
        upsert = f"{found}, in which ON CONFLICT can go wrong"
        return warning(upsert, f"{spell(SQLITE_UPSERT)} or newer", newer)
    if _has_wal_reset_fault(seen.version):
        # The programs have one writer a file, so they cannot meet it by themselves.
        return ok(
            f"{found}; because of a rare fault, mended in {spell(SQLITE_WAL_RESET[-1])}, let no"
            " other program write to a state file while ours runs"
        )
    return ok(found)


def _has_wal_reset_fault(version: Version) -> bool:
    mended = [fixed for fixed in SQLITE_WAL_RESET if fixed[:2] == version[:2]]
    return version < (mended[0] if mended else SQLITE_WAL_RESET[-1])


@attrs.frozen
class Library:
    """A library that a program needs, with the lowest version that will do."""

    name: str
    version: Version | None
    least: Version


def libraries(needed: Sequence[Library]) -> Iterator[Finding]:
    """Judge the Python packages that were found."""
    if not needed:
        yield ok("they came with the program")
        return
    wrong = False
    for one in needed:
        if one.version is None or one.version < one.least:
            wrong = True
            has = "is missing" if one.version is None else f"has version {spell(one.version)}"
            yield stops(
                f"the Python package {one.name} {has}",
                f"{spell(one.least)} or newer",
                f"pip install '{one.name}>={spell(one.least)}', or use the one file",
            )
    if not wrong:
        yield ok(f"{len(needed)} Python packages, each new enough")


@attrs.frozen
class Native:
    """A native library, its version as it says, or the trouble with loading it."""

    name: str
    version: str
    trouble: str = ""
    is_needed: bool = True
    #: What is done without it, and what to install.
    otherwise: str = ""
    install: str = ""


def natives(seen: Sequence[Native]) -> Iterator[Finding]:
    """Judge native libraries."""
    for one in seen:
        if not one.trouble:
            yield ok(f"{one.name} {one.version}")
        elif one.is_needed:
            found = f"{one.name} cannot be loaded: {one.trouble}"
            yield stops(found, "the library", one.install)
        else:
            found = f"{one.name} cannot be loaded: {one.trouble}; {one.otherwise}"
            yield warning(found, "the library", one.install)


def encoding(locale_says: str, files: str) -> Finding:
    """Judge the encodings of texts and of the names of files."""
    others = [f"{name} in {what}" for name, what in ((locale_says, "texts"), (files, "names"))
              if name.lower().replace("-", "").replace("_", "") != "utf8"]  # fmt: skip
    if others:
        return warning(
            f"the locale has {' and '.join(others)}",
            "UTF-8, by which configurations and keys are read",
            "set LC_ALL=C.UTF-8, or PYTHONUTF8=1, in the service's environment",
        )
    return ok("UTF-8")


#: Files of a program's own: its log, its libraries, its lock, what it reads now and then.
OWN_FILES = 64
#: Files of the manager that go with each job: the job's database and its log, read and written.
FILES_OF_A_JOB = 12
#: Connections of a job to a buckets shard: to its primary three, its clone one, its server four.
FILES_OF_A_BUCKETS_SHARD = 8
#: The most files that connections by HTTP may have, ours and those to both ports, and the part of
#: a lower limit that is theirs.
SHARED_FILES, SHARE = 1576, 9 / 16


def files_of_manager(shards: int, connections: int, clones: int, jobs: int) -> int:
    """Return how many files a manager can use, with so many connections to each shard."""
    own = OWN_FILES + jobs * (shards * connections + clones + FILES_OF_A_JOB)
    # Below the most, connections by HTTP take their part: what they leave must be enough.
    return min(own + SHARED_FILES, math.ceil(own / (1 - SHARE)))


def files_of_agent(pulls: int, processes: int) -> int:
    """Return how many files each process of an agent can use, with so many pulls in all."""
    each = math.ceil(pulls / max(processes, 1))
    # The socket, the file that it fills, and what a look-up of the name opens.
    return math.ceil((OWN_FILES + 3 * each) / (1 - SHARE))


@attrs.frozen
class Files:
    """The limits of open files, None for none, and how many the configuration can use."""

    soft: int | None
    hard: int | None
    needed: int
    #: Whether the program raises the soft limit to the hard one.
    is_raised: bool


def files(seen: Files) -> Finding:
    """Judge the limit of open files."""
    limit = seen.hard if seen.is_raised else seen.soft
    spelt = ["none" if one is None else f"{one:,}" for one in (seen.soft, seen.hard)]
    found = f"soft limit {spelt[0]}, hard limit {spelt[1]}"
    if limit is not None and limit < seen.needed:
        which = "hard limit" if seen.is_raised else "soft limit"
        return warning(
            found,
            f"{seen.needed:,} at least, for the connections that the configuration allows",
            f"raise the {which}: LimitNOFILE= of a systemd unit, ulimit -n in a script, or"
            " process.max-file-descriptor of an SMF project",
        )
    return ok(f"{found}; up to {seen.needed:,} are needed")


@attrs.frozen
class Clock:
    """The clocks of this machine: its time, how far that of files is ahead, a monotonic step."""

    now_s: float
    #: None where no file could be made.
    files_ahead_s: float | None
    monotonic_s: float


def clock(seen: Clock) -> Iterator[Finding]:
    """Judge this machine's clocks."""
    set_it = "start NTP, and set the clock"
    trouble = False
    if seen.now_s < EPOCH_OF_RELEASE:
        trouble = True
        yield warning("the clock was never set: it is before 2025", "the time", set_it)
    if seen.monotonic_s <= 0:
        trouble = True
        yield stops(
            "the monotonic clock stands still",
            "one that runs, or no wait would end",
            "restart the machine; in a virtual one see to its clock source",
        )
    if seen.files_ahead_s is not None and abs(seen.files_ahead_s) > SKEW_S:
        trouble = True
        yield warning(
            f"the file system's clock is {apart(seen.files_ahead_s)} this machine's",
            f"{SKEW_S:g} s at most",
            "set the clock of the machine that the files lie on",
        )
    if not trouble:
        yield ok("the clock is set, and that of the files agrees with it")


def apart(ahead_s: float) -> str:
    """Spell how far one clock is from another."""
    return f"{abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"
