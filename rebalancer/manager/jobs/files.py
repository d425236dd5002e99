"""This module reads the files of jobs for requests, which wait for a bounded time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from rebalancer.errors import Damaged, StoreBusy, StoreError, Unavailable
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
