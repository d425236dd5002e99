"""This module lends folders to dry runs and imports, and removes those of a killed manager."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from rebalancer.threads import Work, run_sync

#: Such folders, beside the jobs' files.
PREFIX = "plan-"


@asynccontextmanager
async def scratch_folder(data_dir: Path) -> AsyncIterator[Path]:
    """Lend a folder below `data_dir`, which is gone afterwards."""
    folder = await run_sync(Work.OTHER, lambda: tempfile.mkdtemp(prefix=PREFIX, dir=data_dir))
    try:
        yield Path(folder)
    finally:
        with trio.CancelScope(shield=True):  # bounded: a few files
            await run_sync(Work.OTHER, shutil.rmtree, folder, True)


def clean(data_dir: Path) -> None:
    """Remove the folders that were lent when their manager was killed.  Blocking."""
    for folder in data_dir.glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
