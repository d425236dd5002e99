"""This module decides how fast a metadata tier is written to, and how long it is waited for.

Times are seconds of any clock, passed in.
"""

import math

import attrs


@attrs.define
class Pace:
    """Updaters that may work at a time: `limit`, never above the operator's `ceiling`.

    An overload halves what was at work, and as many successes as are allowed at a time add one, as
    TCP shares a line.

    Mutable state: ceiling, limit, and when it was last halved.
    """

    ceiling: int
    _limit: float = attrs.field(init=False)
    _slowed_at: float = attrs.field(init=False, default=-math.inf)

    def __attrs_post_init__(self) -> None:
        self._limit = float(self.ceiling)

    @property
    def limit(self) -> int:
        """Return the limit in force, at least 1: the end of an overload is noticed by trying."""
        return int(self._limit)

    def resize(self, ceiling: int) -> None:
        """Take an operator's new ceiling, which is the limit at once, up or down."""
        self.ceiling = ceiling
        self._limit = float(ceiling)

    def on_success(self) -> None:
        """Note that a write was done."""
        self._limit = min(float(self.ceiling), self._limit + 1 / self._limit)

    def on_overload(self, *, asked_at: float, now: float, at_work: int) -> None:
        """Note an overload, met by what was asked at `asked_at`, with `at_work` updates running.

        Answers to what was asked before the last halving come together, and say nothing about the
        pace since: they must not halve it once each.
        """
        if asked_at < self._slowed_at:
            return
        self._slowed_at = now
        self._limit = max(1.0, min(self._limit, float(at_work)) / 2)


@attrs.define
class Patience:
    """A patience decides whether something that keeps failing is waited for any longer.

    Mutable state: since when nothing has succeeded.
    """

    bound_s: float
    _failing_since: float | None = attrs.field(init=False, default=None)

    def on_success(self) -> None:
        """Note a success."""
        self._failing_since = None

    def on_failure(self, now: float) -> None:
        """Note a failure, perhaps one of several."""
        if self._failing_since is None:
            self._failing_since = now

    def is_over(self, now: float) -> bool:
        """Tell whether there were only failures for `bound_s` seconds."""
        return self._failing_since is not None and now - self._failing_since >= self.bound_s
