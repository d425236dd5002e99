"""What pages say of commands, tables and reasons is what the program has."""

import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest

from rebalancer.cli import cli
from rebalancer.domain.reasons import Column, words_of
from rebalancer.manager.store.schema import JOB_FILE
from tests.docs.session import ROOT
from tests.test_docs import rows

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_operators_page_has_every_reason_once() -> None:
    """And each has a meaning and a remedy."""
    page = rows(DOCS / "operating.md")
    begin = page.index(("reason", "meaning", "remedy"))
    end = next(i for i, row in enumerate(page) if i > begin and len(row) == 2)
    shown = [row for row in page[begin:end] if row[0].startswith("`")]
    known = {word for column in Column for word in words_of(column)}

    assert sorted(quoted(row[0])[0] for row in shown) == sorted({*known, "{http_status_code:N}"})
    assert [row for row in shown if not all(row) or len(row) != 3] == []


def test_a_jobs_file_has_the_tables_that_integrators_read_of() -> None:
    """With their columns, in their order; no table is left out."""
    page = rows(DOCS / "integrating.md")
    with closing(sqlite3.connect(":memory:")) as db:
        JOB_FILE.bring_up(db)
        names = db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        known = {
            name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
            for (name,) in names.fetchall()
        }
    begin = page.index(("table", "columns", "a row is"))
    tables = {quoted(row[0])[0]: quoted(row[1]) for row in page[begin:] if row[0][1:-1] in known}
    view = page[page.index(("column of `evacuateobjects`", "meaning")) : begin]
    columns = [name for row in view for name in quoted(row[0]) if name != "evacuateobjects"]

    assert sorted(columns) == sorted(known.pop("evacuateobjects"))
    assert tables == known


def shell_lines(page: Path) -> Iterator[str]:
    """The commands of all blocks that are not run, marked `sh` or set in by four blanks."""
    text = page.read_text()
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        yield from (line.strip() for line in block.replace("\\\n", "").splitlines())
    yield from re.findall(r"^ {4,}(?:\$ )?(rebalancer .*)$", text, re.MULTILINE)


def words_of_commands(page: Path) -> Iterator[str]:
    """What the text of a page calls the commands of `adm`: `job list`, `rebalancer adm status`."""
    named = r"`(?:rebalancer adm )?((?:job|node|status)\b(?: [^`]*)?)`"
    yield from re.findall(named, page.read_text())


COMMANDS = sorted(
    {line for page in PAGES for line in shell_lines(page) if line.startswith("rebalancer ")}
)
NAMED = sorted({words for page in PAGES for words in words_of_commands(page) if " " in words})


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_a_page_names_can_be_typed(line: str) -> None:
    """Each word of it is a command, an option or an argument that there is."""
    command, context = parsed(shlex.split(re.split(r" (?:\||&&) ", line)[0], comments=True)[1:])
    assert not isinstance(command, click.Group), context.command_path


def test_a_command_that_a_text_mentions_exists() -> None:
    """Whatever stands for its arguments, if anything does."""
    top = click.Context(cli, info_name="rebalancer")
    adm = cli.get_command(top, "adm")
    unknown = []
    for words in NAMED:
        group = adm
        for word in words.split():
            if not isinstance(group, click.Group):
                break
            group = group.get_command(top, word)
        if group is None:
            unknown.append(words)

    assert len(NAMED) > 20
    assert unknown == []


def parsed(words: list[str]) -> tuple[click.Command, click.Context]:
    command: click.Command = cli
    # With its settings, for click keeps the help option that a command is first asked for.
    context = click.Context(cli, info_name="rebalancer", **cli.context_settings)
    while isinstance(command, click.Group):
        # A group takes its options, and leaves what follows to its command.
        rest = command.make_parser(context).parse_args(list(words))[1]
        name, found, words = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, context, name, **found.context_settings)
    command.parse_args(context, words)
    return command, context


def test_what_operators_ask_of_a_jobs_file_can_be_asked() -> None:
    """Every SELECT that a page has them type."""
    found = [
        sql
        for page in PAGES
        for sql in re.findall(r"sqlite3 \S*\.sqlite '(SELECT[^']+)'", page.read_text())
    ]
    with closing(sqlite3.connect(":memory:")) as db:
        JOB_FILE.bring_up(db)
        for sql in found:
            db.execute(sql)

    assert len(found) >= 3
