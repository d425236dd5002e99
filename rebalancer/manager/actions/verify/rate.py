"""This module limits how many bytes a second are read; its times are seconds of any clock."""

import attrs

#: After a pause, readers may read at once what the rate allows in so many seconds.
BURST_S = 0.1


@attrs.define
class ByteRate:
    """A limit on the bytes that all readers together read in a second; None is no limit.

    Mutable state: the time until which the bytes that were read so far use up the rate.
    """

    bytes_per_s: int | None
    _used_until: float = float("-inf")

    def spend(self, size: int, now: float) -> float:
        """Count `size` bytes as read, and return how many seconds to sleep before reading on."""
        if self.bytes_per_s is None:
            return 0.0
        self._used_until = max(self._used_until, now - BURST_S) + size / self.bytes_per_s
        return max(0.0, self._used_until - now)
