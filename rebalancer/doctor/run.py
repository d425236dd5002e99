"""This module makes checks: all at once for an operator, or the quick ones at a start."""

import queue
import select
import threading
import time
from collections.abc import Sequence

import attrs

from rebalancer.doctor.checks import CHECKS, Check
from rebalancer.doctor.findings import Finding, Level, skipped, warning
from rebalancer.doctor.judge.system import event_loop
from rebalancer.doctor.subject import Subject
from rebalancer.errors import ConfigError
from rebalancer.log import get_logger

#: Seconds that all checks have together.
WITHIN_S = 13.0

log = get_logger()


@attrs.frozen
class Result:
    """A result is a finding, and the check that has made it."""

    check: Check
    finding: Finding


def examine(
    subject: Subject, *, checks: Sequence[Check] = CHECKS, within_s: float = WITHIN_S
) -> list[Result]:
    """Make all checks of the subject's program at once, each in a thread; blocking.

    A check that has not ended in time is left alone: nothing ends a wait for a hung file system.
    """
    mine = [check for check in checks if subject.program in check.programs]
    done: queue.SimpleQueue[tuple[Check, list[Finding]]] = queue.SimpleQueue()

    def make(check: Check) -> None:
        done.put((check, _findings(check, subject)))

    for check in mine:
        threading.Thread(target=make, args=(check,), name=check.name, daemon=True).start()
    found: dict[str, list[Finding]] = {}
    until = time.monotonic() + within_s
    try:
        while len(found) < len(mine):
            check, findings = done.get(timeout=max(until - time.monotonic(), 0))
            found[check.name] = findings
    except queue.Empty:
        late = warning(
            f"it has not ended within {within_s:g} s",
            "an end",
            "see whether a file system, a name service or a peer hangs",
        )
        found |= {check.name: [late] for check in mine if check.name not in found}
    return [Result(check, finding) for check in mine for finding in found[check.name]]


def _findings(check: Check, subject: Subject) -> list[Finding]:
    if check.needs_config and subject.config is None:
        return [skipped("the configuration cannot be used")]
    if check.needs_event_loop and event_loop(dir(select)).level is Level.STOPS:
        return [skipped("this Python has no event loop")]
    try:
        return check.findings(subject)
    except Exception as exc:  # a check that fails must not take the others from the operator
        text = f"the check itself failed: {type(exc).__name__}: {exc}"
        return [warning(text, "a finding", "report it with the line above")]


def check_start(subject: Subject) -> None:
    """Make the quick checks of a start; log a line for each warning.

    Raises:
      ConfigError: one of them stops the program.
    """
    for check in CHECKS:
        if check.at_start and subject.program in check.programs:
            for finding in _findings(check, subject):
                if finding.level is Level.STOPS:
                    raise ConfigError(f"{check.name}: {finding.sentence}")
                if finding.level is Level.WARNING:
                    log.warning("start-up check", check=check.name, finding=finding.sentence)
