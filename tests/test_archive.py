"""Compiled modules of an archive are unpacked for one user, safely beside others."""

import errno
import os
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rebalancer.archive import Unpacking, choose_folder, is_archive, itself

CONTENT = {"a/b.so": b"module" * 50_000, "a.libs/c.so": b"library" * 50_000}


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[[], str | None]:
    """Find the compiled module `a.b`, which needs a library."""
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as out:
        for name, content in CONTENT.items():
            out.writestr(name, content)
    sizes = [(name, len(content)) for name, content in CONTENT.items()]
    finder = Unpacking(str(archive), {"a.b": sizes}, str(tmp_path / "unpacked"))

    def find() -> str | None:
        assert finder.find_spec("a") is None
        spec = finder.find_spec("a.b")
        return spec.origin if spec else None

    return find


def unpacked(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_module_is_unpacked_with_its_libraries(
    unpack: Callable[[], str | None], tmp_path: Path
) -> None:
    """The loader finds the libraries where the wheel has them, relative to the module."""
    assert unpack() == str(tmp_path / "unpacked" / "a" / "b.so")
    assert unpacked(tmp_path / "unpacked") == CONTENT


def test_what_was_removed_or_cut_short_is_unpacked_again(
    unpack: Callable[[], str | None], tmp_path: Path
) -> None:
    """Cleaners remove old temporary files, and a crash leaves empty ones; what is whole stays."""
    unpack()
    whole = tmp_path / "unpacked" / "a" / "b.so"
    before = whole.stat().st_ino
    (tmp_path / "unpacked" / "a.libs" / "c.so").unlink()
    unpack()
    assert unpacked(tmp_path / "unpacked") == CONTENT
    assert whole.stat().st_ino == before

    whole.write_bytes(b"")
    unpack()
    assert unpacked(tmp_path / "unpacked") == CONTENT


def test_several_unpack_at_a_time(unpack: Callable[[], str | None], tmp_path: Path) -> None:
    """Each finds whole files, and nothing unfinished is left."""
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: unpack(), range(8)))

    assert set(found) == {str(tmp_path / "unpacked" / "a" / "b.so")}
    assert unpacked(tmp_path / "unpacked") == CONTENT


def test_a_disk_that_is_full_keeps_nothing_of_a_try(
    unpack: Callable[[], str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service is started again and again, and each try would leave another part of a file."""

    def refuse(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            unpack()
    assert unpacked(tmp_path / "unpacked") == {}

    unpack()
    assert unpacked(tmp_path / "unpacked") == CONTENT


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make a home without a cache; temporary files have a folder of their own."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, variable in (("home", "HOME"), ("temporary", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path / "home"


def test_compiled_modules_are_cached_at_home(home: Path) -> None:
    """They lie where cached files belong, and are found there again."""
    folder = home / ".cache" / "rebalancer" / "v1"

    assert [choose_folder("v1"), choose_folder("v1")] == [str(folder)] * 2
    assert folder.stat().st_mode & 0o777 == 0o700


def test_who_has_no_home_gets_a_folder_of_temporary_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of a storage node's agent is nobody, whose home does not exist."""
    monkeypatch.setenv("HOME", "/nonexistent")

    expected = home.parent / "temporary" / f"rebalancer-{os.geteuid()}-v1"
    assert choose_folder("v1") == str(expected)
    assert expected.stat().st_mode & 0o777 == 0o700


def test_no_code_is_loaded_from_what_others_may_have_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A link or a folder of another user is refused; the message names both, and the remedy."""
    (home / ".cache").mkdir()
    (home / ".cache").chmod(0o777)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "temporary" / f"rebalancer-{os.geteuid()}-v1").symlink_to(elsewhere)

    with pytest.raises(OSError, match="by others.*not a folder of this user.*XDG_CACHE_HOME"):
        choose_folder("v1")

    (home / ".cache").chmod(0o700)
    other = os.geteuid() + 1
    (tmp_path / "temporary" / f"rebalancer-{other}-v1").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: other)
    with pytest.raises(OSError, match="not a folder of this user's"):
        choose_folder("v1")


def test_a_folder_without_executables_is_passed_over(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader cannot map files of a file system that is mounted so."""
    real = os.statvfs

    class Mounted:
        def __init__(self, path: str) -> None:
            self.f_flag = real(path).f_flag | (os.ST_NOEXEC if path.startswith(str(home)) else 0)

    monkeypatch.setattr("os.statvfs", Mounted)

    assert choose_folder("v1").startswith(str(home.parent / "temporary"))


def test_an_installed_program_is_run_by_python_alone() -> None:
    """Only an archive is named in the command that runs its modules."""
    assert not is_archive()
    assert itself() == [sys.executable]
