"""Make SAPI's templates, which config-agent renders, of the keys as they are declared.

A key's variable is the one that its declaration names, else one rule makes it: the program's
prefix, the table's name, the key's, in capitals.  config-agent takes false, 0, "" and [] for
missing, so a key that is true by default is turned off by a variable with `NO_` in its name.
"""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import attrs

from rebalancer.config import AgentConfig, ManagerConfig

#: The configuration of each program, and with what the variables of its keys begin.
PROGRAMS: dict[str, tuple[Any, str]] = {
    "rebalancer": (ManagerConfig, "REBALANCER"),
    "rebalancer-agent": (AgentConfig, "REBALANCER_AGENT"),
}
#: The predecessors' variables do not name these tables.
_UNNAMED = {"options", "server"}
_HEAD = (
    "{{! Made by tools/reference of the declared keys.  docs/configuration.md has the variables. }}"
)

Field = attrs.Attribute


def variables(program: str) -> dict[str, str]:
    """Return the variable of each key, by the key's whole name."""
    return {
        ".".join(filter(None, (table, field.name))): _variable(program, table, field)
        for table, fields in _tables(program)
        for field in fields
    }


def template(program: str) -> str:
    """Return the template of a program's configuration file."""
    make = _json if program == "rebalancer" else _toml
    return f"{_HEAD}\n{make(program)}"


def _tables(program: str) -> Iterator[tuple[str, list["Field[Any]"]]]:
    """Yield each table with its keys; first, without a name, the keys that are in none."""
    fields = attrs.fields(PROGRAMS[program][0])
    yield "", [field for field in fields if not attrs.has(field.type)]
    for field in fields:
        if attrs.has(field.type):
            yield field.name, list(attrs.fields(field.type))


def _variable(program: str, table: str, field: "Field[Any]") -> str:
    if field.metadata["sapi"]:
        return str(field.metadata["sapi"])
    words = [PROGRAMS[program][1], "" if table in _UNNAMED else table]
    words += ["no" if field.default is True else "", field.name]
    return "_".join(filter(None, words)).upper()


def _json(program: str) -> str:
    switches, entries = list[str](), list[str]()
    for name, fields in _tables(program):
        optional, always = _entries(program, name, fields, '"{}": ', ",")
        if name:
            lines = "\n    ".join([*optional, ",\n    ".join(always)])
            entries.append(f'"{name}": {{\n    {lines}\n  }}')
        else:
            switches += optional
            entries += always
    lines = "\n  ".join([*switches, ",\n  ".join(entries)])
    return f"{{\n  {lines}\n}}\n"


def _toml(program: str) -> str:
    parts = []
    for name, fields in _tables(program):
        optional, always = _entries(program, name, fields, "{} = ", "")
        parts.append("\n".join([*([f"[{name}]"] if name else []), *optional, *always]))
    return "\n\n".join(parts) + "\n"


def _entries(
    program: str, table: str, fields: list["Field[Any]"], form: str, comma: str
) -> tuple[list[str], list[str]]:
    """Return the entries that are there if their variables are, and those that always are."""
    optional, always = [], []
    for field in fields:
        variable = _variable(program, table, field)
        entry = form.format(field.name)
        if isinstance(field.default, bool) or field.default is None:
            value = "{{" + variable + "}}"
            if isinstance(field.default, bool):
                value = json.dumps(not field.default)
            optional.append(_section(variable, f"{entry}{value}{comma}"))
        else:
            always.append(entry + _value(variable, field, form))
    return optional, always


def _value(variable: str, field: "Field[Any]", form: str) -> str:
    """Return a value that is the variable's, or else the key's default."""
    kind: Any = field.type
    between = "{{^last}}, {{/last}}"
    if get_origin(kind) is dict:
        pair = form.format("{{{name}}}" if form.startswith('"') else '"{{{name}}}"')
        return "{ " + _section(variable, f'{pair}"{{{{{{value}}}}}}"{between}') + " }"
    if get_origin(kind) is tuple:
        (member, _) = get_args(kind)
        one = '"{{{name}}}"'
        if attrs.has(member):
            inner = (
                f'"{field.name}": "{{{{{{{field.name}}}}}}}"' for field in attrs.fields(member)
            )
            one = "{" + ", ".join(inner) + "}"
        return "[" + _section(variable, one + between) + "]"
    if kind is str:
        text = "{{{" + variable + "}}}"
        default = "" if field.default is attrs.NOTHING else field.default
        return f'"{_or_default(variable, text, default)}"' if default else f'"{text}"'
    return _or_default(variable, "{{" + variable + "}}", json.dumps(field.default))


def _or_default(variable: str, text: str, default: str) -> str:
    return _section(variable, text) + "{{^" + variable + "}}" + default + "{{/" + variable + "}}"


def _section(variable: str, text: str) -> str:
    return "{{#" + variable + "}}" + text + "{{/" + variable + "}}"
