"""This module runs a verify job: it collects objects, then compares their copies with records.

Each object is a row of the job's file, which goes from `unprocessed` to an end in one transaction;
so a job that was stopped or killed goes on where it was.
"""

from collections.abc import Callable, Mapping
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
    Shards,
    has_collected_all,
    has_moved,
    is_not_right,
)
from rebalancer.manager.actions.verify.rate import ByteRate
from rebalancer.manager.actions.verify.reader import Reader
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline.job import unless
from rebalancer.manager.store import unplaced
from rebalancer.manager.store.job_store import JobStore
from rebalancer.manager.store.records import Status
from rebalancer.peers import scan
from rebalancer.peers.http import HttpClient
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits


@attrs.frozen
class VerifyJob:
    """A verify job that has its turn; `params` are those that are kept of its request."""

    params: Mapping[str, Any]
    config: ManagerConfig
    store: JobStore
    moray: Mapping[int, scan.Shard]
    http: HttpClient
    metrics: ManagerMetrics
    waits: Waits
    #: Returns the file of another job.
    file: Callable[[str], Path]

    async def run(self, cancelled: trio.Event) -> None:
        """Bring the job to its end; when `cancelled` is set, what is left is skipped.

        Raises:
          JobFailed: something is not right, or was not looked at; its text says how much of what.
          StoreError: the file of the other job cannot be read.
          ExceptionGroup: a PeerError of a shard that waiting does not change.
        """
        shards = Shards(self.moray, self.waits)
        await unless(cancelled, self._collector(shards).run)
        await unless(cancelled, self._checker(shards).run)
        if cancelled.is_set():
            while await self.store.write(unplaced.skip_page, CANCELLED):
                pass
            return
        if found := what_was_found(await self.store.status()):
            raise JobFailed(found)

    def _collector(self, shards: Shards) -> "_Collection":
        options, params = self.config.options, self.params
        collector = Collector(
            self.store,
            shards,
            options.max_md_read_threads,
            options.md_read_chunk_size,
            self.metrics.scanned,
        )
        return _Collection(collector, params, self.file)

    def _checker(self, shards: Shards) -> Checker:
        params = self.params
        rate = ByteRate(params["bytes_per_s"])
        reader = Reader(self.http, params["port"], params["patience_s"], rate, self.waits)
        return Checker(
            self.store, shards, reader, params["sample"], params["requests"], self.metrics
        )


@attrs.frozen
class _Collection:
    collector: Collector
    params: Mapping[str, Any]
    file: Callable[[str], Path]

    async def run(self) -> None:
        """Store every object that the job is to look at, unless that was done already."""
        collector, params = self.collector, self.params
        if await collector.has_all():
            return
        had_all = False
        if (earlier := params.get("retry_of")) is not None:
            await collector.take_listed(self.file(earlier), is_not_right, "retried")
            had_all = await run_sync(Work.VIEWS, has_collected_all, self.file(earlier))
        # What an earlier job did not come to collect is only known from where it looked.
        if not had_all:
            if params["job"] is not None:
                await collector.take_listed(self.file(params["job"]), has_moved, "moved")
            else:
                await collector.take_named(params["shark"])
        await collector.finish()


def what_was_found(status: Status) -> str:
    """Say how many objects are not as their records say, by reason; empty if all are."""
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
