"""The Pythons of this machine, of those that are supported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def find(version: str) -> Path | None:
    """Return the Python of a version: this one, that of the PATH, or one of pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    name = f"python{version}"
    for candidate in (
        os.path.realpath(sys.executable),
        shutil.which(name),
        *root.glob(f"{version}.*/bin/{name}"),
    ):
        if candidate:
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
            if done.stdout.strip() == version:
                return Path(candidate)
    return None


FOUND = {version: path for version in VERSIONS if (path := find(version))}
