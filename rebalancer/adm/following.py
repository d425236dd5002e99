"""This module shows how far a request is that the manager answers line by line."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from rebalancer.adm.output import can_redraw
from rebalancer.adm.printing import printable
from rebalancer.adm.watch import LINE_S

#: Shows some progress in words, and as a share from 0 to 1 where that is known.
Show = Callable[[str, float | None], None]


async def json_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """Yield the values of lines of JSON, of which the last may have no end of line.

    Raises:
      ValueError: a line is no JSON.
    """
    begun = b""
    async for piece in pieces:
        *whole, begun = (begun + piece).split(b"\n")
        for text in whole:
            yield json.loads(text)
    if begun:
        try:
            last = json.loads(begun)
        except ValueError:
            raise ValueError("its last line has no end") from None
        yield last


@contextmanager
def showing(begin: str) -> Iterator[Show]:
    """Give what shows progress on standard error: as a bar on a terminal, or else in lines."""
    console = Console(stderr=True, highlight=False, markup=False)
    if console.is_dumb_terminal:
        click.echo(begin, err=True)
    if not can_redraw(console):
        yield _lines()
        return
    # A narrow terminal has the words on two lines, and all of them.
    words = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1))
    with Progress(
        BarColumn(10), TimeElapsedColumn(), words, console=console, transient=True, expand=True
    ) as bar:
        task = bar.add_task(begin, total=None)

        def show(words: str, share: float | None) -> None:
            total = None if share is None else 1
            bar.update(task, description=printable(words), total=total, completed=share or 0)

        yield show


def _lines() -> Show:
    """Return what prints the progress every few seconds, if it takes so long."""
    shown_at = time.monotonic()

    def show(words: str, _share: float | None) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= LINE_S:
            shown_at = time.monotonic()
            click.echo(printable(words), err=True)

    return show
