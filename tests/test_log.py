"""Logs as bunyan reads them."""

import io
import json
import logging
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rebalancer import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = log.output
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    log.replace(before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_fields_of_bunyan(stream: io.StringIO) -> None:
    """v, name, hostname, pid, level, time with milliseconds and Z, msg; then our own."""
    log.configure("rebalancer-test", "info", stream)
    log.get_logger(job="7").warning("odd\nthing", count=3)
    (line,) = lines(stream)

    assert list(line)[:7] == ["v", "name", "hostname", "pid", "level", "time", "msg"]
    assert (line["v"], line["name"], line["level"]) == (0, "rebalancer-test", 40)
    assert (line["msg"], line["job"], line["count"]) == ("odd\nthing", "7", 3)
    assert (line["time"][-5], line["time"][-1]) == (".", "Z")


@pytest.mark.row("A12")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("trace", [20, 30, 40, 50, 60]),
        ("DEBUG", [20, 30, 40, 50, 60]),
        ("info", [30, 40, 50, 60]),
        ("Warn", [40, 50, 60]),
        ("err", [50, 60]),
        ("crit", [60]),
        ("critical", [60]),
    ],
)
def test_levels_by_all_their_names(stream: io.StringIO, level: str, expected: list[int]) -> None:
    """In any case; what is below is not written."""
    log.configure("x", level, stream)
    logger = log.get_logger()
    for method in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, method)("text")

    assert [line["level"] for line in lines(stream)] == expected


def test_an_unknown_level_is_refused() -> None:
    """With the names there are."""
    with pytest.raises(ValueError, match="expected one of trace, debug"):
        log.level_name("loud")


def test_an_exception_is_a_field(stream: io.StringIO) -> None:
    """One line, with the last line of the traceback as its message."""
    log.configure("x", "info", stream)
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        log.get_logger().exception("broke")
    (line,) = lines(stream)

    assert (line["level"], line["err"]["message"]) == (50, "ZeroDivisionError: by zero")
    assert "Traceback" in line["err"]["stack"]


def test_other_libraries_log_through_ours(stream: io.StringIO) -> None:
    """Warnings of theirs are lines of the same kind."""
    log.configure("x", "info", stream)
    logging.getLogger("library").warning("port %d", 80)
    logging.getLogger("library").info("chatter")
    (line,) = lines(stream)

    assert (line["msg"], line["level"], line["logger"]) == ("port 80", 40, "library")


# --- a log that cannot be written ----------------------------------------------------------


def put_all(sink: log.Sink, count: int, size: int = 100) -> None:
    for number in range(count):
        sink.put(f"{number:05}".encode().ljust(size - 1, b".") + b"\n")


def settle(condition: Any) -> None:
    """Wait for a thread, which no test can hurry."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not come")


def test_lines_are_written_whole_and_in_order() -> None:
    """By the thread; flushing waits for it."""
    out, end = os.pipe()
    sink = log.Sink(end)
    put_all(sink, 50)
    sink.flush(20)

    written = os.read(out, 1 << 20).splitlines()
    assert [line[:5] for line in written] == [f"{number:05}".encode() for number in range(50)]
    os.close(out)
    os.close(end)


@pytest.mark.parametrize("level", ["info", "warning", "error", "critical"])
def test_what_an_operator_looks_for_is_written_at_once(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """A thread that never looks by itself is woken for it, so that a kill spares it."""
    monkeypatch.setattr(log, "LOOK_S", 1000.0)
    out, end = os.pipe()
    sink = log.Sink(end)
    monkeypatch.setattr(log, "_stdout", sink)
    log.configure("x", "debug")
    logger = log.get_logger()
    logger.debug("this starts the thread")
    assert b"starts" in os.read(out, 1 << 16)

    logger.debug("this is in no hurry")
    getattr(logger, level)("this is")
    os.set_blocking(out, False)
    settle(lambda: b'this is"' in read_some(out))
    os.close(out)
    os.close(end)


def read_some(fd: int) -> bytes:
    """Read what is there, which may be nothing."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


def test_a_reader_that_sleeps_keeps_nobody_waiting() -> None:
    """What does not fit is dropped and counted; once the reader is awake a line says so."""
    out, end = os.pipe()
    sink = log.Sink(end, most=10_000)
    put_all(sink, 5000)  # half a megabyte into a pipe of 64 KiB
    assert sink.dropped > 3000

    told, read = 0, b""
    while told < sink.dropped:
        read += os.read(out, 1 << 16)
        told = sum(int(count) for count in re.findall(rb"^(\d+) log lines dropped\n", read, re.M))
    assert told == sink.dropped
    assert read.count(b"....\n") == 5000 - sink.dropped
    os.close(out)
    os.close(end)


def test_a_pipe_without_a_reader_loses_lines_and_no_more() -> None:
    """They are counted, and the next line that can be written says how many."""
    out, end = os.pipe()
    spare = os.dup(end)
    os.close(out)
    sink = log.Sink(end)
    put_all(sink, 7)
    settle(lambda: sink.dropped == 7)

    out, other = os.pipe()
    os.dup2(other, end)
    put_all(sink, 1)
    sink.flush(20)
    assert b"\n7 log lines dropped\n" in os.read(out, 1 << 16)
    for fd in (out, end, other, spare):
        os.close(fd)


def test_a_full_disk_loses_the_lines_that_do_not_fit(tmp_path: Path) -> None:
    """A line that was cut is ended before the next, so that every other line is whole."""
    path = tmp_path / "log"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    end = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sink = log.Sink(end)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (250, limit[1]))
        put_all(sink, 5)
        settle(lambda: sink.dropped == 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    put_all(sink, 1)
    sink.flush(20)
    os.close(end)

    lines = path.read_bytes().splitlines()
    assert [len(line) for line in lines] == [99, 99, 50, 99, 19]
    assert lines[-1] == b"3 log lines dropped"


def test_a_message_of_many_is_written_once_a_minute() -> None:
    """The next one tells how often it was not."""
    times = [0.0]
    said = list[tuple[float, str, dict[str, Any]]]()
    seldom = log.Seldom(clock=lambda: times[-1])

    def method(message: str, **fields: Any) -> None:
        said.append((times[-1], message, fields))

    for now in (0.0, 1.0, 59.0, 61.0, 62.0):
        times.append(now)
        seldom.say(method, "odd", port=80)

    assert said == [(0.0, "odd", {"port": 80}), (61.0, "odd", {"port": 80, "times_unsaid": 2})]
