"""This module writes the log in bunyan's format: a JSON line a record, whole or not at all.

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
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partialmethod
from typing import Any, TextIO

import attrs

#: Bunyan's numbers.
LEVELS = {"trace": 10, "debug": 20, "info": 30, "warning": 40, "error": 50, "critical": 60}

#: The names and short names that configurations use, in any case.
ALIASES = {"crit": "critical", "err": "error", "warn": "warning"}

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
    """Return the canonical name of a configured level.

    Raises:
      ValueError: there is no such level.
    """
    name = ALIASES.get(text.lower(), text.lower())
    if name not in LEVELS:
        raise ValueError(f"expected one of {', '.join(LEVELS)}")
    return name


# --- writing -------------------------------------------------------------------------------


class Sink:
    """A sink is a queue of lines that a thread writes to a file descriptor.

    Mutable state, under a lock: the lines that wait, and their size; how many were dropped, in
    all and since the last line that said so; whether the thread is writing, or must be woken.
    """

    def __init__(self, fd: int, most: int = QUEUE_BYTES) -> None:
        """Write to `fd`, and have at most `most` bytes wait for it."""
        self.dropped = 0
        self._fd = fd
        self._most = most
        self._unreported = 0
        self._lines = deque[bytes]()
        self._size = 0
        self._is_writing = self._is_asleep = False
        self._report: Callable[[int], bytes] = lambda count: b"%d log lines dropped\n" % count
        #: Whether a part of a line is the last that was written.
        self._is_cut = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: bytes, is_urgent: bool = False) -> None:
        """Have `line`, which ends in a newline, written soon, or at once; never waits."""
        with self._change:
            if self._size + len(line) > self._most:
                self._drop(1)
                return
            self._lines.append(line)
            self._size += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            elif is_urgent or self._is_asleep or self._size > PIECE:
                self._change.notify_all()

    def report_by(self, report: Callable[[int], bytes]) -> None:
        """Have `report` make the line that says how many were dropped."""
        self._report = report

    def flush(self, within_s: float = FLUSH_S) -> None:
        """Wait until all is written, but no longer than `within_s`."""
        with self._change:
            self._change.notify_all()
            self._change.wait_for(lambda: not (self._lines or self._is_writing), within_s)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._unreported += count

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
                unreported = self._unreported
            if unreported and written == len(data):
                report = self._report(unreported)
                if self._write(report) == len(report):
                    with self._change:
                        self._unreported -= unreported

    def _gather(self) -> None:
        """Wait until there are lines.

        While some come now and then, nobody wakes this thread for those that are not urgent: that
        would cost more than all else about a line.
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
        """Write `data`, after the end of a line that was cut; return how many bytes went."""
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


@attrs.frozen
class _Bunyan:
    """A maker of records in bunyan's format, of the program `name` in this process."""

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

    def line(self, level: int, message: Any, fields: dict[str, Any]) -> bytes:
        """Make the line of a record of now, with these fields; `exc_info` is an exception."""
        record = self.record(level, message)
        if failure := _traceback(fields.pop("exc_info", None)):
            record["err"] = {"message": failure.splitlines()[-1], "stack": failure}
        record.update(fields)
        return json.dumps(record, default=str).encode(errors="backslashreplace") + b"\n"

    def of_dropped(self, count: int) -> bytes:
        """Make the line about `count` lines that were dropped."""
        return self.line(LEVELS["warning"], "log lines were dropped", {"count": count})


def _traceback(given: Any) -> str:
    """Format an exception, or the one that is being handled if `given` is true."""
    if isinstance(given, tuple):
        given = given[1]
    failure = given if isinstance(given, BaseException) else sys.exception() if given else None
    return "" if failure is None else "".join(traceback.format_exception(failure)).strip()


@attrs.define(eq=False)
class Output:
    """An output takes records of level `least` and above."""

    least: int
    #: Called with the level's name, the message and the fields of each.
    take: Callable[[str, str, dict[str, Any]], object]


def _output(bunyan: _Bunyan, least: int, put: Callable[[bytes], object]) -> Output:
    return Output(least, lambda level, text, more: put(bunyan.line(LEVELS[level], text, more)))


def _output_to(sink: Sink, bunyan: _Bunyan, least: int) -> Output:
    """Make an output to a sink, in which all but what is written for debugging is urgent.

    A program that is killed takes what waits with it, and what it did last is what its operator
    looks for; such lines are too few for their wakings to cost anything.
    """

    def take(level: str, text: str, more: dict[str, Any]) -> None:
        number = LEVELS[level]
        sink.put(bunyan.line(number, text, more), is_urgent=number >= LEVELS["info"])

    return Output(least, take)


#: Where records go; a program that has not been configured writes all on stdout, as it comes.
output = _output(_Bunyan("rebalancer"), 0, lambda line: print(line.decode(), end=""))


def replace(new: Output) -> Output:
    """Send records to `new` from now on; return the output that had them before."""
    global output
    old, output = output, new
    return old


def configure(name: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log of this process, of libraries too, to `stream`, or else to stdout."""
    bunyan, least = _Bunyan(name), LEVELS[level_name(level)]
    if stream is None:
        sink = stdout()
        sink.report_by(bunyan.of_dropped)
        replace(_output_to(sink, bunyan, least))
    else:
        replace(_output(bunyan, least, lambda line: stream.write(line.decode())))
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(logging.WARNING)


@attrs.frozen
class Logger:
    """A logger writes records, with `fields` in each of them."""

    fields: Mapping[str, Any]

    def bind(self, **fields: Any) -> "Logger":
        """Make a logger that adds more fields."""
        return Logger({**self.fields, **fields})

    def log(self, level: str, message: str, /, **fields: Any) -> None:
        """Write a record of the level of this name."""
        if LEVELS[level] >= output.least:
            output.take(level, message, {**self.fields, **fields})

    debug = partialmethod(log, "debug")
    info = partialmethod(log, "info")
    warning = partialmethod(log, "warning")
    error = partialmethod(log, "error")
    critical = partialmethod(log, "critical")
    #: For use where an exception is handled, which becomes a field.
    exception = partialmethod(log, "error", exc_info=True)


class _Forward(logging.Handler):
    """A handler that hands records of the standard library's loggers to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        fields = {"logger": record.name, "exc_info": record.exc_info}
        get_logger().log(level if level in LEVELS else "info", record.getMessage(), **fields)


def get_logger(**fields: Any) -> Logger:
    """Make a logger that adds `fields` to every line."""
    return Logger(fields)


@attrs.define(eq=False)
class Seldom:
    """A message that others can bring about as often as they like is written once a minute.

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
