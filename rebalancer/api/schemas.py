"""This module generates JSON Schemas from the classes of bodies.  Pure.

Types come from the classes; words, keys and what is required from `fields`.  Every
object is closed (`additionalProperties: false`): a field that is shown and not declared fails a
test, and a key that nobody knows is refused in a request.
"""

from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

from rebalancer.api.fields import facts_of, key_of

Schema = dict[str, Any]
_NULL: Schema = {"type": "null"}
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}


def ref(name: str) -> Schema:
    """Return a reference to the component `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(about: str = "", **more: Any) -> Schema:
    """Return the schema of a string."""
    return {"type": "string", **more, **({"description": about} if about else {})}


def closed(properties: Mapping[str, Any], required: Iterable[str]) -> Schema:
    """Return the schema of an object that has no other keys than `properties`."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def one_of(*kinds: type[Any]) -> Schema:
    """Return the schema of a body that is of one of some classes."""
    return {"oneOf": [ref(kind.__name__) for kind in kinds]}


def schemas_of(*kinds: type[Any]) -> dict[str, Schema]:
    """Return the schemas of some classes, and of all that they refer to, by name."""
    made = {kind.__name__: _of_class(kind) for kind in dict.fromkeys(_reached(kinds))}
    return {name: made[name] for name in sorted(made)}


def _reached(kinds: Iterable[Any]) -> Iterable[Any]:
    """Yield the attrs classes among some types, in their arguments, and in their fields."""
    for kind in kinds:
        if isinstance(kind, type) and attrs.has(kind):
            yield kind
            yield from _reached(field.type for field in attrs.fields(attrs.resolve_types(kind)))
        else:
            yield from _reached(get_args(kind))


def _of_class(kind: Any) -> Schema:
    """Return the schema of a class whose types are resolved."""
    properties, required = {}, []
    for field in attrs.fields(kind):
        facts, key = facts_of(field), key_of(field)
        if field.default is attrs.NOTHING or facts.is_always_there:
            required.append(key)
        given = _of_type(field.type)
        if field.default not in (attrs.NOTHING, None) and not facts.is_always_there:
            given["default"] = field.default
        if facts.is_never_null:
            (given,) = (branch for branch in given["anyOf"] if branch != _NULL)
        properties[key] = _bounded(given, facts.schema)
        if facts.text:
            properties[key]["description"] = facts.text
    return {**closed(properties, required), "description": (kind.__doc__ or "").strip()}


def _of_type(kind: Any) -> Schema:
    """Return the schema of a field's type; a type of another form than bodies have is a bug."""
    if kind is Any:
        return {}
    if kind in _TYPES:
        return {"type": _TYPES[kind]}
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return {**_of_type(args[0]), **args[1].keywords}
    if origin is Literal:
        return {"enum": sorted(args)}
    if origin in (Union, UnionType):
        return {"anyOf": [_of_type(one) for one in args]}
    if origin is tuple:
        return {"type": "array", "items": _of_type(args[0])}
    if origin is dict:
        values = {} if args[1] is Any else {"additionalProperties": _of_type(args[1])}
        return {"type": "object", **values}
    return ref(kind.__name__)


def _bounded(schema: Schema, keywords: Mapping[str, Any]) -> Schema:
    """Add `keywords` to a schema, or to that of its branches which is not null."""
    if "anyOf" not in schema:
        return {**schema, **keywords}
    branches = [branch if branch == _NULL else {**branch, **keywords} for branch in schema["anyOf"]]
    return {**schema, "anyOf": branches}
