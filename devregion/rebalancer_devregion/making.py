"""This module makes a region in its folder, shows how far it is, and can be interrupted."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rebalancer_devregion.buckets.contents import write_buckets
from rebalancer_devregion.contents import write
from rebalancer_devregion.layout import Layout

#: About so many records are made for each object to move: there are others besides.
RECORDS_EACH = 1.4


#: For so many objects of the directory tier there is one bucket object.
OBJECTS_A_BUCKET_OBJECT = 4


async def make(layout: Layout, objects: int, console: Console) -> str:
    """Make records and files of a region; return how much was made.  A Ctrl-C ends this soon.

    Raises:
      KeyboardInterrupt: it was interrupted.
      ProcessError: a PostgreSQL does not start.
    """
    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                nonlocal interrupted
                await anext(signals)
                interrupted = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(heed)
            with showing(objects, console) as show:

                def made(records: int) -> None:
                    trio.from_thread.check_cancelled()
                    show(records)

                summary = await trio.to_thread.run_sync(partial(_make, layout, objects, made))
            nursery.cancel_scope.cancel()
    if interrupted:
        raise KeyboardInterrupt
    return summary


def _make(layout: Layout, objects: int, made: Callable[[int], None]) -> str:
    summary = str(write(layout, objects, made))
    if layout.buckets:
        summary += f"\n{write_buckets(layout, max(1, objects // OBJECTS_A_BUCKET_OBJECT))}"
    return summary


@contextmanager
def showing(objects: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Give what shows how many records are made; nothing is shown without a terminal."""
    words = TextColumn("{task.description}", markup=False)
    is_shown = console.is_terminal and not console.is_dumb_terminal
    with Progress(words, BarColumn(), console=console, transient=True, disable=not is_shown) as bar:
        task = bar.add_task("records", total=objects * RECORDS_EACH)
        yield lambda records: bar.update(
            task, completed=records, description=f"{records:,} records made"
        )


def remove(folder: Path, console: Console) -> None:
    """Remove a region's folder, and say so."""
    shutil.rmtree(folder, ignore_errors=True)
    left = "could not be removed whole" if folder.exists() else "is removed"
    console.out(f"{folder} {left}")
