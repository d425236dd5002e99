"""This module remembers the last failures, for an operator who asks for the agent's status."""

from collections import deque

import attrs

from rebalancer.log import get_logger

#: Failures that are remembered.
LAST_ERRORS = 20

log = get_logger()


@attrs.define(eq=False)
class Failures:
    """The failures of late.  Mutable state: the texts of the last ones."""

    last: deque[str] = attrs.field(factory=lambda: deque(maxlen=LAST_ERRORS))

    def note(self, text: str) -> None:
        """Log a failure, and remember it."""
        log.warning("failure", error=text)
        self.last.append(text)
