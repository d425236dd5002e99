"""An agent in this process, at work on what a source answers."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.agent.api import Agent, make_api
from rebalancer.agent.main import open_agent
from rebalancer.agent.state.posted import row_of
from rebalancer.agent.state.statefile import StoredAssignment
from rebalancer.agent_protocol import PENDING, Dialect, Task
from rebalancer.config import AgentConfig, read_agent
from tests.sources import ASSIGNMENT, OWNER, Answer, Source, bucket_path, open_source, uuid
from tests.web import Client


def stored_of(
    name: str,
    tasks: Sequence[Task],
    dialect: Dialect,
    received_ns: int,
    is_legacy: bool = False,
) -> StoredAssignment:
    """An assignment as it is on disk, of tasks that stand as they say."""
    statuses = {t.copy_name: t.status for t in tasks if t.status != PENDING}
    rows = tuple(map(row_of, tasks))
    return StoredAssignment(name, rows, dialect, received_ns, statuses, is_legacy)


#: The engine by which the agents of a test pull objects.
ENGINE = "auto"


@attrs.frozen
class Rig:
    """An agent at work, its API, its folders and its source."""

    agent: Agent
    client: Any
    folder: Path
    source: Source

    @property
    def temporary(self) -> list[Path]:
        return list((self.folder / "manta" / "rebalancer").iterdir())

    def path(self, number: int) -> Path:
        return self.folder / "manta" / OWNER / uuid(number)

    def bucket_path(self, number: int) -> Path:
        return self.folder / "manta" / bucket_path(number)

    async def post(self, tasks: Sequence[dict[str, Any]], name: str = ASSIGNMENT) -> Any:
        return await self.client.post("/assignments", json={"id": name, "tasks": list(tasks)})

    async def stats(self, name: str = ASSIGNMENT) -> dict[str, Any]:
        body = await (await self.client.get(f"/assignments/{name}")).get_json()
        stats: dict[str, Any] = body["stats"]
        return stats

    async def finish(self, name: str = ASSIGNMENT) -> list[dict[str, Any]]:
        """The failed tasks, once the assignment is complete."""
        with trio.fail_after(20):
            while not isinstance((stats := await self.stats(name))["state"], dict):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert stats["complete"] == stats["total"]
        failed: list[dict[str, Any]] = stats["state"]["Complete"] or []
        assert stats["failed"] == len(failed)
        return failed

    async def outcome(self, *tasks: dict[str, Any]) -> dict[str, Any]:
        """Post tasks; the statuses of those that failed, by object."""
        reply = await self.post(tasks)
        assert reply.status_code == 200, await reply.get_data(as_text=True)
        return {failed["object_id"]: failed["status"] for failed in await self.finish()}


def settings(folder: Path, port: int, **source: Any) -> AgentConfig:
    """A configuration for folders of the test, with the source behind 2.stor.lab."""
    text = f"""
        [server]
        fetchers = 0
        [storage]
        manta_root = "{folder}/manta"
        state_dir = "{folder}/state"
        reserve_mb = 0
        [source]
        retries = 0
        [hosts]
        "2.stor.lab" = "127.0.0.1:{port}"
    """
    (folder / "manta").mkdir(exist_ok=True)
    config = read_agent(text, "test")
    source = {"engine": ENGINE, **source}
    return attrs.evolve(config, source=attrs.evolve(config.source, **source))


@asynccontextmanager
async def open_rig(
    folder: Path,
    answer: Callable[[int, str], Answer],
    *,
    change: Callable[[AgentConfig], AgentConfig] = lambda config: config,
    **source_options: Any,
) -> AsyncIterator[Rig]:
    """An agent that works, and its source."""
    async with open_source(answer) as source:
        config = change(settings(folder, source.port, **source_options))
        agent = open_agent(config)
        agent.worker.resume()
        async with trio.open_nursery() as work:
            work.start_soon(agent.worker.run)
            yield Rig(agent, Client(make_api(agent)), folder, source)
            work.cancel_scope.cancel()
