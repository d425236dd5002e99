"""This module computes CRC-16/ARC where fastcrc is not installed, two bytes at a time."""

import sys
from array import array
from collections.abc import Iterable


def _sums() -> Iterable[int]:
    """Yield what each byte makes of a sum of 0."""
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        yield value


_OF_BYTE = tuple(_sums())
#: A sum of 16 bits and two more bytes, the first the lower one, are one number, and so one step.
_OF_TWO = array(
    "H", (_OF_BYTE[_OF_BYTE[n & 255] & 255 ^ n >> 8] ^ _OF_BYTE[n & 255] >> 8 for n in range(65536))
)


def arc(payload: bytes) -> int:
    """Return CRC-16/ARC over the bytes."""
    words = array("H", payload[: len(payload) & ~1])
    if sys.byteorder == "big":
        words.byteswap()
    crc = 0
    for word in words:
        crc = _OF_TWO[crc ^ word]
    if len(payload) & 1:
        crc = _OF_BYTE[(crc ^ payload[-1]) & 255] ^ crc >> 8
    return crc
