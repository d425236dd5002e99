"""PostgreSQL reads text for each of its types; the ones beside text and numbers are here."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.javascript import stringify, to_string

_BIGINT = re.compile(r"\s*([+-]?[0-9]+)\s*", re.ASCII)
_MAC = re.compile(
    r"(?:[0-9a-f]{2}([:-]))(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}"
    r"|[0-9a-f]{6}[:-]?[0-9a-f]{6}|[0-9a-f]{4}([.-])[0-9a-f]{4}\2[0-9a-f]{4}"
)
_UUID = re.compile(r"(\{)?(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}(?(1)\})")
_RANGE = re.compile(r'\s*([\[(])\s*"?([^",]*)"?\s*,\s*"?([^",]*)"?\s*([\])])\s*')


def bad_input(kind: str, text: str) -> MorayError:
    """Make the error of a value that PostgreSQL cannot read."""
    return MorayError("error", f'invalid input syntax for type {kind}: "{text}"')


def checked_text(text: str) -> str:
    """Return `text` if PostgreSQL takes it for a text.

    Raises:
      MorayError: it has a NUL.
    """
    if "\0" in text:
        raise MorayError("error", 'invalid byte sequence for encoding "UTF8": 0x00')
    return text


def to_bigint(value: Any) -> int | None:
    """Read a value of JSON, which the driver sends as text, into what a bigint column holds.

    Raises:
      MorayError: it is no whole number, or too large.
    """
    if value is None:
        return None
    text = _array(value) if isinstance(value, list) else _sent(value)
    found = _BIGINT.fullmatch(text)
    if found is None:
        raise bad_input("bigint", text)
    if len(found[1]) > 40 or not -(2**63) <= int(found[1]) < 2**63:
        raise MorayError("error", f'value "{text}" is out of range for type bigint')
    return int(found[1])


def _sent(value: Any) -> str:
    return stringify(value) if isinstance(value, dict) else to_string(value)


def _array(items: list[Any]) -> str:
    def shown(item: Any) -> str:
        if item is None:
            return "NULL"
        if isinstance(item, list):
            return _array(item)
        text = _sent(item).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'

    return "{" + ",".join(map(shown, items)) + "}"


def normalise(kind: str, text: str) -> str:
    """Return the text that the column of an index of type `kind` gives back.

    Raises:
      MorayError: PostgreSQL does not take it.
    """
    read = _READERS.get(kind)
    return text if read is None else read(text)


def _ip(text: str) -> str:
    try:
        found = ipaddress.ip_interface(text.strip())
    except ValueError as exc:
        raise bad_input("inet", text) from exc
    whole = found.network.prefixlen == found.max_prefixlen
    return str(found.ip) if whole else found.with_prefixlen


def _subnet(text: str) -> str:
    try:
        found = ipaddress.ip_interface(text.strip())
    except ValueError as exc:
        raise bad_input("cidr", text) from exc
    if found.ip != found.network.network_address:
        raise MorayError("error", f'invalid cidr value: "{text}"')
    return str(found.network)


def _mac(text: str) -> str:
    found = text.strip().lower()
    if not _MAC.fullmatch(found):
        raise bad_input("macaddr", text)
    return ":".join(re.findall("..", re.sub("[:.-]", "", found)))


def _uuid(text: str) -> str:
    found = text.strip().lower()
    if not _UUID.fullmatch(found):
        raise bad_input("uuid", text)
    digits = re.sub("[{}-]", "", found)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise bad_input("timestamp with time zone", text) from exc


def _date(text: str) -> str:
    return _moment(text).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _numeric(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as exc:
        raise bad_input("numeric", text) from exc


def _show_moment(found: datetime) -> str:
    text = found.isoformat(" ").replace("+00:00", "+00")
    return f'"{text}"'


def _range(read: Callable[[str], Any], show: Callable[[Any], str]) -> Callable[[str], str]:
    """Make the reader of ranges of one type of bounds."""

    def normalised(text: str) -> str:
        if text.strip().lower() == "empty":
            return "empty"
        found = _RANGE.fullmatch(text)
        if found is None:
            raise MorayError("error", f'malformed range literal: "{text}"')
        low, high = (read(bound) if bound else None for bound in (found[2], found[3]))
        opens = found[1] if low is not None else "("
        closes = found[4] if high is not None else ")"
        if low is not None and high is not None:
            if low > high:
                message = "range lower bound must be less than or equal to range upper bound"
                raise MorayError("error", message)
            if low == high and (opens, closes) != ("[", "]"):
                return "empty"
        shown = ",".join("" if bound is None else show(bound) for bound in (low, high))
        return f"{opens}{shown}{closes}"

    return normalised


_READERS: Mapping[str, Callable[[str], str]] = {
    "ip": _ip,
    "subnet": _subnet,
    "mac": _mac,
    "uuid": _uuid,
    "date": _date,
    "numrange": _range(_numeric, str),
    "daterange": _range(_moment, _show_moment),
}
