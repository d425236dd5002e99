"""Folders of checks are removed however a run ends, also beside a file system that hangs."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rebalancer.doctor import scratch as module
from rebalancer.doctor.scratch import PREFIX, STALE_S, Scratch


def test_scratch_is_gone_in_the_end_and_what_was_left_is_removed(tmp_path: Path) -> None:
    """By a run that was killed; that of a run at work is not touched."""
    old, new = tmp_path / f"{PREFIX}old", tmp_path / f"{PREFIX}new"
    old.mkdir()
    new.mkdir()
    (old / "file").touch()
    os.utime(old, (0, old.stat().st_mtime - 2 * STALE_S))
    scratch = Scratch()
    made = scratch.folder(tmp_path / "not" / "there")
    assert sorted(tmp_path.iterdir()) == sorted([made, new])

    scratch.close()
    assert list(tmp_path.iterdir()) == [new]
    with pytest.raises(OSError, match="over"):
        scratch.folder(tmp_path)


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Lets go what hangs at the end of the test, and bounds a wait for it."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    let_go = threading.Event()
    yield let_go
    let_go.set()


def test_a_folder_that_is_never_made_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
) -> None:
    """Neither the check of another folder, nor the end."""
    make, begun = tempfile.mkdtemp, threading.Event()

    def mkdtemp(dir: Path, **more: Any) -> str:
        if dir.name == "hangs":
            begun.set()
            hangs.wait()
        return make(dir=dir, **more)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    scratch = Scratch()
    (tmp_path / "hangs").mkdir()
    check = threading.Thread(target=scratch.folder, args=(tmp_path / "hangs",), daemon=True)
    check.start()
    begun.wait()

    made = scratch.folder(tmp_path)
    scratch.close()

    assert check.is_alive()
    assert not made.exists()


def test_a_folder_that_cannot_be_removed_holds_no_end_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
) -> None:
    """The next run removes it."""
    scratch = Scratch()
    made = scratch.folder(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: hangs.wait())

    scratch.close()

    assert made.exists()
