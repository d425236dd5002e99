"""Logs as bunyan reads them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from rebalancer import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


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
    """Warnings of hypercorn and its like are lines of the same kind."""
    log.configure("x", "info", stream)
    logging.getLogger("hypercorn").warning("port %d", 80)
    logging.getLogger("hypercorn").info("chatter")
    (line,) = lines(stream)

    assert (line["msg"], line["level"], line["logger"]) == ("port 80", 40, "hypercorn")
