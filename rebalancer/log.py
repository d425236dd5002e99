"""Logs in bunyan's format: one JSON line a record on stdout, written whole."""

import datetime
import logging
import os
import socket
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

#: Bunyan's numbers.
LEVELS = {"trace": 10, "debug": 20, "info": 30, "warning": 40, "error": 50, "critical": 60}

#: The names and short names that configurations use, in any case.
ALIASES = {"crit": "critical", "err": "error", "warn": "warning"}

# Nothing is logged below debug, so trace lets through the same.
_STDLIB = {10: 10, 20: 10, 30: 20, 40: 30, 50: 40, 60: 50}


def level_name(text: str) -> str:
    """The canonical name of a configured level.

    Raises:
      ValueError: there is no such level.
    """
    name = ALIASES.get(text.lower(), text.lower())
    if name not in LEVELS:
        raise ValueError(f"expected one of {', '.join(LEVELS)}")
    return name


def configure(name: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log of this process, hypercorn's included, to `stream` (stdout)."""
    hostname, pid = socket.gethostname(), os.getpid()

    def to_bunyan(
        _logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        now = datetime.datetime.now(datetime.UTC)
        record = {
            "v": 0,
            "name": name,
            "hostname": hostname,
            "pid": pid,
            "level": LEVELS.get(ALIASES.get(method, method), 30),
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "msg": event.pop("event", ""),
        }
        if failure := event.pop("exception", None):
            record["err"] = {"message": str(failure).strip().splitlines()[-1], "stack": failure}
        record.update(event)
        return record

    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            to_bunyan,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_STDLIB[LEVELS[level_name(level)]]),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stdout),
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
    """A logger that adds `fields` to every line."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(**fields)
    return log
