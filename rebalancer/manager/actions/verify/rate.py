"""This module bounds how many bytes a second are read; times are seconds of any clock."""

import attrs

#: So many seconds of the rate may be used at once after a rest.
BURST_S = 0.1


@attrs.define
class ByteRate:
    """A bound of bytes a second over all readers; `bytes_per_s` None is no bound.

    Mutable state: the time until which the bytes that were read so far use up the rate.
    """

    bytes_per_s: int | None
    _used_until: float = float("-inf")

    def spend(self, size: int, now: float) -> float:
        """Count `size` bytes as read, and return how many seconds to rest before reading on."""
        if self.bytes_per_s is None:
            return 0.0
        self._used_until = max(self._used_until, now - BURST_S) + size / self.bytes_per_s
        return max(0.0, self._used_until - now)
