"""This module has the checks of single values; each raises an error that names the key."""

import math
from collections.abc import Callable
from typing import Any

from attrs import Attribute

from rebalancer.agent_protocol import PostForm
from rebalancer.converter import FieldError
from rebalancer.domain.objects import is_storage_id
from rebalancer.log import level_name
from rebalancer.peers.names import split_port


def whole(minimum: int, maximum: int | None = None) -> Any:
    """Make a check of a number's range."""
    expected = f"at least {minimum}" + ("" if maximum is None else f" and at most {maximum}")

    def validate(_instance: object, field: "Attribute[Any]", value: float) -> None:
        if not (minimum <= value < math.inf) or (maximum is not None and value > maximum):
            raise FieldError(f"{field.name}: expected {expected}, got {value}")

    return validate


#: Check that a number is a port to listen on; 0: any that is free.
port = whole(0, 65535)


def apart(name: str, metrics: tuple[str, int], api: tuple[str, int]) -> None:
    """Check that metrics are not served at the address of the API; port 0 means any free one.

    Raises:
      FieldError: they are, so that the program could serve one of both only.
    """
    if metrics == api and metrics[1]:
        raise FieldError(f"{name}: expected another address than the API's, got port {metrics[1]}")


def level(_instance: object, field: "Attribute[str]", value: str) -> None:
    """Check that `value` names a level of the log.

    Raises:
      FieldError: it does not.
    """
    try:
        level_name(value)
    except ValueError as exc:
        raise FieldError(f"{field.name}: {exc}, got {value!r}") from exc


def one_of(*values: str) -> Callable[[object, "Attribute[str]", str], None]:
    """Make a check that a text is one of `values`."""

    def validate(_instance: object, field: "Attribute[str]", value: str) -> None:
        if value not in values:
            expected = f"expected one of {', '.join(values)}"
            raise FieldError(f"{field.name}: {expected}, got {value!r}")

    return validate


def of_shards(_instance: object, field: "Attribute[str]", value: str) -> None:
    """Check that a host's name, if there is one, has a place for the number of a shard.

    Raises:
      FieldError: it has none, or can be no host's.
    """
    is_name = "{shard}" in value and is_storage_id(value.replace("{shard}", "1"))
    if value and not is_name:
        raise FieldError(f"{field.name}: expected a host name with {{shard}} in it, got {value!r}")


def post_forms(
    _instance: object, field: "Attribute[dict[str, str]]", value: dict[str, str]
) -> None:
    """Check that each value of a table is a form in which agents can be posted to.

    Raises:
      FieldError: one is not.
    """
    forms = [form.value for form in PostForm]
    for name, form in value.items():
        if form not in forms:
            expected = f"expected one of {', '.join(forms)}"
            raise FieldError(f"{field.name}: {name}: {expected}, got {form!r}")


def addresses(_instance: object, field: "Attribute[dict[str, str]]", value: dict[str, str]) -> None:
    """Check that each value of a table is an address, perhaps with a port.

    Raises:
      FieldError: one is not.
    """
    for address in value.values():
        try:
            split_port(address, 1)
        except ValueError as exc:
            raise FieldError(f"{field.name}: {exc}") from exc


def numbered(_instance: object, field: "Attribute[str]", value: str) -> None:
    """Check that a name starts with a number from 1 on, and a dot.

    Raises:
      FieldError: it does not.
    """
    number = value.split(".")[0]
    is_number = number.isascii() and number.isdecimal() and len(number) < 10
    if not is_number or int(number) < 1:
        expected = "expected a name that starts with its number"
        raise FieldError(f"{field.name}: {expected}, got {value!r}")
