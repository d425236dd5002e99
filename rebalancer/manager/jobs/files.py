"""This module reads and makes the files of jobs for requests, which wait for a bounded time."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from rebalancer.errors import Damaged, StoreBusy, StoreError, Unavailable
from rebalancer.manager.store import job_file
from rebalancer.threads import Work, run_sync

T = TypeVar("T")


async def read_job_file(fn: Callable[..., T], *args: Any) -> T:
    """Call `fn`, which reads a job's file, for a request.

    Raises:
      Unavailable: it cannot be read now.
      Damaged: it is no good, or gone.
    """
    with answering():
        return await run_sync(Work.VIEWS, partial(fn, *args))


@contextmanager
def answering() -> Iterator[None]:
    """Turn a fault of a job's file into the answer to a request."""
    try:
        yield
    except StoreBusy as exc:
        raise Unavailable(str(exc)) from exc
    except StoreError as exc:
        raise Damaged(str(exc)) from exc


@asynccontextmanager
async def made_with_its_row(path: Path) -> AsyncIterator[None]:
    """Remove the file of a new job if the context cannot put the job on the list now.

    The file is made first, because a job on the list always has one.
    """
    try:
        yield
    except Unavailable:
        with answering(), trio.CancelScope(shield=True):  # bounded: three names of a folder
            await run_sync(Work.STORE, job_file.remove, path)
        raise
