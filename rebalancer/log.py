"""Logs have bunyan's format: a JSON line a record, on stdout, written whole or not at all.

A log that cannot be written ends and delays nothing.  Lines go through a bounded queue to a thread
of their own, so that a pipe whose reader sleeps keeps only that thread waiting; what does not fit
the queue, and what cannot be written, is dropped and counted, and the next line that can be
written says how many were.
"""

import atexit
import datetime
import errno
import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import attrs
import structlog

#: Bunyan's numbers.
LEVELS = {"trace": 10, "debug": 20, "info": 30, "warning": 40, "error": 50, "critical": 60}

#: The names and short names that configurations use, in any case.
ALIASES = {"crit": "critical", "err": "error", "warn": "warning"}

# Nothing is logged below debug, so trace lets through the same.
_STDLIB = {10: 10, 20: 10, 30: 20, 40: 30, 50: 40, 60: 50}

#: The most bytes that wait to be written.
QUEUE_BYTES = 4 << 20
#: Bytes of one write: a full disk takes a part of them at most.
PIECE = 64 << 10
#: Seconds between two looks for lines, and looks in vain after which one must be woken for them.
LOOK_S, LOOKS = 0.05, 20
#: Lines that wait when a process ends are given this many seconds.
FLUSH_S = 1.0
#: A message that could be repeated for every request is written once in so many seconds.
SELDOM_S = 60.0


def level_name(text: str) -> str:
    """The canonical name of a configured level.

    Raises:
      ValueError: there is no such level.
    """
    name = ALIASES.get(text.lower(), text.lower())
    if name not in LEVELS:
        raise ValueError(f"expected one of {', '.join(LEVELS)}")
    return name


# --- writing -------------------------------------------------------------------------------


class Sink:
    """A queue of lines on their way to a file descriptor, which a thread writes.

    Mutable state, under a lock: the lines that wait, and their size; how many were dropped, in
    all and since the last line that told of it; whether the thread is writing, or must be woken.
    """

    def __init__(self, fd: int, most: int = QUEUE_BYTES) -> None:
        """Write to `fd`, and have at most `most` bytes wait for it."""
        self.dropped = 0
        self._fd = fd
        self._most = most
        self._untold = 0
        self._lines = deque[bytes]()
        self._size = 0
        self._is_writing = self._is_asleep = False
        self._tell: Callable[[int], bytes] = lambda count: b"%d log lines dropped\n" % count
        #: Whether a part of a line is the last that was written.
        self._is_cut = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Have `line`, which ends in a newline, written soon; never waits."""
        with self._change:
            if self._size + len(line) > self._most:
                self._drop(1)
                return
            self._lines.append(line)
            self._size += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            elif self._is_asleep or self._size > PIECE:
                self._change.notify_all()

    def tell_by(self, tell: Callable[[int], bytes]) -> None:
        """Have `tell` make the line that says how many were dropped."""
        self._tell = tell

    def flush(self, within_s: float = FLUSH_S) -> None:
        """Wait until all is written, but no longer than `within_s`."""
        with self._change:
            self._change.notify_all()
            self._change.wait_for(lambda: not (self._lines or self._is_writing), within_s)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    def _run(self) -> None:
        while True:
            with self._change:
                self._is_writing = False
                self._change.notify_all()
                self._gather()
                lines = self._take()
                self._is_writing = True
            data = b"".join(lines)
            written = self._write(data)
            with self._change:
                self._drop(len(lines) - data.count(b"\n", 0, written))
                untold = self._untold
            if untold and written == len(data):
                told = self._tell(untold)
                if self._write(told) == len(told):
                    with self._change:
                        self._untold -= untold

    def _gather(self) -> None:
        """Wait until there are lines.

        While some come now and then, nobody wakes this thread for them: that would cost more than
        all else about a line.
        """
        times = 0
        while not self._lines:
            self._is_asleep = times >= LOOKS
            self._change.wait(None if self._is_asleep else LOOK_S)
            times += 1
        self._is_asleep = False

    def _take(self) -> list[bytes]:
        """Take the next lines: as many as one write has room for, and one at least."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= PIECE:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        self._size -= size
        return lines

    def _write(self, data: bytes) -> int:
        """Write `data`; returns how many bytes went.  A line that was cut before is ended first."""
        done = 0
        try:
            if self._is_cut:
                os.write(self._fd, b"\n")
                self._is_cut = False
            while done < len(data):
                try:
                    done += os.write(self._fd, memoryview(data)[done:])
                except BlockingIOError:  # somebody has made it so, and shares it with us
                    time.sleep(0.05)
        except OSError:
            pass
        self._is_cut = self._is_cut or (done > 0 and data[done - 1] != ord("\n"))
        return done


_stdout: Sink | None = None


def stdout() -> Sink:
    """Return the one sink of this process's stdout."""
    global _stdout
    if _stdout is None:
        _stdout = Sink(1)
        atexit.register(_stdout.flush)
    return _stdout


def dropped() -> int:
    """Return how many lines of this process could not be written so far."""
    return 0 if _stdout is None else _stdout.dropped


def hold_descriptors() -> None:
    """Have the descriptors 0 to 2 be something, before any file is opened.

    A program that was started with one of them closed would be given its number for the next file,
    a database say, and write its log into that.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            # It is the lowest that is free, so this is its number.  What cannot be written to shows
            # that lines are lost.
            os.open(os.devnull, os.O_RDONLY)


# --- lines ---------------------------------------------------------------------------------


class _ToSink:
    """The end to which structlog hands its lines."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def msg(self, message: str) -> None:
        self._sink.put(message.encode(errors="backslashreplace") + b"\n")

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _to_sink(sink: Sink, *_: Any) -> _ToSink:
    return _ToSink(sink)


@attrs.frozen
class _Bunyan:
    """Makes records in bunyan's format, of the program `name` in this process."""

    name: str
    hostname: str = attrs.field(factory=socket.gethostname)
    pid: int = attrs.field(factory=os.getpid)

    def record(self, level: int, message: Any) -> dict[str, Any]:
        """Make a record of now."""
        now = datetime.datetime.now(datetime.UTC)
        return {
            "v": 0,
            "name": self.name,
            "hostname": self.hostname,
            "pid": self.pid,
            "level": level,
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "msg": message,
        }

    def of_event(
        self, _logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Make a record of what structlog was given; it is one of structlog's processors."""
        level = LEVELS.get(ALIASES.get(method, method), 30)
        record = self.record(level, event.pop("event", ""))
        if failure := event.pop("exception", None):
            record["err"] = {"message": str(failure).strip().splitlines()[-1], "stack": failure}
        record.update(event)
        return record

    def of_dropped(self, count: int) -> bytes:
        """Make the line that tells of `count` lines that were dropped."""
        record = {**self.record(LEVELS["warning"], "log lines were dropped"), "count": count}
        return json.dumps(record).encode() + b"\n"


def configure(name: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log of this process, of libraries too, to `stream`, or else to stdout."""
    bunyan = _Bunyan(name)
    if stream is None:
        sink = stdout()
        sink.tell_by(bunyan.of_dropped)
        factory: Any = partial(_to_sink, sink)
    else:
        factory = structlog.PrintLoggerFactory(stream)
    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            bunyan.of_event,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_STDLIB[LEVELS[level_name(level)]]),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(logging.WARNING)


class _Forward(logging.Handler):
    """Hands records of the standard library's loggers to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger().bind(logger=record.name)
        method = getattr(log, record.levelname.lower(), log.info)
        method(record.getMessage(), exc_info=record.exc_info or None)


def get_logger(**fields: Any) -> structlog.typing.FilteringBoundLogger:
    """Make a logger that adds `fields` to every line."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(**fields)
    return log


@attrs.define(eq=False)
class Seldom:
    """A message that others can bring about as often as they like, written once a minute.

    Mutable state: when it was written last, and how often it was not since.
    """

    clock: Callable[[], float] = time.monotonic
    _last: float | None = None
    _times: int = 0

    def say(self, method: Callable[..., Any], message: str, **fields: Any) -> None:
        """Log `message` by `method`, unless that was done within the last minute."""
        now = self.clock()
        if self._last is not None and now - self._last < SELDOM_S:
            self._times += 1
            return
        if self._times:
            fields["times_unsaid"] = self._times
        with suppress(Exception):  # a message is never worth more than what it is about
            method(message, **fields)
        self._last, self._times = now, 0
