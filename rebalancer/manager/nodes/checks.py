"""This module answers whether a storage node may be removed, line by line while it scans."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial

import attrs

from rebalancer.api import nodes as api
from rebalancer.api.jobs import VerdictCause
from rebalancer.domain.node_checks import Kind, Seen, decide
from rebalancer.domain.objects import is_storage_id
from rebalancer.domain.tiers import Tier, tier_of
from rebalancer.errors import BadRequest, Conflict, StoreError, leaves
from rebalancer.manager.actions.lookup import full_name, look_up_node
from rebalancer.manager.http.lines import Followed, line_of
from rebalancer.manager.jobs.assembly import Resources, open_shards
from rebalancer.manager.jobs.queries import JobQueries
from rebalancer.manager.nodes.scan import NodeScan
from rebalancer.manager.store import views
from rebalancer.threads import Work, run_sync

#: Seconds between two lines of progress, which also show that the client is there still.
PROGRESS_S = 2.0


@attrs.frozen
class _Beside:
    """A look at what may bring records to name a node."""

    #: Whether storinfo lists the node; None: it does not answer.
    takes_writes: bool | None
    pending: int
    is_promised: bool
    unread: Mapping[str, str]


@attrs.define(eq=False)
class _Check:
    """A check that runs in a task of its own, while its lines are sent.

    Mutable state: the scan, once there is one; why all of it failed, if it did; and what was seen
    besides, before the scan and after it, because records may come to name the node meanwhile.
    """

    node: str
    not_looked_up: str | None
    scan: NodeScan | None = None
    failure: str | None = None
    beside: list["_Beside"] = attrs.field(factory=list)


@attrs.define(eq=False)
class NodeChecks:
    """This object makes the checks of nodes: one of a node at a time.

    Mutable state: the nodes under check.
    """

    queries: JobQueries
    followed: Followed
    _under_way: set[str] = attrs.field(factory=set)

    @property
    def resources(self) -> Resources:
        """Return what all jobs share."""
        return self.queries.resources

    async def begin(self, name: str, first: int | None) -> AsyncGenerator[bytes, None]:
        """Return the lines of a check of a node, which begins when the first of them is asked for.

        A scan that is to find so many only ends with the `first` of them.

        Raises:
          BadRequest: there is no such node.
          Conflict: the node is under check.
          Unavailable: the manager is about to stop.
        """
        if not is_storage_id(name) or ":" in name:
            raise BadRequest(f"{name!r} is no name of a storage node")
        config = self.resources.config
        node = full_name(name, config.domain_name)
        self._refuse_second(node)
        findings = await look_up_node(node, config)
        self._refuse_second(node)
        check = _Check(node, findings[0].detail if findings else None)
        progress = self.followed.follow(
            partial(self._scan, check, first), partial(_progress, check), PROGRESS_S
        )
        return self._lines(check, progress)

    def _refuse_second(self, node: str) -> None:
        if node in self._under_way:
            raise Conflict(f"another check of {node} is under way")

    async def _lines(
        self, check: _Check, progress: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a check; whoever closes the generator early ends the check."""
        try:
            self._refuse_second(check.node)  # two requests of one moment were both begun
        except Conflict as exc:
            check.failure = str(exc)
            yield line_of(await self._result(check))
            return
        self._under_way.add(check.node)
        try:
            async with aclosing(progress) as lines:
                async for line in lines:
                    yield line  # noqa: ASYNC119 - whoever sends closes it
            yield line_of(await self._result(check))
        finally:
            self._under_way.discard(check.node)

    async def _scan(self, check: _Check, first: int | None) -> None:
        """Scan the live shards, unless the check is given up."""
        config = self.resources.config
        options = config.options
        try:
            check.beside.append(await self._look_beside(check.node))
            async with open_shards(config) as shards:
                check.scan = NodeScan(
                    check.node,
                    shards.live,
                    options.max_md_read_threads,
                    options.md_read_chunk_size,
                    first,
                )
                await check.scan.run()
            check.beside.append(await self._look_beside(check.node))
        except* Exception as group:
            check.failure = "; ".join(str(exc) or repr(exc) for exc in leaves(group))

    async def _look_beside(self, node: str) -> _Beside:
        """Look whether front ends choose the node, and whether jobs make copies on it.

        storinfo first: of a node that it does not list, jobs make no further assignments.  Promises
        before files, for a promise ends after its assignment is in the job's file.
        """
        nodes, ledger = self.resources.node_list, self.resources.fleet_ledger
        has_answer = await nodes.refresh()
        is_listed = node in {known.manta_storage_id for known in nodes.nodes}
        is_promised = ledger.is_promised(node)
        count, unread = 0, dict[str, str]()
        for row in await self.queries.index.unfinished():
            try:
                file = self.resources.file(row.id)
                count += await run_sync(Work.VIEWS, views.pending_at, file, node)
            except StoreError as exc:
                unread[row.id] = str(exc)
        return _Beside(is_listed if has_answer else None, count, is_promised, unread)

    async def _left_by(self, node: str) -> str | None:
        """Return the last job for the node, if it left what another would leave, too."""
        rows = [row for row in await self.queries.index.all() if row.node == node and row.has_ended]
        last = max(rows, key=lambda row: row.finished or "", default=None)
        verdict = None if last is None else await self.queries.verdicts.of(last)
        return last.id if last and verdict and verdict.recurs else None

    async def _result(self, check: _Check) -> api.NodeCheckResult:
        scan, node = check.scan, check.node
        ended = set[int]() if scan is None else scan.ended
        shards = scan.shards if scan else self.resources.config.shard_numbers
        why = check.failure or "its scan was cut short"
        cut_short = {number: why for number in shards if number not in ended}
        unfinished = await self.queries.index.unfinished()
        jobs = tuple(row.id for row in unfinished if row.node == node)
        listed = {one.takes_writes for one in check.beside} or {None}
        seen = Seen(
            {} if scan is None else scan.totals,
            {**cut_short, **(scan.failures if scan else {})},
            is_cut=scan is not None and scan.has_enough,
            not_looked_up=check.not_looked_up,
            takes_writes=True in listed or (None if None in listed else False),
            pending=max((one.pending for one in check.beside), default=0),
            is_promised=any(one.is_promised for one in check.beside),
            unread={job_id: why for one in check.beside for job_id, why in one.unread.items()},
            bounds_shards=self.resources.config.bounds_shards,
            has_buckets=self.resources.config.has_unseen_buckets,
            looks_at_buckets=self.resources.config.looks_at_buckets,
            jobs=jobs,
            left_by=await self._left_by(node),
        )
        decision = decide(node, seen)
        return api.NodeCheckResult(
            type="result",
            node=node,
            safe_to_remove=decision.answer,
            line=decision.line,
            causes=tuple(
                VerdictCause(
                    cause=one.word, count=one.count, advice=one.advice, command=one.command
                )
                for one in decision.causes
            ),
            kinds=tuple(
                _kind(scan, kind)
                for kind in Kind
                if kind is not Kind.DELETED or seen.looks_at_buckets
            ),
            sample=tuple(
                api.NodeCheckSample(
                    kind=one.kind,
                    tier=tier_of(one.shard),
                    shard=abs(one.shard),
                    key=one.key,
                    id=one.id,
                )
                for one in (() if scan is None else scan.sample)
            ),
            jobs=jobs,
        )


def _order(counted: tuple[int, int]) -> tuple[bool, int]:
    """Return by what the count of a shard is put in order: its tier, then its number there."""
    shard, _ = counted
    return tier_of(shard) is Tier.BUCKETS, abs(shard)


def _kind(scan: NodeScan | None, kind: Kind) -> api.NodeCheckKind:
    counts, is_looked_at = dict[int, int](), scan is not None
    if scan is not None:
        counts = {shard: count for (one, shard), count in scan.counts.items() if one is kind}
        if kind is Kind.DELETED:
            counts = scan.deleted
        if kind in (Kind.BUCKET_OBJECT, Kind.DELETED):
            is_looked_at = any(tier_of(shard) is Tier.BUCKETS for shard in scan.shards)
    return api.NodeCheckKind(
        kind=kind,
        count=sum(counts.values()) if is_looked_at else None,
        shards=tuple(
            api.NodeCheckShard(tier=tier_of(shard), shard=abs(shard), count=count)
            for shard, count in sorted(counts.items(), key=_order)
            if count
        ),
    )


def _progress(check: _Check) -> api.NodeCheckProgress | None:
    if (scan := check.scan) is None:
        return None
    return api.NodeCheckProgress(
        type="progress",
        node=check.node,
        scanned=scan.share,
        shards_done=len(scan.ended),
        shards=len(scan.shards),
        found=sum(scan.totals.values()),
    )
