"""File systems of tests, which are small, so that they can be filled."""

import shutil
import subprocess
from pathlib import Path

import attrs


@attrs.frozen
class Disk:
    """A file system in memory, mounted at `path`."""

    path: Path

    def remount(self, options: str) -> None:
        run("mount", "-o", f"remount,{options}", str(self.path))

    def fill(self, leave: int) -> None:
        """Take all space but `leave` bytes."""
        free = shutil.disk_usage(self.path).free
        with (self.path / "filler").open("wb") as file:
            file.write(b"x" * (free - leave))

    def empty(self) -> None:
        (self.path / "filler").unlink()


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
