"""What the manager relies on of agents, asked of the fake of tests and of a real agent.

The real one works in this process, behind a socket and the manager's client.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent.api import make_api
from rebalancer.agent.main import open_agent
from rebalancer.agent_protocol import Assignment, AssignmentReport, Task, TaskState
from rebalancer.daemon import Listen, listen
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import NETWORK_ERROR
from rebalancer.errors import PeerUnreachable
from rebalancer.peers.agents import Agents, PostResult
from rebalancer.peers.http import open_http
from rebalancer.peers.protocols import AgentService
from tests.agent.scripted import settings
from tests.manager.world import FakeAgents
from tests.peers.cuts import behind_a_link, cut_for_good
from tests.peers.fakes import RelayedAgents
from tests.sources import ASSIGNMENT, BUCKET, OWNER, Answer, hash_of, md5, ok, open_source, uuid

SHARK = "9.stor.lab"
CONTENT = b"an object"
#: Objects that their source does not have.
MISSING = {uuid(2), uuid(4)}


@attrs.frozen
class Subject:
    """The agent of one storage node, and how to make it unreachable, for good."""

    agents: AgentService
    leave: Callable[[], None]


@asynccontextmanager
async def fake(_folder: Path) -> AsyncIterator[Subject]:
    agents = FakeAgents(failures=dict.fromkeys(MISSING, NETWORK_ERROR))

    def leave() -> None:
        agents.away = lambda shark: PeerUnreachable(f"{shark} is away")
        agents.post_answer = lambda shark, _assignment: PeerUnreachable(f"{shark} is away")

    yield Subject(agents, leave)


@asynccontextmanager
async def relayed(folder: Path) -> AsyncIterator[Subject]:
    async with fake(folder) as subject:
        yield attrs.evolve(subject, agents=RelayedAgents(subject.agents))


def from_the_source(_number: int, path: str) -> Answer:
    if path.rpartition("/")[2] in MISSING:
        return Answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    return Answer(ok(CONTENT))


@asynccontextmanager
async def real(folder: Path) -> AsyncIterator[Subject]:
    async with open_source(from_the_source) as source, trio.open_nursery() as nursery:
        agent = open_agent(settings(folder, source.port))
        agent.worker.resume()
        nursery.start_soon(agent.worker.run)
        stopping = trio.Event()
        address = await listen(nursery, make_api(agent), Listen("127.0.0.1", 0), stopping)
        port = int(address.rpartition(":")[2])
        async with (
            behind_a_link("127.0.0.1", port) as link,
            open_http({SHARK: link.host}) as http,
        ):
            yield Subject(Agents(http, link.port), lambda: cut_for_good(link))
        nursery.cancel_scope.cancel()


KINDS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {
    "fake": fake,
    "relayed": relayed,
    "real": real,
}


@pytest.fixture(params=list(KINDS))
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async with KINDS[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def agents(subject: Subject) -> AgentService:
    return subject.agents


def assignment(numbers: Sequence[int]) -> Assignment:
    source = Shark("dc1", "2.stor.lab")
    return Assignment(
        ASSIGNMENT, tuple(Task(uuid(number), OWNER, md5(CONTENT), source) for number in numbers)
    )


async def finished(agents: AgentService) -> AssignmentReport:
    """The report of the assignment, once it is complete."""
    with trio.fail_after(20):
        while True:
            report = await agents.get(SHARK, ASSIGNMENT)
            if report is not None and report.stats.state == "Complete":
                return report
            await trio.sleep(0.01)


async def test_an_agent_answers_to_a_ping(agents: AgentService) -> None:
    """With what it can do; and can be told how much it may take in."""
    assert await agents.ping(SHARK) == {"v2"}

    assert await agents.limit_bandwidth(SHARK, 1_000_000) is True
    assert await agents.limit_bandwidth(SHARK, None) is True


async def test_an_assignment_of_bucket_objects_is_taken(agents: AgentService) -> None:
    """By an agent that announces it."""
    plain = assignment([1, 2]).tasks
    hashed = [
        attrs.evolve(t, owner=OWNER.lower(), bucket_id=BUCKET, object_name_hash=hash_of(1))
        for t in plain
    ]
    answer = await agents.post(SHARK, Assignment(ASSIGNMENT, (*plain, *hashed)))
    assert answer.result is PostResult.ACCEPTED
    assert (await finished(agents)).stats.total == 4


async def test_an_assignment_may_be_posted_again(agents: AgentService) -> None:
    """An answer may be lost: the second post changes nothing."""
    posts = [await agents.post(SHARK, assignment([1, 3])) for _ in range(2)]
    report = await finished(agents)

    assert [post.result for post in posts] == [PostResult.ACCEPTED, PostResult.ACCEPTED]
    assert (report.stats.total, report.stats.complete) == (2, 2)


async def test_a_report_counts_tasks_and_lists_those_that_failed(agents: AgentService) -> None:
    """Each with its object and a reason; the others were copied."""
    await agents.post(SHARK, assignment([1, 2, 3, 4]))
    report = await finished(agents)

    stats = report.stats
    assert report.uuid == ASSIGNMENT
    assert (stats.total, stats.complete, stats.failed) == (4, 4, 2)
    assert {task.object_id for task in stats.failures or ()} == MISSING
    assert {task.status.state for task in stats.failures or ()} == {TaskState.FAILED}
    assert all(task.status.reason for task in stats.failures or ())


async def test_all_copied_is_an_empty_list(agents: AgentService) -> None:
    """Not none, which an assignment under way has."""
    await agents.post(SHARK, assignment([1]))
    report = await finished(agents)

    assert (report.stats.failures, report.stats.failed) == ((), 0)


async def test_an_unknown_assignment_is_none(agents: AgentService) -> None:
    """To delete it is no error."""
    assert await agents.get(SHARK, ASSIGNMENT) is None
    await agents.delete(SHARK, ASSIGNMENT)


async def test_a_deleted_assignment_is_unknown(agents: AgentService) -> None:
    """A complete one is forgotten."""
    await agents.post(SHARK, assignment([1]))
    await finished(agents)
    await agents.delete(SHARK, ASSIGNMENT)

    assert await agents.get(SHARK, ASSIGNMENT) is None


async def test_a_cancelled_post_may_have_arrived(agents: AgentService) -> None:
    """It is posted again, and done once."""
    with trio.move_on_after(0.005):
        await agents.post(SHARK, assignment([1, 2]))
    answer = await agents.post(SHARK, assignment([1, 2]))
    report = await finished(agents)

    assert answer.result is PostResult.ACCEPTED
    assert (report.stats.total, report.stats.complete, report.stats.failed) == (2, 2, 1)


async def test_an_agent_that_is_away_is_unreachable(subject: Subject) -> None:
    """Every call says so, and that it may be tried again."""
    await subject.agents.post(SHARK, assignment([1]))
    await finished(subject.agents)
    subject.leave()

    calls: list[Callable[[AgentService], Awaitable[Any]]] = [
        lambda agents: agents.ping(SHARK),
        lambda agents: agents.limit_bandwidth(SHARK, None),
        lambda agents: agents.post(SHARK, assignment([1])),
        lambda agents: agents.get(SHARK, ASSIGNMENT),
        lambda agents: agents.delete(SHARK, ASSIGNMENT),
    ]
    for call in calls:
        with pytest.raises(PeerUnreachable) as caught:
            await call(subject.agents)
        assert caught.value.is_transient
