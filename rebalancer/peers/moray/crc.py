"""This module has the checksums of Fast and of Moray's etags.

All three were first written for JavaScript strings, which is why two of them sum the low bytes
of UTF-16 code units instead of the UTF-8 bytes that travel.
"""

import binascii
import zlib

try:
    from fastcrc.crc16 import arc
except ImportError:
    from rebalancer.peers.moray.crc_table import arc  # type: ignore[assignment]


def _low_bytes(text: str) -> bytes:
    if text.isascii():
        return text.encode()
    return text.encode("utf-16-le", "surrogatepass")[0::2]


def crc_v1(text: str) -> int:
    """Return CRC-16/XMODEM over the low byte of each UTF-16 code unit of `text`."""
    return binascii.crc_hqx(_low_bytes(text), 0)


def crc_v2(payload: bytes) -> int:
    """Return CRC-16/ARC (polynomial 0x8005 reflected, start 0) over the bytes."""
    return arc(payload)


def record_etag(text: str) -> str:
    """Return a record's `_etag`: CRC-32 of its JSON text, over low bytes too, in upper-case hex.

    Only a Moray server computes this; a client copies what it was given.
    """
    return f"{zlib.crc32(_low_bytes(text)):08X}"
