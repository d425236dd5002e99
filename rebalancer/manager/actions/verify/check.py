"""This module compares the copies of stored objects with their records, many objects at a time."""

from collections.abc import Mapping, Sequence

import attrs
import trio

from rebalancer.domain.reasons import BAD_SHARD_NUMBER, CHANGING, Reason
from rebalancer.domain.states import ObjectEvent
from rebalancer.domain.tiers import shard_name
from rebalancer.log import get_logger
from rebalancer.manager.actions.verify.collect import LiveShards
from rebalancer.manager.actions.verify.copies import Copy, Fault, gravest, is_sampled
from rebalancer.manager.actions.verify.reader import Reader
from rebalancer.manager.actions.verify.records import Skip, ToVerify, Unusable, judge_records
from rebalancer.manager.store import checks
from rebalancer.manager.store.checks import CheckResult, Unchecked
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers import scan

#: Objects that wait in the channel while others are verified.
QUEUE = 1
#: How often an object is verified at most, if its records change each time meanwhile.
TURNS = 3

Records = Mapping[tuple[int, str], scan.FoundRow]

log = get_logger()


@attrs.frozen
class Checker:
    """A checker brings every stored object of a verify job to its end."""

    store: JobStore
    shards: LiveShards
    reader: Reader
    sample: float
    requests: int

    async def run(self) -> None:
        """Verify all objects that are not at an end, and those that a person puts back meanwhile.

        Raises:
          ExceptionGroup: a PeerError of a shard that is not transient.
        """
        await self._verify_all()
        while await self.store.take_changes():
            await self._verify_all()

    async def _verify_all(self) -> None:
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
            places = [place for unchecked in page for place in unchecked.records]
            records = await self.shards.texts(places)
            for unchecked in page:
                await send.send((unchecked, records))
            row = page[-1].number

    async def _work(self, receive: trio.MemoryReceiveChannel[tuple[Unchecked, Records]]) -> None:
        async with receive:
            async for unchecked, records in receive:
                result = await self._check(unchecked, records)
                if await self.store.write(checks.record_checks, [result]):
                    log.warning("object changed by hand", object=unchecked.id, result=result.event)

    async def _check(self, unchecked: Unchecked, records: Records) -> CheckResult:
        """Verify an object, and return the result.

        What is not right counts only if the records, read anew, still say the same: `records` may
        be old by now, and the object's owner may have removed, replaced or mended it meanwhile.
        """
        number, judgement = unchecked.number, self._judge(unchecked, records)
        for _ in range(TURNS):
            match judgement:
                case Skip():
                    break
                case Unusable():
                    event, reason, detail = ObjectEvent.UNUSABLE, judgement.reason, judgement.detail
                case ToVerify():
                    faults = await self._faults(unchecked.id, judgement.copies)
                    if not faults:
                        return CheckResult(number, ObjectEvent.CONFIRMED)
                    event, reason = ObjectEvent.FAULTY, Reason(gravest(faults), is_own=True)
                    detail = "; ".join(map(str, faults))
            now = self._judge(unchecked, await self.shards.texts(unchecked.records))
            if now == judgement:
                return CheckResult(number, event, reason, detail)
            judgement = now
        reason = judgement.reason if isinstance(judgement, Skip) else CHANGING
        return CheckResult(number, ObjectEvent.REFUSED, reason)

    def _judge(self, unchecked: Unchecked, records: Records) -> ToVerify | Skip | Unusable:
        for shard, _ in unchecked.records:
            if shard not in self.shards.live:
                return Unusable(BAD_SHARD_NUMBER, f"{shard_name(shard)} is not configured")
        rows = [records.get(place) for place in unchecked.records]
        return judge_records(unchecked.id, [None if row is None else row.value for row in rows])

    async def _faults(self, object_id: str, copies: Sequence[Copy]) -> list[Fault]:
        whole = is_sampled(object_id, self.sample)
        found = [await self.reader.check(copy, is_sampled=whole) for copy in copies]
        return [fault for fault in found if fault is not None]
