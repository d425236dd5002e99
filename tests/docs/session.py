"""A shell that runs the commands of pages on a terminal, one after another."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.docs.console import Command, Ids

ROOT = Path(__file__).parents[2]
#: No command of a page takes longer, in seconds.
PATIENCE_S = 120.0
#: The command that runs until the pages are done.
SERVE = "rebalancer region serve lab"
_LOOK_S = 0.05


@attrs.define
class Session:
    """A folder in which commands run, each with what those before it exported.

    Mutable state: the ids that were printed, the region that runs, and what it printed.
    """

    folder: Path
    ids: Ids = attrs.field(factory=Ids)
    region: subprocess.Popen[bytes] | None = None

    def run(self, commands: Sequence[Command]) -> None:
        """Run commands in order, and compare each with what the page shows."""
        for command in commands:
            text = self.ids.put(command.text)
            code, printed = self._serve() if text == SERVE else self._run(text)
            assert code == command.code, f"$ {text}\n{printed}\nexits {code}"
            missing = self.ids.compare(command.shown, printed.splitlines())
            assert not missing, f"$ {text}\n{printed}\nprints no\n{missing}"

    def _run(self, text: str) -> tuple[int, str]:
        kept = self.folder / ".exported"
        script = f". {kept}\n{text}\ncode=$?\nexport -p > {kept}\nexit $code"
        ours, its = os.openpty()
        with subprocess.Popen(
            ["timeout", str(PATIENCE_S), "bash", "-c", script],
            cwd=self.folder,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        ) as process:
            os.close(its)
            printed = bytearray()
            while piece := _read(ours):
                printed += piece
        os.close(ours)
        text = printed.decode().replace("\r\n", "\n")
        return process.returncode, re.sub(r"\x1b\[[\d;?]*[A-Za-z]|.*\r", "", text)

    def _serve(self) -> tuple[int, str]:
        """Start the region in the background; return when it runs."""
        with (self.folder / "serve.log").open("wb") as log:
            program = [sys.executable, "-m", "rebalancer", *SERVE.split()[1:]]
            self.region = subprocess.Popen(program, cwd=self.folder, stdout=log, stderr=log)
        ends_at = time.monotonic() + PATIENCE_S
        while "running" not in (printed := (self.folder / "serve.log").read_text()):
            assert self.region.poll() is None, printed
            assert time.monotonic() < ends_at, printed
            time.sleep(_LOOK_S)
        return 0, printed


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other side has been closed
        return b""


@contextmanager
def session(folder: Path) -> Iterator[Session]:
    """Give a session in an empty folder, in which `docs` is the one of this checkout."""
    (folder / "docs").symlink_to(ROOT / "docs")
    programs = Path(sys.executable).parent
    shell = {"PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb", "COLUMNS": "100"}
    lines = [f"export {name}='{value}'" for name, value in {**shell, "NO_COLOR": "1"}.items()]
    (folder / ".exported").write_text("\n".join(lines))
    made = Session(folder)
    try:
        yield made
    finally:
        if made.region is not None:
            made.region.terminate()
            made.region.wait(PATIENCE_S)
