"""This module pulls objects from other storage nodes: large ones to disk, small ones to memory."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import attrs
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.connections import most_connections
from rebalancer.agent.transfer.disk.download import Download
from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.agent.transfer.disk.objects import LocalFailure, Staged, Whole
from rebalancer.agent.transfer.sources.choice import open_engine
from rebalancer.agent.transfer.sources.engine import (
    Answer,
    Engine,
    PullFailure,
    Source,
    unreachable,
)
from rebalancer.agent.transfer.transfer import Transfer
from rebalancer.config import AgentSource
from rebalancer.domain import reasons
from rebalancer.domain.copies import path_of
from rebalancer.log import get_logger
from rebalancer.peers.names import is_host, locate
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync

#: Objects of one source that a lane takes at once, to pull them one after the other.
AT_A_TIME = 8
#: Sources whose addresses are remembered.
SOURCES = 4096
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

log = get_logger()


#: Takes a transfer whose object was pulled, or failed.
Take = Callable[[Transfer], None]
#: Takes transfers that any lane may pull.
Offer = Callable[[Iterable[Transfer]], None]


@attrs.define(eq=False)
class Puller:
    """A puller pulls objects from their sources through the engine.

    Mutable state: the engine, with its transfers; `turns`, which bounds the connections that are in
    use at a time; the sources with their addresses, by name.
    """

    files: ObjectFiles
    source: AgentSource
    hosts: Mapping[str, str]
    allowance: Allowance = attrs.field(factory=Allowance)
    #: Called with the text of what is lacking, and with an empty text when nothing is lacking.
    on_lack: Callable[[str], None] = lambda _detail: None
    turns: trio.CapacityLimiter = attrs.field(init=False)
    engine: Engine = attrs.field(init=False)
    _sources: OrderedDict[str, Source] = attrs.field(factory=OrderedDict)

    def __attrs_post_init__(self) -> None:
        """Open the engine, for as many connections as this process may have."""
        most = most_connections()
        self.turns = trio.CapacityLimiter(most)
        self.engine = open_engine(self.source, self.allowance, most)

    async def run(self) -> None:
        """Drive the transfers of the engine, for ever."""
        await self.engine.run()

    async def pull(self, transfers: deque[Transfer], take: Take, offer: Offer) -> None:
        """Pull the objects of `transfers`, which have one source, one after the other.

        A small object is pulled into memory, and verified when it is committed; a large one is
        verified as it is written, under a temporary name.  The transfers behind a large one are
        offered to other lanes, so that they need not wait for it.  A transfer that fails or is
        cancelled leaves no file.
        """
        since, failing = trio.current_time(), None
        while transfers:
            try:
                async with self.turns:
                    while transfers:
                        await self._pull(transfers, offer)
                        since = _finish(transfers, take, since)
            except PullFailure as failure:
                if transfers[0] is not failing:
                    failing, tries = transfers[0], 0
                    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
                if failure.is_short:
                    await self.wait_for_files(str(failure), next(waits))
                elif failure.is_transient and tries < self.source.retries:
                    tries += 1
                    await trio.sleep(next(waits))
                else:
                    failing.fail(failure.reason, str(failure))
                    since = _finish(transfers, take, since)
            except Exception as exc:
                fail_unexpectedly(transfers[0], exc)
                since = _finish(transfers, take, since)
            else:
                self.on_lack("")

    async def wait_for_files(self, detail: str, pause_s: float) -> None:
        """Close the connections that can be spared, and wait until files may be free again."""
        self.engine.rest()
        self.on_lack(detail)
        await trio.sleep(pause_s)

    def _source(self, name: str) -> Source:
        """Return the source that a transfer names.

        Raises:
          PullFailure: the name is no usable one, or not allowed.
        """
        if (known := self._sources.get(name)) is not None:
            return known
        host = name.partition(":")[0]
        allowed = self.source.allowed_domains
        if allowed and not any(host == d or host.endswith(f".{d}") for d in allowed):
            raise unreachable(f"{name} is not below any of the allowed domains", is_transient=False)
        try:
            made = Source(name, locate(name, self.hosts, self.source.port))
        except ValueError as exc:
            raise unreachable(str(exc), is_transient=False) from exc
        # A name with other characters could be read as another host in the request.
        if not (is_host(made.at.host) and is_host(host.strip("[]") or name)):
            raise unreachable(f"{name}: expected the name of a host", is_transient=False)
        self._sources[name] = made
        if len(self._sources) > SOURCES:
            self._sources.popitem(last=False)
        return made

    async def _pull(self, transfers: deque[Transfer], offer: Offer) -> None:
        """Pull the object of the first of `transfers`.

        Raises:
          PullFailure: it cannot be pulled, or the disk failed.
        """
        transfer = transfers[0]
        source = self._source(transfer.source)
        answer = await self.engine.get(source, f"/{path_of(transfer.owner, transfer.name)}")
        try:
            if answer.status != 200:
                reason, detail = reasons.http_status_code(answer.status), f"status {answer.status}"
                raise PullFailure(reason, detail, is_transient=answer.status >= 500)
            chunks = await answer.take()
            if answer.is_small:
                body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                transfer.size = len(body)
                transfer.pulled = Whole(transfer.owner, transfer.name, transfer.md5, body)
                return
            if not answer.is_whole:
                offer([transfers.pop() for _ in range(len(transfers) - 1)][::-1])
            await self._pull_large(transfer, answer, chunks)
        except LocalFailure as exc:
            raise PullFailure(exc.reason, str(exc), is_short=exc.is_short) from exc
        finally:
            answer.close()

    async def _pull_large(self, transfer: Transfer, answer: Answer, chunks: list[bytes]) -> None:
        """Take the rest of a body, of which `chunks` came, to the disk.

        Raises:
          LocalFailure: the object has another MD5 or size, or the disk failed.
          PullFailure: the rest of the body does not come.
        """
        download: Download | None = None
        try:
            while True:
                is_last = answer.is_whole
                step = partial(self._write, download, transfer, answer.length, chunks, is_last)
                begun, staged = await run_sync(Work.OBJECTS, step)
                if staged is not None:
                    transfer.pulled, transfer.size = staged, begun.size
                    return
                download = begun
                chunks = await answer.take()
        except BaseException:
            if download is not None:
                download.discard()
            raise

    def _write(
        self,
        download: Download | None,
        transfer: Transfer,
        length: int | None,
        chunks: list[bytes],
        is_last: bool,
    ) -> tuple[Download, Staged | None]:
        """Hash and write `chunks`; blocking, so it runs in a thread."""
        begun = download or self.files.open(transfer.owner, transfer.name, length)
        try:
            begun.write(b"".join(chunks))
            return begun, begun.finish(transfer.md5) if is_last else None
        except BaseException:
            begun.discard()
            raise


def _finish(transfers: deque[Transfer], take: Take, since: float) -> float:
    """Hand the first of `transfers`, begun at `since`, to `take`; return the time of that."""
    transfer, now = transfers.popleft(), trio.current_time()
    transfer.seconds = now - since
    take(transfer)
    return now


def fail_unexpectedly(transfer: Transfer, exc: Exception) -> None:
    """Fail a transfer that met an unforeseen exception, which is logged with its trace."""
    log.exception("task failed unexpectedly", task=transfer.name, source=transfer.source)
    transfer.fail(reasons.AGENT_FS_ERROR, f"unexpected: {exc!r}")
