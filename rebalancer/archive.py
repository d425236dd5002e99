"""This module runs the program from one file, an archive that Python imports from.

`tools/build` makes the archive.  Python imports sources from it as they are, but the system loads
compiled modules from files only: those are unpacked, once, into a folder that is the user's own.
"""

import os
import stat
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from runpy import run_module
from types import ModuleType
from zipimport import zipimporter

#: The files that a compiled module needs, itself first: their names in the archive, and sizes.
Files = Sequence[tuple[str, int]]
#: What the archive runs under the predecessor's names, which are links to it.
_FUNCTIONS = {
    "rebalancer-manager": "main_manager",
    "rebalancer-agent": "main_agent",
    "rebalancer-adm": "main_adm",
}


#: The archive that this program runs from; none if it was installed by pip.
_ARCHIVE: str | None = getattr(__spec__.loader, "archive", None)


def is_archive() -> bool:
    """Return whether this program runs from an archive."""
    return _ARCHIVE is not None


def stamp() -> str | None:
    """Return the stamp of the release that this archive belongs to; None outside a release."""
    if _ARCHIVE is None:
        return None
    try:
        # tools/release puts the file there, so that a release needs no build of its own.
        with open(f"{os.path.dirname(_ARCHIVE)}{os.sep}stamp", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def itself() -> list[str]:
    """Return the command that runs modules of this program: `-m` and a module's name follow."""
    return [sys.executable] if _ARCHIVE is None else [sys.executable, _ARCHIVE]


def run(compiled: Mapping[str, Files], version: str) -> None:
    """Run what the command line of an archive says, as its `__main__` does.

    Args:
      compiled: the compiled modules, and what each needs; none in a pure build, which unpacks
        nothing.
      version: names the content of all of them, so that archives have no file in common by mistake.
    """
    if compiled:
        try:
            folder = choose_folder(version)
        except OSError as exc:
            sys.exit(f"rebalancer: {exc}")
        sys.meta_path.append(Unpacking(sys.path[0], compiled, folder))
    if sys.argv[1:2] == ["-m"]:
        del sys.argv[1]
        run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
    else:
        name = os.path.basename(sys.argv[0])
        getattr(import_module("rebalancer.__main__"), _FUNCTIONS.get(name, "main"))()


class Unpacking:
    """This finder unpacks a compiled module, with the libraries it needs, when it is imported."""

    def __init__(self, archive: str, compiled: Mapping[str, Files], folder: str) -> None:
        self._archive = archive
        self._compiled = compiled
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where the module is, after unpacking it unless it is there already."""
        files = self._compiled.get(name)
        if files is None:
            return None
        # Each is looked for, not the first alone: cleaners of temporary folders remove some.
        for file, size in files:
            self._unpack(file, size)
        return spec_from_file_location(name, f"{self._folder}/{files[0][0]}")

    def _unpack(self, file: str, size: int) -> None:
        target = f"{self._folder}/{file}"
        try:
            if os.stat(target).st_size == size:
                return
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        # Others may do the same at this moment: whoever is last gives a whole file its name.
        unfinished = f"{target}.{os.getpid()}-{threading.get_ident()}"
        try:
            with open(unfinished, "wb") as out:
                out.write(zipimporter(self._archive).get_data(f"{self._archive}{os.sep}{file}"))
                out.flush()
                os.fsync(out.fileno())
            os.replace(unfinished, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise


def choose_folder(version: str) -> str:
    """Return a folder in which this user alone can write, and from which code may be loaded.

    Raises:
      OSError: there is none; the text says why, and what helps.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = os.path.realpath(cache)
    temporary = os.path.realpath(os.environ.get("TMPDIR") or "/tmp")
    choices = [
        (cache, f"{cache}/rebalancer", f"{cache}/rebalancer/{version}"),
        # Not everybody has a home, or one to write in: a storage node's agent is nobody.
        (f"{temporary}/rebalancer-{os.geteuid()}-{version}",),
    ]
    reasons = []
    for folders in choices:
        try:
            for folder in folders:
                _claim(folder)
            return folders[-1]
        except OSError as exc:
            reasons.append(str(exc))
    raise OSError(
        f"compiled modules cannot be unpacked: {'; '.join(reasons)}; set XDG_CACHE_HOME to a folder"
        " that this user owns, on a file system without noexec"
    )


def _claim(folder: str) -> None:
    """Make a folder, or see that what is there can be trusted: code is loaded from it."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(f"{folder} is not a folder of this user's") from None
        if found.st_mode & stat.S_IWOTH or not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(f"{folder} can be written by others, or not by this user") from None
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise OSError(f"{folder} is on a file system with noexec")
