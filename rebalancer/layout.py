"""A layout is what a kind of state file looks like, with the steps from each version to the next.

sqlite's `user_version` tells which version a file has.  A file is brought to the newest one in a
single transaction, so a crash leaves it as it was; a file of a newer version is refused.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import attrs

from rebalancer.errors import StoreError

Step = Callable[[sqlite3.Connection], None]


def _no_tables(db: sqlite3.Connection) -> int:
    """Take a file without tables for version 0, else 1: for files that always had a version."""
    (count,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return int(count > 0)


@attrs.frozen
class Layout:
    """The look of files of one kind.

    `kind` is the name of the kind for people.  `script` makes a file of version `script_version`
    and is idempotent; it is frozen, as is each of the `steps`, which lead from version 1 to 2 and
    so on.  A new file takes the script, then the steps behind it.  `unversioned` returns the
    version of a file from before versions were kept, by its tables: 0 if it has none.
    """

    kind: str
    script: str
    steps: tuple[Step, ...] = ()
    unversioned: Callable[[sqlite3.Connection], int] = _no_tables
    script_version: int = 1

    @property
    def newest(self) -> int:
        """Return the version that this program writes."""
        return len(self.steps) + 1

    def is_newest(self, db: sqlite3.Connection) -> bool:
        """Tell whether the file has the newest version, so that nothing is to be done."""
        return _user_version(db) == self.newest

    def version(self, db: sqlite3.Connection) -> int:
        """Return the version of the file, 0 if it is empty."""
        return _user_version(db) or self.unversioned(db)

    def check(self, db: sqlite3.Connection, path: Path, *, must_exist: bool) -> None:
        """Refuse a file that `bring_up` cannot bring to the newest version.

        Raises:
          StoreError: it is of a newer version, or empty though it `must_exist`.
        """
        version = self.version(db)
        if version > self.newest:
            raise StoreError(
                f"{path} is {self.kind} of version {version}, made by a newer version of this"
                f" program, which knows versions up to {self.newest}: install that version"
                " again; it is left as it is"
            )
        if version == 0 and must_exist:
            raise StoreError(f"{path} is empty or of another kind: it is not {self.kind}")

    def bring_up(self, db: sqlite3.Connection) -> None:
        """Bring the file to the newest version, within the caller's transaction."""
        version = self.version(db)  # anew: another may have done so meanwhile
        if version == 0:
            run_script(db, self.script)
            version = self.script_version
        for step in self.steps[version - 1 :]:
            step(db)
        db.execute(f"PRAGMA user_version={self.newest}")


def _user_version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def run_script(db: sqlite3.Connection, script: str) -> None:
    """Run the statements of `script` within a transaction, which `executescript` would commit."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
