"""This module declares the fields of bodies: what each holds, in words and by its bounds.  Pure."""

from typing import Annotated, Any

import attrs

#: Key of `attrs.Attribute.metadata` under which a field's `Facts` are.
FACTS = "body"


class Keywords:
    """A kind of value has these keywords of JSON Schema beside its type."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords


#: A number of things, or of bytes.
Count = Annotated[int, Keywords(minimum=0)]
#: A number of things, or of bytes, of which there is one at least.
Positive = Annotated[int, Keywords(minimum=1)]
#: Seconds, or how many of something a second.
Amount = Annotated[float, Keywords(minimum=0)]
#: The id of a job, an object or an assignment.
Uuid = Annotated[str, Keywords(format="uuid")]
#: From 0 to 1.
Share = Annotated[float, Keywords(minimum=0, maximum=1)]
#: A time in UTC, as RFC 3339 has it.
Time = Annotated[str, Keywords(format="date-time")]


@attrs.frozen
class Facts:
    """The facts that a body's field declares beside its type."""

    #: What the field holds, for operators; empty where its name and type say it all.
    text: str = ""
    #: The key in JSON where it is not the field's name.
    key: str = ""
    #: Whether the key is in every body of ours, though a reader can do without it.
    is_always_there: bool = False
    #: Whether null in the field's type stands for a missing key only, and is in no body of ours.
    is_never_null: bool = False
    #: Further keywords of the field's JSON Schema.
    schema: dict[str, Any] = attrs.field(factory=dict)


def about(
    text: str = "",
    *,
    key: str = "",
    default: Any = attrs.NOTHING,
    if_missing: Any = attrs.NOTHING,
    is_never_null: bool = False,
    **schema: Any,
) -> Any:
    """Declare a field of a body, which holds what `text` says.

    Args:
      text: a full sentence, or the end of "This field holds".
      key: the key in JSON, where the field has another name.
      default: the value of a field that is left out: a body of ours leaves it out
        then, and has it behind all other fields else.
      if_missing: the value that a reader takes where another version of a server leaves the field
        out; ours never does.
      is_never_null: whether None is such a value only, so that the schema has no null.
      schema: further keywords of JSON Schema, such as `maximum` or `examples`.
    """
    is_always_there = if_missing is not attrs.NOTHING
    facts = Facts(text, key, is_always_there, is_never_null, schema)
    value = if_missing if is_always_there else default
    return attrs.field(default=value, metadata={FACTS: facts})


def facts_of(field: "attrs.Attribute[Any]") -> Facts:
    """Return what a field says; nothing is said of a field that `about` has not made."""
    facts: Facts = field.metadata.get(FACTS, _NO_FACTS)
    return facts


_NO_FACTS = Facts()


def key_of(field: "attrs.Attribute[Any]") -> str:
    """Return the key of a field in JSON."""
    return facts_of(field).key or field.name
