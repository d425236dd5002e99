"""This module computes how fast something goes, and how long it will take, from samples."""

from collections import deque
from collections.abc import Sequence

import attrs

MINUTE_S, HOUR_S = 60.0, 3600.0


@attrs.define
class Rates:
    """Objects and bytes a second.  Mutable state: the samples of the last `window_s` seconds."""

    window_s: float
    #: At least this many seconds lie between two samples that are kept.
    step_s: float = 0.0
    _samples: deque[tuple[float, int, int]] = attrs.field(factory=deque)

    @property
    def has_begun(self) -> bool:
        """Tell whether there is any sample."""
        return bool(self._samples)

    @property
    def samples(self) -> Sequence[tuple[float, int, int]]:
        """Return what was added and is kept: a time, objects and bytes each."""
        return tuple(self._samples)

    def add(self, now_s: float, objects: int, size: int) -> None:
        """Note that at `now_s`, `objects` of `size` bytes in all were done."""
        if self._samples and now_s - self._samples[-1][0] < self.step_s:
            return
        self._samples.append((now_s, objects, size))
        while now_s - self._samples[0][0] > self.window_s:
            self._samples.popleft()

    def per_s(self, within_s: float | None = None) -> tuple[float, float]:
        """Return objects and bytes a second, over `within_s` seconds or the whole window."""
        if not self._samples:
            return 0.0, 0.0
        t1, n1, b1 = self._samples[-1]
        since = t1 - (self.window_s if within_s is None else within_s)
        t0, n0, b0 = next(sample for sample in self._samples if sample[0] >= since)
        if t1 <= t0:
            return 0.0, 0.0
        return (n1 - n0) / (t1 - t0), (b1 - b0) / (t1 - t0)


def eta_s(*, settled: int, known: int, scanned: float, per_s: float) -> float | None:
    """Return seconds until all objects are settled; None if there is no telling.

    While only a share `scanned` (0 to 1) of the shards has been looked at, the rest is taken to
    hold as many objects as that share did.
    """
    if per_s <= 0 or scanned <= 0:
        return None
    return max(0.0, known / min(scanned, 1.0) - settled) / per_s
