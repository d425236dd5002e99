"""Sizes, times and rates as people write and read them.  Pure."""

import re

from rich.filesize import decimal

_RATE = re.compile(r"(\d+(?:\.\d+)?)(|[KMGT]i?)B?(?:/s)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << 10 * power for power, unit in enumerate("KMGT", 1)}


def read_rate(text: str) -> int | None:
    """Return bytes a second: `20M`, `20MiB`, `1.5G`, `800000`; None for `none`.

    Raises:
      ValueError: it is none of these.
    """
    if text.lower() == "none":
        return None
    match = _RATE.fullmatch(text)
    # 20Mb are bits to some, and an eighth of what they would get.
    if match is None or "b" in text:
        raise ValueError(f"{text}: expected bytes a second, as in 800000, 20M or 1.5G, or none")
    number, unit = match.groups()
    return round(float(number) * _UNITS[unit.upper()])


def size(count: float) -> str:
    """Return bytes, in thousands: `11.2 MB`."""
    return decimal(int(count))


def duration(seconds: float) -> str:
    """Spell a time as exactly as matters: `42 s`, `7 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
