"""This module uses folders by descriptor, so that no link leads out of the object root.

A path is looked up anew by each call, and whoever can write to the root could put a symbolic link
in its way.  Here the operator's own paths alone are followed; below them every step is taken from
an open folder, and a link is an error.  Blocking.
"""

import os
from contextlib import suppress
from pathlib import Path

import attrs

FILE_MODE, FOLDER_MODE = 0o644, 0o755
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Without O_NONBLOCK, to open a FIFO would wait for somebody who writes to it.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """A folder is open, and is closed when nobody refers to it any more.

    Threads share it without a count of users, and an idle agent keeps no file system busy.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __del__(self) -> None:
        """Close the folder."""
        with suppress(OSError):
            os.close(self.fd)

    @classmethod
    def open(cls, path: Path) -> "Folder":
        """Open a folder that the operator named, through links if there are any.

        Raises:
          OSError: it is not there, or no folder.
        """
        return cls(os.open(path, _FOLDER), str(path))

    def enter(self, name: str) -> "Folder":
        """Open a folder in this one.

        Raises:
          OSError: it is not there, or no folder; a link to one is none.
        """
        fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.fd)
        return Folder(fd, f"{self.path}/{name}")

    def make(self, name: str) -> "Folder":
        """Open a folder in this one, which is made if it is missing.

        Raises:
          OSError: it cannot be made, or something else has its name.
        """
        try:
            os.mkdir(name, FOLDER_MODE, dir_fd=self.fd)
        except FileExistsError:
            return self.enter(name)  # perhaps another process has made it just now
        made = self.enter(name)
        os.fchmod(made.fd, FOLDER_MODE)  # whatever the umask left of it
        return made

    def enter_path(self, path: str) -> "Folder":
        """Open the folder that several steps from this one lead to, none of them by a link.

        Raises:
          OSError: one is not there, or no folder.
        """
        at = self
        for name in path.split("/"):
            at = at.enter(name)
        return at

    def make_path(self, path: str) -> "Folder":
        """Open the same folder; each on the way is made if missing, and can be read by anybody.

        Raises:
          OSError: one cannot be made, or something else has its name.
        """
        at = self
        for name in path.split("/"):
            at = at.make(name)
            let_read(at.fd, FOLDER_MODE)
        return at

    def read(self, name: str) -> int:
        """Open a file in this folder to read it; the descriptor is the caller's.

        It may be anything but a link: who reads from it looks first.

        Raises:
          OSError: it is not there, or a link.
        """
        return os.open(name, _READ, dir_fd=self.fd)

    def create(self, name: str) -> int:
        """Create a file in this folder that anybody may read; the descriptor is the caller's.

        Raises:
          OSError: something has its name, or it cannot be made.
        """
        file = os.open(name, _CREATE, FILE_MODE, dir_fd=self.fd)
        try:
            os.fchmod(file, FILE_MODE)  # whatever the umask leaves of it
        except BaseException:
            os.close(file)
            os.unlink(name, dir_fd=self.fd)
            raise
        return file

    def rename(self, name: str, into: "Folder", new: str) -> None:
        """Give a file of this folder a name in another one, in place of what has that name.

        Raises:
          OSError: it could not be done.
        """
        os.rename(name, new, src_dir_fd=self.fd, dst_dir_fd=into.fd)

    def remove(self, name: str) -> None:
        """Remove a file of this folder.

        Raises:
          OSError: it could not be done.
        """
        os.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Bring the names in this folder to stable storage.

        `os.fsync(folder.enter(name).fd)` would close the folder before it is synced.

        Raises:
          OSError: it could not be done.
        """
        os.fsync(self.fd)

    def identity(self) -> tuple[int, int]:
        """Return the device and number by which this folder differs from all others."""
        found = os.fstat(self.fd)
        return found.st_dev, found.st_ino


def write_all(file: int, data: bytes) -> None:
    """Write all of `data` to an open file, which may take it in pieces.

    Raises:
      OSError: the disk did not take it.
    """
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def let_read(file: int, mode: int) -> None:
    """Give an open file or folder the bits of `mode` that it lacks.

    A run under another umask, or one that was killed, may have left it so that the web server
    cannot read it.  Somebody else's file or folder stays as it is.
    """
    found = os.fstat(file)
    if found.st_mode & mode != mode and found.st_uid == os.geteuid():
        os.fchmod(file, (found.st_mode | mode) & 0o7777)


@attrs.frozen(eq=False)
class Tree:
    """A tree has the open folders of objects and of unfinished downloads."""

    root: Folder
    temp: Folder

    @classmethod
    def open(cls, root: Path, temp: Path) -> "Tree":
        """Open both folders, that of unfinished downloads by way of the root if it lies below it.

        Raises:
          OSError: one is not there, or a link lies between them.  A missing folder is not made:
            its file system may just not be mounted.
        """
        opened = Folder.open(root)
        if not _is_below(temp, root):
            return cls(opened, Folder.open(temp))
        inner = opened
        for name in temp.relative_to(root).parts:
            inner = inner.enter(name)
        return cls(opened, inner)

    @classmethod
    def make(cls, root: Path, temp: Path) -> "Tree":
        """Open both folders; that of unfinished downloads is made if it is missing, the root never.

        Raises:
          OSError: one is not there and cannot be made.
        """
        opened = Folder.open(root)
        if not _is_below(temp, root):
            return cls(opened, Folder.open(temp.parent).make(temp.name))
        inner = opened
        for name in temp.relative_to(root).parts:
            inner = inner.make(name)
        return cls(opened, inner)

    def is_at(self, root: Path) -> bool:
        """Return whether `root` still leads to this tree: it may have been unmounted since."""
        try:
            found = os.stat(root)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.root.identity()


def _is_below(temp: Path, root: Path) -> bool:
    return temp != root and temp.is_relative_to(root) and ".." not in temp.parts
