"""This module pulls objects from other storage nodes: a large one to disk, verified as it flows."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import attrs
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.connections import most_connections
from rebalancer.agent.transfer.disk.files import Download, LocalFailure, ObjectFiles, Staged
from rebalancer.agent.transfer.sources.choice import open_engine
from rebalancer.agent.transfer.sources.engine import (
    Answer,
    Engine,
    FetchFailure,
    Source,
    unreachable,
)
from rebalancer.config import AgentSource
from rebalancer.domain import reasons
from rebalancer.log import get_logger
from rebalancer.peers.names import is_host, locate
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync
from rebalancer.wire import Task

#: Tasks of one source that are pulled one after the other, before others have a turn.
AT_A_TIME = 8
#: So many sources are remembered with their addresses.
SOURCES = 4096
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

log = get_logger()


@attrs.frozen
class Fetched:
    """An object of `size` bytes was pulled: into memory, not verified; or staged, and verified."""

    size: int
    body: bytes = b""
    staged: Staged | None = None


def unexpected(exc: Exception) -> FetchFailure:
    """Return the failure of a task that met an unforeseen exception."""
    return FetchFailure(reasons.AGENT_FS_ERROR, f"unexpected: {exc!r}")


#: Told how a task ended.
Settle = Callable[[Task, Fetched | FetchFailure], None]
#: Told of tasks that somebody else had better pull.
GiveBack = Callable[[Iterable[Task]], None]


@attrs.define(eq=False)
class Puller:
    """A puller pulls objects from their sources through the engine.

    Mutable state: the engine's transfers; leave to have so many connections at a time; sources
    and their addresses, by name.
    """

    files: ObjectFiles
    source: AgentSource
    hosts: Mapping[str, str]
    allowance: Allowance = attrs.field(factory=Allowance)
    #: Told what is lacking, and of nothing when that is over.
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
        """Drive the transfers for ever."""
        await self.engine.run()

    async def pull(self, tasks: deque[Task], settle: Settle, give_back: GiveBack) -> None:
        """Pull `tasks`, which have one source, one after the other.

        A small object comes in memory, a large one verified under a temporary name.  When a
        large one comes, the tasks behind it are given back.  Nothing is left behind by a task
        that fails or is cancelled.
        """
        failing: Task | None = None
        while tasks:
            try:
                async with self.turns:
                    while tasks:
                        fetched = await self._pull(tasks, give_back)
                        settle(tasks.popleft(), fetched)
            except FetchFailure as failure:
                if tasks[0] is not failing:
                    failing, tries = tasks[0], 0
                    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
                if failure.is_short:
                    await self.wait_for_files(str(failure), next(waits))
                elif failure.may_pass and tries < self.source.retries:
                    tries += 1
                    await trio.sleep(next(waits))
                else:
                    settle(tasks.popleft(), failure)
            except Exception as exc:
                name = tasks[0].source.manta_storage_id
                log.exception("task failed unexpectedly", task=tasks[0].object_id, source=name)
                settle(tasks.popleft(), unexpected(exc))
            else:
                self.on_lack("")

    async def wait_for_files(self, detail: str, pause_s: float) -> None:
        """Close the connections that can be spared, and wait until files may be free again."""
        self.engine.rest()
        self.on_lack(detail)
        await trio.sleep(pause_s)

    def _source(self, name: str) -> Source:
        """Return the source that a task names.

        Raises:
          FetchFailure: nobody can, or nobody may, ask it.
        """
        if (known := self._sources.get(name)) is not None:
            return known
        host = name.partition(":")[0]
        allowed = self.source.allowed_domains
        if allowed and not any(host == d or host.endswith(f".{d}") for d in allowed):
            raise unreachable(f"{name} is not below any of the allowed domains", may_pass=False)
        try:
            made = Source(name, locate(name, self.hosts, self.source.port))
        except ValueError as exc:
            raise unreachable(str(exc), may_pass=False) from exc
        # What is no plain name could mean another host to whoever reads it in a request.
        if not (is_host(made.at.host) and is_host(host.strip("[]") or name)):
            raise unreachable(f"{name}: expected the name of a host", may_pass=False)
        self._sources[name] = made
        if len(self._sources) > SOURCES:
            self._sources.popitem(last=False)
        return made

    async def _pull(self, tasks: deque[Task], give_back: GiveBack) -> Fetched:
        """Pull the first of `tasks`.

        Raises:
          FetchFailure: it cannot be pulled, or the disk failed.
        """
        task = tasks[0]
        source = self._source(task.source.manta_storage_id)
        answer = await self.engine.get(source, f"/{task.owner}/{task.object_id}")
        try:
            if answer.status != 200:
                reason, detail = reasons.http_status_code(answer.status), f"status {answer.status}"
                raise FetchFailure(reason, detail, may_pass=answer.status >= 500)
            chunks = await answer.take()
            if answer.is_small:
                body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                return Fetched(len(body), body)
            if not answer.is_whole:
                give_back([tasks.pop() for _ in range(len(tasks) - 1)][::-1])
            return await self._large(task, answer, chunks)
        except LocalFailure as exc:
            raise FetchFailure(exc.reason, str(exc), is_short=exc.may_pass) from exc
        finally:
            answer.close()

    async def _large(self, task: Task, answer: Answer, chunks: list[bytes]) -> Fetched:
        """Take the rest of a body, of which `chunks` came, to the disk.

        Raises:
          LocalFailure: it is not what it should be, or the disk failed.
          FetchFailure: it does not come.
        """
        download: Download | None = None
        try:
            while True:
                step = partial(self._store, download, task, answer.length, chunks, answer.is_whole)
                begun, staged = await run_sync(Work.OBJECTS, step)
                if staged is not None:
                    return Fetched(begun.size, staged=staged)
                download = begun
                chunks = await answer.take()
        except BaseException:
            if download is not None:
                download.discard()
            raise

    def _store(
        self,
        download: Download | None,
        task: Task,
        length: int | None,
        chunks: list[bytes],
        is_last: bool,
    ) -> tuple[Download, Staged | None]:
        """Hash and write `chunks`; blocking, so it runs in a thread."""
        begun = download or self.files.open(task.owner, task.object_id, length)
        try:
            begun.write(b"".join(chunks))
            return begun, begun.finish(task.md5sum) if is_last else None
        except BaseException:
            begun.discard()
            raise
