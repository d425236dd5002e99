"""Write what is made of the code, pages and templates; `tools/reference` runs this.

usage: tools/reference [--check]

A page says where a part goes by two lines, `<!-- made by tools/reference: NAME -->` and
`<!-- end of NAME -->`; what is between them is written anew.  With --check nothing is written, and
the exit code is 1 if a file is not what would be written.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import attrs
import click
import sapi

from rebalancer import environment
from rebalancer.agent.openapi import description
from rebalancer.api.jobs import JobShown
from rebalancer.api.objects import REPORT_LINES
from rebalancer.cli import cli
from rebalancer.doctor.checks import CHECKS
from rebalancer.manager.http.openapi import DOCUMENT

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: Characters of a line of help, whatever the terminal.
HELP_WIDTH = 100


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- configuration -----------------------------------------------------------------------------


def fields_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, "attrs.Attribute[Any]"]]:
    """Yield each key of a configuration under its whole name, in the order of the code."""
    for field in attrs.fields(kind):
        name = f"{prefix}{field.name}"
        if attrs.has(field.type):
            yield from fields_of(field.type, f"{name}.")
            continue
        yield name, field
        for member in filter(attrs.has, get_args(field.type)):
            yield from fields_of(member, f"{name}[].")


def default_of(field: "attrs.Attribute[Any]") -> str:
    """Return the default of a key as its file spells it."""
    if field.default is attrs.NOTHING:
        return "required"
    is_made = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
    return f"`{json.dumps({} if is_made else field.default)}`"


def keys(program: str) -> str:
    """Return the table of a program's keys."""
    variables = sapi.variables(program)
    rows = (
        (
            f"`{name}`",
            default_of(field),
            field.metadata["unit"],
            str(field.metadata["reload"]),
            f"`{variables[name]}`" if name in variables else "",
            field.metadata["about"],
        )
        for name, field in fields_of(sapi.PROGRAMS[program][0])
    )
    return table(("key", "default", "unit", "in force", "SAPI", "meaning"), rows)


def variables_of(known: Mapping[str, Any]) -> str:
    """Return the table of the environment variables of a program."""
    rows = (
        (
            f"`{name}`",
            ", ".join(f"`{'.'.join(path)}`" for path in variable.keys),
            variable.expected,
        )
        for name, variable in known.items()
    )
    return table(("variable", "overrides", "expects"), rows)


# --- command line ------------------------------------------------------------------------------


def commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield each command with its context, a group before what is in it; no `help`."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and name != "help":
                inner = click.Context(below, context, name, **below.context_settings)
                yield from commands(below, inner)


def command_line() -> str:
    """Return a list of all commands, and the help of each."""
    width: dict[str, Any] = {"terminal_width": HELP_WIDTH, "max_content_width": HELP_WIDTH}
    top = click.Context(cli, info_name="rebalancer", **width, **cli.context_settings)
    known = list(commands(cli, top))
    single = [(one, context) for one, context in known if not isinstance(one, click.Group)]
    rows = (
        (
            f"[`{context.command_path}`](#{context.command_path.replace(' ', '-')})",
            one.get_short_help_str(HELP_WIDTH).rstrip("."),
        )
        for one, context in single
    )
    parts = [table(("command", ""), rows)]
    for one, context in known:
        parts.append(f"\n## {context.command_path}\n\n```text\n{one.get_help(context)}\n```\n")
    return "".join(parts)


# --- reports -----------------------------------------------------------------------------------


def report_lines() -> str:
    """Return the table of the types of a report's lines."""
    rows = []
    for name, kind in REPORT_LINES.items():
        inherited = {field.name for field in attrs.fields(JobShown)} if name == "job" else set()
        fields = [field.name for field in attrs.fields(kind) if field.name != "type"]
        shown = [f"`{one}`" for one in fields if one not in inherited]
        about = (kind.__doc__ or "").partition("\n")[0]
        all_of = "all of `GET /jobs/{id}`, " if inherited else ""
        rows.append((f"`{name}`", about, all_of + ", ".join(shown)))
    return table(("type", "meaning", "fields"), rows)


# --- the doctor --------------------------------------------------------------------------------


def checks_made() -> str:
    """Return the table of the doctor's checks."""
    rows = (
        (
            check.name,
            "both" if len(check.programs) > 1 else next(iter(check.programs)),
            "yes" if check.at_start else "",
            check.about,
            str(check.worst),
        )
        for check in CHECKS
    )
    return table(("check", "of", "at a start", "looks whether", "at worst"), rows)


# --- all ---------------------------------------------------------------------------------------

PARTS: Mapping[str, Callable[[], str]] = {
    "keys of the manager": partial(keys, "rebalancer"),
    "keys of the agent": partial(keys, "rebalancer-agent"),
    "variables of the manager": partial(variables_of, environment.MANAGER),
    "variables of the agent": partial(variables_of, environment.AGENT),
    "commands": command_line,
    "lines of a report": report_lines,
    "checks of the doctor": checks_made,
}
_PART = re.compile(
    r"(?<=<!-- made by tools/reference: )([\w ]+)( -->\n).*?(?=<!-- end of \1 -->)", re.DOTALL
)


def filled(text: str) -> str:
    """Return a page with each of its parts made anew."""
    return _PART.sub(lambda match: f"{match[1]}{match[2]}\n{PARTS[match[1]]()}\n", text)


def made() -> dict[Path, str]:
    """Return the text of each file that is made, or has a part that is made."""
    pages = {page: page.read_text() for page in sorted(DOCS.rglob("*.md"))}
    documents = {"manager": DOCUMENT, "agent": description()}
    manifests = ROOT / "sapi_manifests"
    return {
        **{manifests / name / "template": sapi.template(name) for name in sapi.PROGRAMS},
        **{page: filled(text) for page, text in pages.items() if _PART.search(text)},
        **{
            DOCS / "api" / f"{name}.json": json.dumps(document, indent=2) + "\n"
            for name, document in documents.items()
        },
    }


def stale() -> list[str]:
    """Return the files that are not what would be written."""
    return [
        path.relative_to(ROOT).as_posix()
        for path, text in made().items()
        if not path.exists() or path.read_text() != text
    ]


def main(arguments: list[str]) -> int:
    """Write the files, or compare them; return the exit code."""
    if arguments == ["--check"]:
        names = stale()
        print(*(f"{name}: run tools/reference" for name in names), sep="\n", end="")
        return 1 if names else 0
    for path, text in made().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
