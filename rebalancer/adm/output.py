"""Where the operator's command writes to, and the forms that scripts rely on."""

import json
import sys
from typing import Any

import click
from rich.console import Console

from rebalancer.peers.http import Reply

#: A table is as wide as what is in it; without a terminal, up to so many characters.
PAGE_WIDTH = 240


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def make_console() -> Console:
    """Standard output.  Without a terminal there are no colours and no lines cut to its width."""
    width = None if is_terminal() else PAGE_WIDTH
    return Console(highlight=False, markup=False, width=width)


def printable(text: str) -> str:
    """A text on one line, without what a terminal would take for orders: users choose names."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def echo_json(value: Any) -> None:
    """A value as JSON, for `--json`."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def echo_as_predecessor(reply: Reply, text: str) -> None:
    """The layout that scripts around the predecessor's command expect."""
    click.echo(f"\nserver version: {reply.headers.get('server', '')}\n{text}")


def echo_reply(reply: Reply, as_json: bool) -> None:
    """An answer for a script: JSON, below the predecessor's line unless bare JSON is wanted."""
    if as_json:
        echo_json(reply.json())
    else:
        echo_as_predecessor(reply, json.dumps(reply.json(), indent=2, ensure_ascii=False))
