"""This module looks at a manager's list of jobs, which a newer version may have left."""

from rebalancer.doctor.judge import setup as judge
from rebalancer.doctor.subject import Subject
from rebalancer.manager.store.schema import INDEX

#: Where sqlite keeps a file's version: its header is read alone, so that nothing is made beside it.
_MAGIC, _VERSION = b"SQLite format 3\0", slice(60, 64)


def listed(subject: Subject) -> judge.ListOfJobs:
    """Return the version of the list of jobs."""
    path = subject.state.path / "rebalancer.sqlite"
    try:
        with path.open("rb") as file:
            head = file.read(_VERSION.stop)
    except (FileNotFoundError, NotADirectoryError):  # the manager makes one, or `folders` says why
        return judge.ListOfJobs(str(path), None, INDEX.newest)
    except OSError as exc:
        return judge.ListOfJobs(str(path), None, INDEX.newest, exc.strerror or str(exc))
    # What is no list is moved aside by the manager.
    version = int.from_bytes(head[_VERSION]) if head.startswith(_MAGIC) else 0
    return judge.ListOfJobs(str(path), version, INDEX.newest)
