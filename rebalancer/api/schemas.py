"""This module generates JSON Schemas from the classes of bodies.  Pure.

msgspec knows the types; the words, the keys and what is required are added from `fields`.  Every
object is closed (`additionalProperties: false`): a field that is shown and not declared fails a
test, and a key that nobody knows is refused in a request.
"""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import attrs
import msgspec

from rebalancer.api.fields import facts_of, key_of

Schema = dict[str, Any]
_NULL: Schema = {"type": "null"}


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
    classes = list(dict.fromkeys(_reached(kinds)))
    template = "#/components/schemas/{name}"
    _, made = msgspec.json.schema_components(classes, ref_template=template)
    for kind in classes:
        made[kind.__name__] = _completed(kind, made[kind.__name__])
    return {name: made[name] for name in sorted(made)}


def _reached(kinds: Iterable[Any]) -> Iterable[Any]:
    """Yield the attrs classes among some types, in their arguments, and in their fields."""
    for kind in kinds:
        if isinstance(kind, type) and attrs.has(kind):
            yield kind
            yield from _reached(field.type for field in attrs.fields(attrs.resolve_types(kind)))
        else:
            yield from _reached(get_args(kind))


def _completed(kind: Any, schema: Mapping[str, Any]) -> Schema:
    """Add to a generated schema what msgspec does not know of a class."""
    properties, required = {}, []
    for field in attrs.fields(kind):
        facts, key = facts_of(field), key_of(field)
        if field.default is attrs.NOTHING or facts.is_always_there:
            required.append(key)
        given = {**schema["properties"][field.name]}
        if facts.is_always_there or given.get("default", 0) is None:
            given.pop("default", None)
        if facts.is_never_null:
            (given,) = (branch for branch in given["anyOf"] if branch != _NULL)
        properties[key] = _bounded(given, facts.schema)
        if facts.text:
            properties[key]["description"] = facts.text
    return {**closed(properties, required), "description": (kind.__doc__ or "").strip()}


def _bounded(schema: Schema, keywords: Mapping[str, Any]) -> Schema:
    """Add `keywords` to a schema, or to that of its branches which is not null."""
    if "anyOf" not in schema:
        return {**schema, **keywords}
    branches = [branch if branch == _NULL else {**branch, **keywords} for branch in schema["anyOf"]]
    return {**schema, "anyOf": branches}
