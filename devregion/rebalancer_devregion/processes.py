"""This module starts the programs of a region as processes, finds them ready, and ends them."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from rebalancer.archive import itself
from rebalancer.errors import RebalancerError

#: A program answers within this many seconds of its start.
START_S = 60.0
#: SIGTERM ends any of them within this many seconds.
STOP_S = 30.0
_LOOK_S = 0.02


class ProcessError(RebalancerError):
    """A program of the region did not start, or ended on its own."""


def find_program(name: str) -> str | None:
    """Return the path of an installed program, also where no PATH or only root's has it."""
    # Debian keeps the programs of a PostgreSQL server apart, by version.
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=":".join([os.environ["PATH"], "/usr/sbin", *map(str, servers)]))


@attrs.define(eq=False)
class Process:
    """A process is one program: its arguments, its log, and, once started, its pid.

    The log is appended to, so that it tells of all its lives.
    """

    name: str
    args: tuple[str, ...]
    log: Path
    _popen: subprocess.Popen[bytes] | None = None
    _log_start: int = 0

    async def start(self) -> None:
        """Start it and return when it answers.

        Raises:
          ProcessError: it ended instead, or took too long; the text shows the end of its log.
        """
        self._popen = popen = self._spawn()
        with trio.move_on_after(START_S):
            while not any(line.get("msg") == "listening" for line in self.lines()):
                if popen.poll() is not None:
                    raise ProcessError(f"{self.name} ended at once:\n{self.tail()}")
                await trio.sleep(_LOOK_S)
            return
        raise ProcessError(f"{self.name} does not answer after {START_S} s:\n{self.tail()}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*itself(), "-m", "rebalancer", *self.args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C is for the program that runs the region, which ends the others.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def lines(self) -> Iterator[dict[str, object]]:
        """Yield the JSON lines that the process logged since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            for line in log:
                with suppress(ValueError):
                    yield json.loads(line)

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the process to be gone."""
        self._process.kill()
        self._process.wait()

    async def stop(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit status and the seconds it took.

        Raises:
          ProcessError: it did not end; it was killed.
        """
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = await trio.to_thread.run_sync(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired as exc:
            self.kill()
            raise ProcessError(f"{self.name} does not end on SIGTERM") from exc
        return status, time.monotonic() - begun

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise ProcessError(f"{self.name} was never started")
        return self._popen
