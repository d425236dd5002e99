"""The checksums of Fast and of Moray's etags.

All three were first written for JavaScript strings, which is why two of them sum the low bytes
of UTF-16 code units instead of the UTF-8 bytes that travel.
"""

import binascii
import zlib

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_TRINOMIAL = (1 << 15) | 0b11  # x^15 + x + 1


def _low_bytes(text: str) -> bytes:
    if text.isascii():
        return text.encode()
    return text.encode("utf-16-le", "surrogatepass")[0::2]


def crc_v1(text: str) -> int:
    """CRC-16/XMODEM over the low byte of each UTF-16 code unit of `text`."""
    return binascii.crc_hqx(_low_bytes(text), 0)


def crc_v2(payload: bytes) -> int:
    """CRC-16/ARC (polynomial 0x8005 reflected, start 0) over the bytes.

    The standard library has no such CRC, and a loop over bytes costs a millisecond a record.
    But its polynomial x^16+x^15+x^2+1 is (x+1)(x^15+x+1), and modulo a trinomial a number of
    any length folds in a few shifts: with K = 2^k, x^(15K) = x^K + 1 (squaring is linear over
    GF(2)), so high*x^(15K) + low = (high << K) ^ high ^ low.  The remainder modulo x+1 is the
    parity.  The Chinese remainder theorem joins the two.
    """
    number = int.from_bytes(payload.translate(_REVERSED)) << 16
    parity = number.bit_count() & 1
    width = 1
    while 15 * width < number.bit_length():
        width *= 2
    while width:
        limit = 15 * width
        while number.bit_length() > limit:
            high = number >> limit
            number = (number & ((1 << limit) - 1)) ^ high ^ (high << width)
        width //= 2
    # The trinomial has parity 1, so adding it once corrects the parity.
    if (number.bit_count() & 1) != parity:
        number ^= _TRINOMIAL
    return int(f"{number:016b}"[::-1], 2)


def record_etag(text: str) -> str:
    """The `_etag` of a record: CRC-32 of its JSON text, over low bytes too, in upper-case hex.

    Only a Moray server computes this; a client copies what it was given.
    """
    return f"{zlib.crc32(_low_bytes(text)):08X}"
