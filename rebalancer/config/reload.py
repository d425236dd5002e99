"""This module knows what a key of a configuration file means, and when a change is in force.

Each key declares that beside its default, so that what SIGUSR1 does to it, and what people read of
it, are decided where the key is made.  A field whose value is a table has no such declaration: the
table's keys have theirs.
"""

import enum
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import attrs

T = TypeVar("T")


class Reload(enum.StrEnum):
    """A reload says when a new value of a key is in force."""

    #: When SIGUSR1 comes, also for jobs that run.
    LIVE = "live"
    #: For the next job that begins after SIGUSR1 came.
    NEXT_JOB = "next job"
    #: When the program starts the next time.
    RESTART = "restart"


LIVE, NEXT_JOB, RESTART = Reload


def key(
    default: Any = attrs.NOTHING,
    *,
    about: str,
    unit: str = "",
    reload: Reload,
    factory: Callable[[], Any] | None = None,
    validator: Callable[[Any, Any, Any], Any] | None = None,
    sapi: str = "",
) -> Any:
    """Declare a key of a configuration: its default, meaning and unit, its reload, its check.

    `sapi` is the variable that sets it where Manta had one before; of other keys it follows from
    the name.  `docs/configuration.md` and `sapi_manifests` are made of these (`tools/reference`).
    """
    metadata = {"about": about, "unit": unit, "reload": reload, "sapi": sapi}
    return attrs.field(default=default, factory=factory, validator=validator, metadata=metadata)


def reload_of(field: "attrs.Attribute[Any]") -> Reload | None:
    """Return when a change of the key is in force; None if it is a table, or does not say."""
    reload: Reload | None = field.metadata.get("reload")
    return reload


def adopt(old: T, new: T, kinds: Collection[Reload]) -> T:
    """Return `old` with the values that `new` has for the keys of `kinds`."""
    changes = {}
    for field in attrs.fields(cast(Any, type(old))):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if attrs.has(type(before)):
            changes[field.name] = adopt(before, after, kinds)
        elif reload_of(field) in kinds:
            changes[field.name] = after
    evolve: Any = attrs.evolve  # mypy knows it of named classes only
    made: T = evolve(old, **changes)
    return made


def changed(old: Any, new: Any, kind: Reload, prefix: str = "") -> list[str]:
    """List the keys of `kind` in which `old` and `new` differ, a table's as `table.key`."""
    names = []
    for field in attrs.fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if attrs.has(type(before)):
            names += changed(before, after, kind, f"{prefix}{field.name}.")
        elif reload_of(field) is kind and before != after:
            names.append(prefix + field.name)
    return names
