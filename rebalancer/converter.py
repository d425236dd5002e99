"""This module has the converter: strict, from parsed JSON or TOML to attrs classes.

It parses both as well, within bounds, and says of what does not fit where it is and what was
expected.  Pure.
"""

import json
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
import cattrs.v
from cattrs import BaseConverter, IterableValidationError, IterableValidationNote
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from rebalancer import jsontext
from rebalancer.api.fields import facts_of, key_of
from rebalancer.errors import BadRequest, TooLarge

CattrsConverter = cattrs.Converter
T = TypeVar("T")

#: Values in one JSON text from outside: an assignment of 10,000 tasks has a half of them.
#: What a text of given length needs in memory is anything up to forty times that length.
MAX_VALUES = 300_000
#: Faults that are looked for and reported: a sender of more has one at every turn.
MAX_FAULTS = 10


class FieldError(ValueError):
    """A field cannot hold a value; the text says what was expected."""


def _structure_strictly(kind: type[T]) -> Callable[[Any, Any], T]:
    """Structure JSON's own types without coercion: `"5"` is no number and `5` no text."""

    def hook(value: Any, _type: Any) -> T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FieldError(f"expected {_NAMES.get(kind, kind.__name__)}, got {_brief(value)}")
        if isinstance(value, str) and not jsontext.is_text(value):
            raise FieldError(f"expected text, got half of a character in {_brief(value)}")
        return value

    return hook


_NAMES: Mapping[type, str] = {str: "a string", int: "a whole number", bool: "true or false"}


def checked(test: Callable[[object], bool], expected: str) -> Callable[[Any, Any], str]:
    """Return a hook for texts that pass `test`; `expected` says of what kind those are."""

    def hook(value: Any, _type: Any) -> str:
        if not test(value):
            raise FieldError(f"expected {expected}, got {_brief(value)}")
        return str(value)

    return hook


def _structure_float(value: Any, _type: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"expected a number, got {_brief(value)}")
    return float(value)


def _brief(value: Any) -> str:
    # Not the whole of what may be large, or deeper than any text can be written.
    text = f"{json.dumps(value[:60])}" if isinstance(value, str) else _brief_text(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _brief_text(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object of {len(value)}"
    return json.dumps(value, default=str)


def _structure_object(made: cattrs.Converter, kind: type[T], **fields: Any) -> Any:
    """Structure an attrs class from a JSON object, `fields` by hooks of their own."""
    overrides: dict[str, Any] = _keys(kind)
    overrides |= {name: override(struct_hook=hook) for name, hook in fields.items()}
    inner = make_dict_structure_fn(kind, made, **overrides)

    def hook(value: Any, _type: Any) -> T:
        if not isinstance(value, Mapping):
            raise FieldError(f"expected an object, got {_brief(value)}")
        return inner(value, kind)

    return hook


def register_positional(made: cattrs.Converter, kind: type[T], **fields: Any) -> None:
    """Have `made` read `kind` from a JSON object, or from an array of its values in their order.

    Serde reads structs so, and old documentation of the deployed agent posts assignments so.
    """
    inner = _structure_object(made, kind, **fields)
    names = [field.name for field in attrs.fields(kind)]  # type: ignore[arg-type]
    needed = sum(field.default is attrs.NOTHING for field in attrs.fields(kind))  # type: ignore[arg-type]

    def hook(value: Any, _type: Any) -> T:
        if isinstance(value, list) and needed <= len(value) <= len(names):
            value = dict(zip(names, value, strict=False))
        structured: T = inner(value, kind)
        return structured

    made.register_structure_hook(kind, hook)


def _keys(kind: Any) -> dict[str, Any]:
    """Return the overrides of fields that have another key in JSON, or are left out by default."""
    overrides = {}
    for field in attrs.fields(kind):
        key, may_miss = key_of(field), not facts_of(field).is_always_there
        may_miss = may_miss and field.default is not attrs.NOTHING
        if key != field.name or may_miss:
            overrides[field.name] = override(rename=key, omit_if_default=may_miss)
    return overrides


def _unstructure_object(made: cattrs.Converter, kind: Any) -> Any:
    return make_dict_unstructure_fn(kind, made, **_keys(kind))


def _is_array(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list)


def _structure_array(kind: Any, made: BaseConverter) -> Any:
    """Structure `list[X]` and `tuple[X, ...]` from a JSON array: a text is none."""
    item: Any = get_args(kind)[0]
    items: Any = list_structure_factory(list[item], made)
    if made.detailed_validation:
        items = _structure_items(item, made)

    def hook(value: Any, _type: Any) -> Any:
        if not isinstance(value, list):
            raise FieldError(f"expected a list, got {_brief(value)}")
        return get_origin(kind)(items(value, kind))

    return hook


def _structure_items(kind: Any, made: BaseConverter) -> Any:
    """Structure the items of a list, up to as many faults as are reported.

    What cattrs has for this keeps an exception for every item that does not fit: that took
    nineteen seconds and 0.9 GB for half a million of them in a text of 1 MiB.
    """
    structure_item = made.get_structure_hook(kind)

    def items(value: list[Any], _type: Any) -> list[Any]:
        found, faults = [], list[Exception]()
        for index, item in enumerate(value):
            try:
                found.append(structure_item(item, kind))
            except Exception as exc:
                exc.add_note(IterableValidationNote(f"item {index}", index, kind))
                faults.append(exc)
                if len(faults) == MAX_FAULTS:
                    break
        if faults:
            raise IterableValidationError("items", faults, list)
        return found

    return items


def _make_converter(
    register: Callable[[cattrs.Converter], None] | None, *, is_detailed: bool
) -> cattrs.Converter:
    made = cattrs.Converter(detailed_validation=is_detailed)
    for kind in (str, int, bool):
        made.register_structure_hook(kind, _structure_strictly(kind))
    made.register_structure_hook(float, _structure_float)
    made.register_structure_hook_factory(_is_array, _structure_array)
    made.register_structure_hook_factory(attrs.has, lambda kind: _structure_object(made, kind))
    made.register_unstructure_hook_factory(attrs.has, lambda kind: _unstructure_object(made, kind))
    if register is not None:
        register(made)
    return made


class StrictConverter:
    """A strict converter makes attrs classes of parsed JSON or TOML, and coerces nothing."""

    def __init__(self, register: Callable[[cattrs.Converter], None] | None = None) -> None:
        """Make a converter; `register` adds hooks of its own to what it is given."""
        self._detailed = _make_converter(register, is_detailed=True)
        # This one does not say where a fault is, and takes half the time.
        self._fast = _make_converter(register, is_detailed=False)

    def structure(self, value: Any, kind: type[T]) -> T:
        """Turn parsed JSON into `kind`.

        Raises:
          BadRequest: says of the fields that do not fit, up to `MAX_FAULTS` of them, where each
            is and what was expected.
        """
        with suppress(Exception):
            return self._fast.structure(value, kind)
        try:
            return self._detailed.structure(value, kind)
        except Exception as exc:
            # cattrs' own error is an exception group, which no `except ValueError` would meet.
            faults = cattrs.v.transform_error(exc, path="$", format_exception=_format_fault)
            first = [fault.replace(" @ ", " at ") for fault in faults[:MAX_FAULTS]]
            more = ["..."] if len(faults) >= MAX_FAULTS else []
            raise BadRequest("; ".join([*first, *more])) from exc

    def unstructure(self, value: Any) -> Any:
        """Turn an attrs class into what `json.dumps` takes, keys in the order of fields."""
        return self._fast.unstructure(value)


_converter = StrictConverter()
#: Turn parsed JSON into attrs classes that need no hooks of their own, as `StrictConverter` does.
structure = _converter.structure
#: Turn attrs classes into parsed JSON.
unstructure = _converter.unstructure


def _format_fault(exc: BaseException, kind: type | None) -> str:
    match exc:
        case FieldError():
            return str(exc)
        case KeyError():
            return f"required field {exc.args[0]} is missing"
    name = getattr(kind, "__name__", "object")
    return f"expected {'an object' if name in ('dict', 'object') else name}"


def parse_json(text: bytes | str) -> Any:
    """Parse JSON that came from outside, in time and memory that its length bounds.

    Raises:
      BadRequest: it is none; says where.
      TooLarge: it may have more than `MAX_VALUES` values.
    """
    # Each value but the first is the first of its list or object, or has a comma before it.
    count = (
        text.count(b",") + text.count(b"[") + text.count(b"{")
        if isinstance(text, bytes)
        else text.count(",") + text.count("[") + text.count("{")
    )
    if count > MAX_VALUES:
        raise TooLarge(f"more than {MAX_VALUES} values in one JSON text")
    try:
        return jsontext.loads(text)
    except RecursionError as exc:
        raise BadRequest("not JSON that can be read: nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest(f"not JSON: {exc}") from exc


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML that came from outside.

    Raises:
      BadRequest: it is none; says where.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise BadRequest("not TOML that can be read: nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest(str(exc)) from exc
