"""This module tells how fast a metadata tier is written to, and how long it is waited for.

Times are seconds of any clock, passed in.
"""

import math

import attrs


@attrs.define
class Pace:
    """Updaters that may work at a time: `limit`, never above the operator's `ceiling`.

    As TCP shares a line: an overload halves what was at work, and as many successes as are
    allowed at a time add one.

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

        What was asked before the last halving tells nothing about the pace since: the answers
        to all that was under way come together, and must not halve once each.
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
        """Note that it works again."""
        self._failing_since = None

    def on_failure(self, now: float) -> None:
        """Note that it failed, perhaps once more."""
        if self._failing_since is None:
            self._failing_since = now

    def is_over(self, now: float) -> bool:
        """Tell whether it has done nothing but fail for `bound_s`."""
        return self._failing_since is not None and now - self._failing_since >= self.bound_s
