"""This module compares the copies of stored objects with their records, many objects at a time."""

from collections.abc import Mapping, Sequence

import attrs
import trio

from rebalancer.domain.reasons import Reason
from rebalancer.domain.states import ObjectEvent
from rebalancer.manager.actions.verify.collect import Shards
from rebalancer.manager.actions.verify.copies import Copy, Fault, gravest, is_sampled
from rebalancer.manager.actions.verify.reader import Reader
from rebalancer.manager.actions.verify.records import Skip, ToVerify, Unusable, judge_records
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.store import checks
from rebalancer.manager.store.checks import CheckResult, Unchecked
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers import scan

#: Objects that wait for a turn while others are looked at.
QUEUE = 1
#: An object whose record keeps changing while its copies are looked at is looked at so often.
TURNS = 3

Records = Mapping[tuple[int, str], scan.FoundRow]


@attrs.frozen
class Checker:
    """A checker brings every stored object of a verify job to its end."""

    store: JobStore
    shards: Shards
    reader: Reader
    sample: float
    requests: int
    metrics: ManagerMetrics

    async def run(self) -> None:
        """Look at all objects that are not at an end.

        Raises:
          ExceptionGroup: a PeerError of a shard that waiting does not change.
        """
        send, receive = trio.open_memory_channel[tuple[Unchecked, Records]](QUEUE)
        async with trio.open_nursery() as nursery:
            async with receive:
                for _ in range(self.requests):
                    nursery.start_soon(self._work, receive.clone())
            async with send:
                await self._feed(send)

    async def _feed(self, send: trio.MemorySendChannel[tuple[Unchecked, Records]]) -> None:
        """Hand out the objects with their records as they are now, a page at a time."""
        row = 0
        while page := await self.store.read(checks.read_unchecked, row):
            records = await self.shards.texts([one for item in page for one in item.records])
            for item in page:
                await send.send((item, records))
            row = page[-1].number

    async def _work(self, items: trio.MemoryReceiveChannel[tuple[Unchecked, Records]]) -> None:
        async with items:
            async for item, records in items:
                result = await self._check(item, records)
                await self.store.write(checks.record_checks, [result])
                self._count(result)

    async def _check(self, item: Unchecked, records: Records) -> CheckResult:
        """Return what came of looking at an object.

        A fault counts only if the records still ask for the same copies after it was found: its
        owner may have removed or replaced the object meanwhile.
        """
        verdict, faults = self._judge(item, records), list[Fault]()
        for _ in range(TURNS):
            if not isinstance(verdict, ToVerify):
                break
            faults = await self._faults(item.id, verdict.copies)
            if not faults:
                return CheckResult(item.number, ObjectEvent.CONFIRMED)
            now = self._judge(item, await self.shards.texts(item.records))
            if now == verdict:
                break
            verdict = now
        match verdict:
            case Skip():
                return CheckResult(item.number, ObjectEvent.REFUSED, reason=verdict.reason)
            case Unusable():
                event, why = ObjectEvent.UNUSABLE, verdict.reason
                return CheckResult(item.number, event, reason=why, detail=verdict.detail)
        detail = "; ".join(map(str, faults))
        return CheckResult(
            item.number,
            ObjectEvent.FAULTY,
            reason=Reason(gravest(faults), is_own=True),
            detail=detail,
        )

    def _judge(self, item: Unchecked, records: Records) -> ToVerify | Skip | Unusable:
        rows = [records.get(place) for place in item.records]
        return judge_records(item.id, [None if row is None else row.value for row in rows])

    async def _faults(self, object_id: str, copies: Sequence[Copy]) -> list[Fault]:
        whole = is_sampled(object_id, self.sample)
        found = [await self.reader.check(copy, is_sampled=whole) for copy in copies]
        return [fault for fault in found if fault is not None]

    def _count(self, result: CheckResult) -> None:
        if result.event is ObjectEvent.CONFIRMED:
            self.metrics.completed("verify", 1)
        elif result.reason is not None and result.event is not ObjectEvent.REFUSED:
            self.metrics.failed(result.reason)
