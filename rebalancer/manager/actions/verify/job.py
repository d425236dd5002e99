"""This module runs a verify job: it collects objects, then compares their copies with records.

Each object is a row of the job's file, which goes from `unprocessed` to an end in one transaction;
so a job that was stopped or killed goes on where it was.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.reasons import CANCELLED
from rebalancer.domain.states import ObjectStatus
from rebalancer.errors import JobFailed
from rebalancer.manager.actions.verify.check import Checker
from rebalancer.manager.actions.verify.collect import (
    Collector,
    LiveShards,
    has_collected_all,
    has_moved,
    is_unconfirmed,
)
from rebalancer.manager.actions.verify.rate import ByteRate
from rebalancer.manager.actions.verify.reader import Reader
from rebalancer.manager.pipeline.job import unless
from rebalancer.manager.store import unplaced
from rebalancer.manager.store.job_store import JobStore
from rebalancer.manager.store.records import StatusCounts
from rebalancer.peers import scan
from rebalancer.peers.http import HttpClient
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits


@attrs.frozen
class VerifyJob:
    """A verify job that has its turn; `params` are its parameters in the list of jobs."""

    params: Mapping[str, Any]
    config: ManagerConfig
    store: JobStore
    live: Mapping[int, scan.Scannable]
    http: HttpClient
    waits: Waits
    #: Returns the file of another job.
    file: Callable[[str], Path]

    async def run(self, cancelled: trio.Event) -> None:
        """Bring the job to its end; when `cancelled` is set, what is left is skipped.

        Raises:
          JobFailed: objects have faults or could not be verified; its text counts them by reason.
          StoreError: the file of the other job cannot be read.
          ExceptionGroup: a PeerError of a shard that is not transient.
        """
        shards = LiveShards(self.live, self.waits)
        await unless(cancelled, partial(self._collect, shards))
        await unless(cancelled, self._checker(shards).run)
        if cancelled.is_set():
            while await self.store.write(unplaced.skip_page, CANCELLED):
                pass
            return
        if faults := count_faults(await self.store.status()):
            raise JobFailed(faults)

    async def _collect(self, shards: LiveShards) -> None:
        """Store every object that the job is to verify, unless that was done already."""
        options, params = self.config.options, self.params
        collector = Collector(
            self.store,
            shards,
            options.max_md_read_threads,
            options.md_read_chunk_size,
        )
        if await collector.has_finished():
            return
        had_finished = False
        if (earlier := params.get("retry_of")) is not None:
            await collector.store_reported(self.file(earlier), is_unconfirmed, "retried")
            had_finished = await run_sync(Work.VIEWS, has_collected_all, self.file(earlier))
        # Objects that the earlier job had yet to collect are found only where it looked for them.
        if not had_finished:
            if params["job"] is not None:
                await collector.store_reported(self.file(params["job"]), has_moved, "moved")
            else:
                await collector.store_named(params["shark"])
        await collector.finish()

    def _checker(self, shards: LiveShards) -> Checker:
        params = self.params
        rate = ByteRate(params["bytes_per_s"])
        port = self.config.storage_port if params["port"] is None else params["port"]
        reader = Reader(self.http, port, params["patience_s"], rate, self.waits)
        return Checker(self.store, shards, reader, params["sample"], params["requests"])


def count_faults(status: StatusCounts) -> str:
    """Say how many objects are not as their records say, by reason; an empty text if all are."""
    found = {
        reason: objects
        for (name, reason), (objects, _) in sorted(status.counts.items())
        if name == ObjectStatus.ERROR and objects
    }
    if not found:
        return ""
    reasons = ", ".join(f"{reason} {objects:,}" for reason, objects in found.items())
    verb = "object is" if sum(found.values()) == 1 else "objects are"
    return f"{sum(found.values()):,} {verb} not as their records say: {reasons}; see the report"
