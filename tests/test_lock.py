"""A folder of state is one process's at a time, and free when that process is gone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rebalancer.errors import StoreError
from rebalancer.lock import LOCK_FILE, claimed

HOLD = """
import subprocess, sys
from pathlib import Path
from rebalancer.lock import claimed

with claimed(Path(sys.argv[1]), "holder"):
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
child.kill()
"""


@contextmanager
def holding(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that has claimed `folder`, and the number of a child of it that lives on."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process, child
    finally:
        process.kill()
        process.communicate()
        os.kill(child, signal.SIGKILL)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """It is told who has the folder; kill -9 frees it, though a child of the first lives on."""
    with holding(tmp_path / "db") as (first, child):
        expected = rf"{tmp_path}/db is in use by holder, process {first.pid}, since 20\d\d-.*Z$"
        with pytest.raises(StoreError, match=expected), claimed(tmp_path / "db", "second"):
            pass
        assert first.poll() is None
        first.kill()
        first.wait()
        os.kill(child, 0)
        with claimed(tmp_path / "db", "third"):
            assert (tmp_path / "db" / LOCK_FILE).read_text().startswith("third, process ")


def test_a_folder_is_free_after_an_orderly_end(tmp_path: Path) -> None:
    """Also of this process, which cannot claim it twice either."""
    for _ in range(2):
        with (
            claimed(tmp_path, "first"),
            pytest.raises(StoreError, match=f"in use by first, process {os.getpid()}"),
            claimed(tmp_path, "second"),
        ):
            pass


@pytest.mark.parametrize("kind", ["file in place of the folder", "folder", "symbolic link"])
def test_what_cannot_be_locked_is_named(tmp_path: Path, kind: str) -> None:
    """One line, with the path; a link is not followed out of the folder."""
    folder = tmp_path / "db"
    if kind == "folder":
        (folder / LOCK_FILE).mkdir(parents=True)
    elif kind == "symbolic link":
        folder.mkdir()
        (folder / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    else:
        folder.write_text("")
    with pytest.raises(StoreError, match=str(folder)), claimed(folder, "second"):
        pass
    assert not (tmp_path / "elsewhere").exists()
