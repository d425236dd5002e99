"""Small disks that can be filled are file systems in memory, where mounting is allowed."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_BALLAST = "ballast"
_BLOCK = 1 << 20


@contextmanager
def mounted(folders: Mapping[Path, int]) -> Iterator[None]:
    """Put a file system of so many MiB in memory at each of `folders`.  Blocking."""
    with ExitStack() as stack:
        for folder, size in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
            subprocess.run(command, check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
        yield


def fill(folder: Path) -> None:
    """Leave nothing free on the disk of `folder`, until `drain`.  Blocking."""
    with suppress(OSError), (folder / _BALLAST).open("ab", buffering=0) as ballast:
        for size in (_BLOCK, 4096, 1):
            with suppress(OSError):
                while ballast.write(bytes(size)):
                    pass


def drain(folder: Path) -> None:
    """Free what `fill` took.  Blocking."""
    (folder / _BALLAST).unlink(missing_ok=True)
