"""This module writes what the operator's command says, in the forms that scripts rely on."""

import datetime
import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click
from rich.console import Console

from rebalancer.adm.printing import printable
from rebalancer.peers.http import Reply

#: A table is as wide as what is in it; without a terminal, up to so many characters.
PAGE_WIDTH = 240
#: Lines that flow are so wide without a terminal.
SCREEN_WIDTH = 120


def is_terminal() -> bool:
    """Tell whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def can_redraw(console: Console) -> bool:
    """Tell whether a console's lines can be drawn anew; a dumb terminal keeps its lines."""
    return console.is_terminal and not console.is_dumb_terminal


def make_console() -> Console:
    """Return standard output; without a terminal it has no colours, and cuts no lines."""
    width = None if is_terminal() else PAGE_WIDTH
    return Console(highlight=False, markup=False, width=width)


def echo_screen(make: Callable[[int, datetime.datetime], Iterable[str]]) -> None:
    """Print the lines that `make` lays out for a width and the time."""
    width = make_console().width if is_terminal() else SCREEN_WIDTH
    echo_lines(make(width, datetime.datetime.now(datetime.UTC)))


def echo_lines(lines: Iterable[str]) -> None:
    """Print lines, which the terminal breaks, so that a command can be copied from them."""
    for line in lines:
        # Named, because click would choose another encoding than the terminal's.
        click.echo(line, file=sys.stdout)


def json_text(value: Any, *, indent: int | None = 2, sort_keys: bool = False) -> str:
    """Write `value` as JSON that standard output can encode, and no terminal takes for orders."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    is_ascii = not encoding.startswith("utf")
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii, sort_keys=sort_keys)
    return _UNPRINTABLE.sub(_as_json_escape, text) if is_terminal() else text


#: What may stand for an order to a terminal, if it is not printable.
_UNPRINTABLE = re.compile(r"[^\n\x20-\x7e]")


def _as_json_escape(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() else json.dumps(char)[1:-1].replace("\x7f", "\\u007f")


def echo_json(value: Any) -> None:
    """Print a value as JSON, for `--json`."""
    click.echo(json_text(value))


def echo_as_predecessor(reply: Reply, text: str) -> None:
    """Print in the layout that scripts around the predecessor's command expect."""
    version = printable(reply.headers.get("server", ""))
    click.echo(f"\nserver version: {version}\n{text}")


def echo_reply(reply: Reply, as_json: bool) -> None:
    """Print an answer for a script: JSON, below the predecessor's line unless bare JSON is wanted.

    The predecessor sorts keys.
    """
    if as_json:
        echo_json(reply.json())
    else:
        echo_as_predecessor(reply, json_text(reply.json(), sort_keys=True))
