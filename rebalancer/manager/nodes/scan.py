"""This module scans all shards for what names a storage node now, and keeps counts and a sample.

It asks the live metadata only: a clone shows how things were.  Ids are kept by updates, so a record
that is moved meanwhile is counted at most once; those of new records lie behind all others, and are
looked at when the rest is done.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs
import trio

from rebalancer.domain.completeness import Reached
from rebalancer.domain.node_checks import Kind
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Column
from rebalancer.domain.tiers import Tier, shard_name, tier_of
from rebalancer.errors import PeerError
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.peers import scan
from rebalancer.waits import Waits

#: A shard that does not answer is waited for so many seconds: a person waits too.
PATIENCE_S = 60.0
#: Keys of each kind that are shown.
SAMPLE = 10
#: Rows that are read at once, in some milliseconds, before other tasks have their turn.
AT_ONCE = 200


#: The kind of an object that can be used, by its tier.
_OBJECTS = {Tier.DIRECTORY: Kind.OBJECT, Tier.BUCKETS: Kind.BUCKET_OBJECT}


@attrs.frozen
class Named:
    """A record that names the node, or holds its name in a form that cannot be used."""

    kind: Kind
    shard: int
    key: str
    id: str


def read_rows(node: str, number: int, rows: Iterable[scan.FoundRow]) -> list[Named]:
    """Return the rows of a shard that name the node where that counts."""
    evacuation, found = Evacuate(Shark("", node)), list[Named]()
    for row in rows:
        if row.may_be_upload:
            if (upload := evacuation.read_upload(number, row.key, row.value)) is not None:
                found.append(Named(Kind.UPLOAD, number, row.key, upload.object_id))
            continue
        record = evacuation.read(
            shard=number, key=row.key, etag=row.etag, text=row.value, in_upload=row.in_upload
        )
        if record is not None:
            is_usable = record.reason is None or record.reason.column is not Column.ERROR
            kind = _OBJECTS[tier_of(number)] if is_usable else Kind.UNUSABLE
            found.append(Named(kind, number, row.key, record.id))
    return found


@attrs.define(eq=False)
class NodeScan:
    """A scan of all shards for one node.

    Mutable state: what was found, how far each shard is scanned, and which shards do not answer.
    """

    node: str
    shards: Mapping[int, scan.Scannable]
    #: Shards that are scanned at a time, and ids in a window.
    readers: int
    width: int
    #: The scan may stop when it has found so many; None: it goes to the end.
    first: int | None = None
    #: What each part of a shard has, by kind.
    found: dict[tuple[int, str], Counter[Kind]] = attrs.field(factory=dict)
    #: By shard: records of deleted objects, whose files garbage collection has yet to remove.
    deleted: dict[int, int] = attrs.field(factory=dict)
    sample: list[Named] = attrs.field(factory=list)
    failures: dict[int, str] = attrs.field(factory=dict)
    ended: set[int] = attrs.field(factory=set)
    #: Whether a part was not scanned to its end, because enough was found.
    is_cut: bool = False
    #: How far each part of a shard is scanned.
    reached: dict[tuple[int, str], Reached] = attrs.field(factory=dict)

    @property
    def counts(self) -> Mapping[tuple[Kind, int], int]:
        """Return the counts by kind and shard."""
        counts = Counter[tuple[Kind, int]]()
        for (number, _), found in self.found.items():
            counts.update({(kind, number): count for kind, count in found.items()})
        return counts

    @property
    def totals(self) -> Mapping[Kind, int]:
        """Return the counts of all shards by kind."""
        return sum(self.found.values(), Counter[Kind]())

    @property
    def has_enough(self) -> bool:
        """Tell whether as much was found as was asked for."""
        # What is counted anew may be less than before, and then the rest was not looked at either.
        is_found = self.first is not None and sum(self.totals.values()) >= self.first
        return self.is_cut or is_found

    @property
    def share(self) -> float:
        """Return how much of the shards was looked at, from 0 to 1."""
        done = sum(self._share(number) for number in self.shards)
        return done / max(len(self.shards), 1)

    def _share(self, number: int) -> float:
        its = [reached for (shard, _), reached in self.reached.items() if shard == number]
        until = sum(one.until for one in its)
        if number in self.ended:
            return 1.0
        return sum(one.position for one in its) / until if until else 0.0

    async def run(self) -> None:
        """Scan the shards, several at a time; one that does not answer is noted in `failures`.

        New records come meanwhile, with ids behind all that there were, and one that is renamed may
        go to a shard that was scanned already.  So they are looked for when all shards are done.
        """
        readers = trio.CapacityLimiter(self.readers)
        for is_more in (False, True):
            async with trio.open_nursery() as nursery:
                for number in self.shards.keys() - self.failures.keys():
                    nursery.start_soon(self._scan_shard, number, readers, is_more)

    async def _scan_shard(self, number: int, readers: trio.CapacityLimiter, is_more: bool) -> None:
        shard = self.shards[number]
        waits = Waits(check_of=self.node)
        records = scan.PatientRecords(shard.records(), shard_name(number), waits, PATIENCE_S)
        async with readers:
            try:
                for part in await records.parts():
                    await self._scan_part(number, records, part)
                if is_more and (deleted := await records.deleted(self.node)):
                    self.deleted[number] = deleted
            except PeerError as exc:
                self.failures[number] = str(exc)
        if is_more or number in self.failures:
            self.ended.add(number)

    async def _scan_part(self, number: int, records: scan.Records, part: str) -> None:
        known = self.reached.get((number, part))
        reached = await records.end_of(part, known)
        # Keys of bucket objects are in no order of time, so what is new is among all the others.
        begins_anew = known is not None and tier_of(number) is Tier.BUCKETS
        found = Counter[Kind]() if begins_anew else self.found.setdefault((number, part), Counter())
        while not (reached.is_end or self.has_enough):
            self.reached[number, part] = reached
            reached, rows = await records.window(part, reached, self.width, self.node, uploads=True)
            for begin in range(0, len(rows), AT_ONCE):
                self._add(found, read_rows(self.node, number, rows[begin : begin + AT_ONCE]))
                await trio.lowlevel.checkpoint()
            self.reached[number, part] = reached
        if reached.is_end:
            # A walk that fails, or stops early, leaves the counts of the one before.
            self.found[number, part] = found
        else:
            self.is_cut = True

    def _add(self, found: Counter[Kind], named: Iterable[Named]) -> None:
        for one in named:
            if self.has_enough:
                return
            found[one.kind] += 1
            if self._shown(one.kind) < SAMPLE and one not in self.sample:
                self.sample.append(one)

    def _shown(self, kind: Kind) -> int:
        return sum(known.kind is kind for known in self.sample)
