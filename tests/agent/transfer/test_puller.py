"""Objects pulled from sources that are good, slow, broken or lying, by each of the two engines."""

import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.agent.transfer.puller import Puller
from rebalancer.config import AgentConfig
from tests.agent import scripted
from tests.agent.scripted import open_rig
from tests.logs import capture_logs
from tests.sources import OWNER, Answer, bucket_path, bucket_task, ok, task, uuid

A, B = b"first object", b"second object" * 1000


@pytest.fixture(
    params=[pytest.param("libcurl", marks=pytest.mark.native("pycurl")), "plain"], autouse=True
)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine of the test's agent."""
    name = str(request.param)
    monkeypatch.setattr(scripted, "ENGINE", name)
    return name


def by_number(*contents: bytes, keep: bool = True) -> Callable[[int, str], Answer]:
    """The n-th object has the n-th content."""

    def answer(_request: int, path: str) -> Answer:
        return Answer(ok(contents[int(path[-6:]) - 1]), keep=keep)

    return answer


@pytest.mark.row("CRIT-10", "TEST-AGENT-1")
async def test_objects_come_whole_under_their_names(tmp_path: Path) -> None:
    """The path and headers of the request, the file's mode, and nothing left behind."""
    async with open_rig(tmp_path, by_number(A, B)) as rig:
        failed = await rig.outcome(task(1, A), task(2, B))

        assert failed == {}
        assert (rig.path(1).read_bytes(), rig.path(2).read_bytes()) == (A, B)
        assert stat.S_IMODE(rig.path(1).stat().st_mode) == 0o644
        assert stat.S_IMODE(rig.path(1).parent.stat().st_mode) == 0o755
        assert rig.temporary == []
        assert rig.source.paths == [f"/{OWNER}/{uuid(1)}", f"/{OWNER}/{uuid(2)}"]
        first = rig.source.requests[0].decode().lower()
        assert "\r\nhost: 2.stor.lab\r\n" in first
        assert "\r\naccept-encoding: identity" in first
        assert first.startswith("get ")
        assert first.split("\r\n")[0].endswith(" http/1.1")


async def test_bucket_objects_come_to_their_own_paths(tmp_path: Path) -> None:
    """Small, large and empty; one has the id of an object of the directory tier."""
    large = bytes(range(256)) * 5000
    contents = {f"/{OWNER}/{uuid(1)}": A}
    contents |= {f"/{bucket_path(n)}": body for n, body in enumerate((b"", B, large))}
    async with open_rig(tmp_path, lambda _, path: Answer(ok(contents[path]))) as rig:
        tasks = [bucket_task(n, body) for n, body in enumerate((b"", B, large))]
        assert await rig.outcome(task(1, A), *tasks) == {}

        assert sorted(rig.source.paths) == sorted(contents)
        for path, body in contents.items():
            file = tmp_path / f"manta{path}"
            assert file.read_bytes() == body
            assert stat.S_IMODE(file.stat().st_mode) == 0o644
            for folder in list(file.relative_to(tmp_path / "manta").parents)[:-1]:
                assert stat.S_IMODE((tmp_path / "manta" / folder).stat().st_mode) == 0o755
        assert rig.temporary == []


async def test_a_bucket_object_that_is_there_is_not_fetched(tmp_path: Path) -> None:
    """That of the same id in the other tier is; and a failed one is reported as what it is."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(A))) as rig:
        rig.bucket_path(1).parent.mkdir(parents=True)
        rig.bucket_path(1).write_bytes(B)
        await rig.post([task(1, A), bucket_task(1, B), bucket_task(2, B)])
        (failed,) = await rig.finish()

    assert failed == bucket_task(2, B, status={"Failed": "MD5Mismatch"})
    assert sorted(rig.source.paths) == [f"/{OWNER}/{uuid(1)}", f"/{bucket_path(2)}"]


async def test_the_status_names_the_engine(tmp_path: Path, engine: str) -> None:
    """An operator sees which one pulls: the plain one is slower."""
    async with open_rig(tmp_path, by_number(A)) as rig:
        assert await rig.outcome(task(1, A)) == {}
        status = await (await rig.client.get("/status")).get_json()

        assert (list(status)[-1], status["engine"]) == ("engine", engine)


@pytest.mark.parametrize("keep", [True, False])
async def test_connections_are_kept_where_the_source_keeps_them(
    tmp_path: Path, keep: bool, engine: str
) -> None:
    """One for all, or one each where the source closes, and always by the plain engine."""
    contents = [b"object %d" % number for number in range(1, 9)]
    async with open_rig(tmp_path, by_number(*contents, keep=keep)) as rig:
        failed = await rig.outcome(*[task(n, c) for n, c in enumerate(contents, 1)])

        assert failed == {}
        assert len(rig.source.paths) == 8
        assert rig.source.connections == (1 if keep and engine == "libcurl" else 8)


async def test_large_objects_flow_through(tmp_path: Path) -> None:
    """Several blocks, and the last is no whole one."""
    content = bytes(range(251)) * 30_000
    async with open_rig(tmp_path, by_number(content)) as rig:
        assert await rig.outcome(task(1, content)) == {}
        assert rig.path(1).read_bytes() == content


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\nfirst object\r\n0\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nfirst objects"
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nfirst object"
CLOSED = b"HTTP/1.1 200 OK\r\n\r\nfirst object"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
NETWORK, MISMATCH = {"Failed": "NetworkError"}, {"Failed": "MD5Mismatch"}


def refusal(code: int) -> bytes:
    return f"HTTP/1.1 {code} No\r\nContent-Length: 2\r\n\r\nno".encode()


@attrs.frozen
class Case:
    """What a source answers, what the agent makes of it, and how often it asks."""

    answers: list[Answer]
    status: Any = None
    asked: int = 1


CASES = {
    "chunked": Case([Answer(CHUNKED)]),
    "no length": Case([Answer(CLOSED, keep=False)]),
    "not found": Case([Answer(refusal(404))], {"Failed": {"HTTPStatusCode": 404}}),
    "redirect": Case([Answer(MOVED)], {"Failed": {"HTTPStatusCode": 302}}),
    "partial": Case([Answer(refusal(206))], {"Failed": {"HTTPStatusCode": 206}}),
    "overloaded": Case([Answer(refusal(503))] * 3, {"Failed": {"HTTPStatusCode": 503}}, asked=3),
    "overloaded once": Case([Answer(refusal(503)), Answer(ok(A))], asked=2),
    "corrupt": Case([Answer(ok(b"first objecT"))], {"Failed": "MD5Mismatch"}),
    "too long": Case([Answer(LONG)]),
    "too long, and other bytes": Case([Answer(LONG[1:])], NETWORK),
    "longer than it is": Case([Answer(LONG.replace(b"first", b"firsT"))], MISMATCH),
    "cut": Case([Answer(SHORT, keep=False)], NETWORK),
    "cut in the head": Case([Answer(SHORT[:20], keep=False)], NETWORK),
    "no answer": Case([Answer(b"", keep=False)], NETWORK),
    "hanging": Case([Answer(SHORT, hang=True)], NETWORK),
    "silent": Case([Answer(b"", hang=True)], NETWORK),
    "gzip": Case([Answer(ok(A, "Content-Encoding: gzip"))], NETWORK),
    "no http": Case([Answer(b"220 mail.lab ESMTP\r\n\r\n")], NETWORK),
    "two lengths": Case([Answer(ok(A, "Content-Length: 3"))], NETWORK),
}


@pytest.mark.row("CRIT-4", "CRIT-11", "TEST-AGENT-3", "TEST-AGENT-4", "TEST-AGENT-10", "A2")
@pytest.mark.parametrize("name", CASES)
async def test_a_source_is_believed_only_when_all_is_well(tmp_path: Path, name: str) -> None:
    """The reason the manager is told; no file, whole or temporary, unless it is complete."""
    case = CASES[name]
    options: dict[str, Any] = {"retries": 2, "idle_timeout": 0.3}
    async with open_rig(tmp_path, lambda n, _: case.answers[n], **options) as rig:
        failed = await rig.outcome(task(1, A))

        assert failed == ({} if case.status is None else {uuid(1): case.status})
        assert len(rig.source.paths) == case.asked
        assert rig.path(1).exists() == (case.status is None)
        assert rig.temporary == []


async def test_bytes_behind_an_answer_do_not_spoil_the_next_object(tmp_path: Path) -> None:
    """A kept connection that is not quiet is not used again."""
    next_one = uuid(77)
    async with open_rig(tmp_path, lambda *_: Answer(ok(A), late=b"unasked")) as rig:
        assert await rig.outcome(task(1, A)) == {}
        await trio.sleep(0.2)
        await rig.post([task(2, A)], next_one)

        assert await rig.finish(next_one) == []
        assert rig.source.connections == 2


async def test_a_connection_closed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    """The source promised to keep it; without any retries the next object comes all the same."""
    next_one = uuid(77)
    async with open_rig(tmp_path, lambda *_: Answer(ok(A), keep=False)) as rig:
        assert await rig.outcome(task(1, A)) == {}
        await trio.sleep(0.1)
        await rig.post([task(2, A)], next_one)

        assert await rig.finish(next_one) == []


@pytest.mark.row("A9")
async def test_a_source_that_refuses_connections_is_tried_again(tmp_path: Path) -> None:
    """And then told as the predecessor told it."""
    here = {"datacenter": "dc1", "manta_storage_id": "127.0.0.1:1"}
    async with open_rig(tmp_path, by_number(A), retries=1) as rig:
        failed = await rig.outcome(task(1, A, source=here), task(2, A, source=here))

        assert failed == {uuid(n): {"Failed": "SourceOtherError"} for n in (1, 2)}


@pytest.mark.row("A2")
async def test_only_allowed_domains_are_asked(tmp_path: Path) -> None:
    """Suffixes by whole labels; what is not below one is not even connected to."""
    other = {"datacenter": "dc1", "manta_storage_id": "2.evilstor.lab"}
    hosts = {"2.evilstor.lab": "127.0.0.1:1"}

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, hosts={**config.hosts, **hosts})

    options: dict[str, Any] = {"allowed_domains": ("stor.lab",)}
    async with open_rig(tmp_path, by_number(A, A), change=change, **options) as rig:
        failed = await rig.outcome(task(1, A), task(2, A, source=other))

        assert failed == {uuid(2): {"Failed": "SourceOtherError"}}
        assert len(rig.source.paths) == 1


@pytest.mark.row("CRIT-9", "TEST-AGENT-2", "A11")
async def test_what_is_there_is_not_fetched(tmp_path: Path) -> None:
    """The digest decides, not the name; what differs is replaced whole."""
    async with open_rig(tmp_path, by_number(A, B)) as rig:
        for number, content in ((1, A), (2, b"something else")):
            rig.path(number).parent.mkdir(exist_ok=True)
            rig.path(number).write_bytes(content)
        inode = rig.path(2).stat().st_ino
        failed = await rig.outcome(task(1, A), task(2, B))

        assert failed == {}
        assert rig.source.paths == [f"/{OWNER}/{uuid(2)}"]
        assert rig.path(2).read_bytes() == B
        assert rig.path(2).stat().st_ino != inode


@pytest.mark.row("L40")
async def test_an_empty_object_is_a_file_too(tmp_path: Path) -> None:
    """Zero bytes, verified like all others."""
    async with open_rig(tmp_path, by_number(b"")) as rig:
        assert await rig.outcome(task(1, b"")) == {}
        assert rig.path(1).read_bytes() == b""


async def test_space_that_is_reserved_is_not_used(tmp_path: Path) -> None:
    """Told before the first byte is written."""

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, storage=attrs.evolve(config.storage, reserve_mb=1 << 40))

    async with open_rig(tmp_path, by_number(A), change=change) as rig:
        failed = await rig.outcome(task(1, A))

        assert failed == {uuid(1): {"Failed": "DestinationInsufficientSpace"}}
        assert rig.temporary == []


async def test_a_folder_that_cannot_be_made_is_the_nodes_fault(tmp_path: Path) -> None:
    """AgentFSError, nothing left behind, and other objects are not touched by it."""
    other = "0a1b2c3d-0000-1000-8000-0000000000aa"
    async with open_rig(tmp_path, by_number(A, A)) as rig:
        rig.path(1).parent.write_text("a file in the way")
        failed = await rig.outcome(task(1, A), task(2, A, owner=other))

        assert failed == {uuid(1): {"Failed": "AgentFSError"}}
        assert rig.temporary == []
        assert rig.path(1).parent.read_text() == "a file in the way"
        assert (tmp_path / "manta" / other / uuid(2)).read_bytes() == A


@pytest.mark.row("N21", "A6")
async def test_two_assignments_with_one_object_do_not_share_a_file(tmp_path: Path) -> None:
    """Both complete, and the object is whole."""

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, server=attrs.evolve(config.server, workers=2))

    names = [uuid(70), uuid(71)]
    async with open_rig(tmp_path, by_number(B), change=change) as rig:
        for name in names:
            await rig.post([task(1, B)], name)
        assert [await rig.finish(name) for name in names] == [[], []]
        assert rig.path(1).read_bytes() == B
        assert rig.temporary == []


@pytest.mark.row("CRIT-5")
async def test_a_temporary_file_that_stays_is_counted(tmp_path: Path) -> None:
    """Wherever the object is pulled: the agent's metrics tell of it."""
    content = b"x" * (3 << 20)
    half = Answer(ok(content)[: 2 << 20], hang=True)
    async with open_rig(tmp_path, lambda *_: half, idle_timeout=0.5) as rig:
        await rig.post([task(1, content)])
        with trio.fail_after(10):
            while not rig.temporary:  # noqa: ASYNC110
                await trio.sleep(0.01)
        at_work = rig.agent.metrics.registry.get_sample_value("rebalancer_agent_running_tasks")
        (temporary,) = rig.temporary
        temporary.unlink()
        temporary.mkdir()  # so that it cannot be removed as a file
        failed = await rig.finish()
        registry = rig.agent.metrics.registry

        assert at_work == 1
        assert registry.get_sample_value("rebalancer_agent_running_tasks") == 0
        assert [one["status"] for one in failed] == [NETWORK]
        assert registry.get_sample_value("rebalancer_agent_cleanup_failures_total") == 1


CUT = {"length": ok(A), "chunked": CHUNKED, "keep-alive, then length": ok(A)}


@pytest.mark.row("CRIT-11")
@pytest.mark.parametrize("name", CUT)
async def test_a_connection_cut_at_any_byte_is_never_a_whole_object(
    tmp_path: Path, name: str
) -> None:
    """Over real sockets: each prefix of an answer fails, and the whole one does not."""
    whole = CUT[name]

    def answer(_request: int, path: str) -> Answer:
        number = int(path[-6:])
        if number > len(whole):  # others between them, on connections that are kept
            return Answer(ok(A))
        return Answer(whole[:number], keep=False)

    numbers = list(range(len(whole) + 1))
    if name.startswith("keep"):
        numbers = [n for number in numbers for n in (1000 + number, number)]

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, server=attrs.evolve(config.server, workers_per_assignment=4))

    async with open_rig(tmp_path, answer, change=change) as rig:
        failed = await rig.outcome(*[task(number, A) for number in numbers])

        assert failed == {uuid(number): NETWORK for number in range(len(whole))}
        for number in numbers:
            assert rig.path(number).exists() == (uuid(number) not in failed)
        assert rig.temporary == []


async def test_a_source_may_end_connections_when_it_likes(tmp_path: Path) -> None:
    """With a word or without one; no object fails for it, and none is asked for in vain."""

    def answer(request: int, _path: str) -> Answer:
        says = ["Connection: close"] if request % 5 == 4 else []
        return Answer(ok(A, *says), keep=request % 3 != 2)

    async with open_rig(tmp_path, answer, retries=0) as rig:
        assert await rig.outcome(*[task(number, A) for number in range(30)]) == {}
        assert len(rig.source.paths) == 30


async def test_what_is_behind_a_large_object_goes_to_others(tmp_path: Path) -> None:
    """While it is slow, the rest comes over other connections."""
    large = b"x" * (1 << 20)
    slow = trio.Event()

    def answer(_request: int, path: str) -> Answer:
        if path.endswith("3"):
            return Answer(ok(large)[:-10], late=large[-10:], until=slow)
        return Answer(ok(A))

    def change(config: AgentConfig) -> AgentConfig:
        return attrs.evolve(config, server=attrs.evolve(config.server, workers_per_assignment=2))

    tasks = [task(number, large if number == 3 else A) for number in range(10)]
    async with open_rig(tmp_path, answer, change=change) as rig:
        await rig.post(tasks)
        with trio.fail_after(10):
            while not all(rig.path(n).exists() for n in range(10) if n != 3):  # noqa: ASYNC110
                await trio.sleep(0.01)
        slow.set()

        assert await rig.finish() == []
        assert rig.path(3).read_bytes() == large


@pytest.mark.row("N23", "CRIT-4")
async def test_a_slow_source_is_waited_for_as_long_as_something_comes(tmp_path: Path) -> None:
    """The whole takes twice as long as a silence may."""
    content = b"slow object"

    async def trickle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        answer = ok(content)
        await stream.send_all(answer[: -len(content)])
        for at in range(0, len(content), 2):
            await trio.sleep(0.25)
            await stream.send_all(content[at : at + 2])

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, trickle, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        here = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        source = {"datacenter": "dc1", "manta_storage_id": here}
        async with open_rig(tmp_path, by_number(), idle_timeout=0.75) as rig:
            assert await rig.outcome(task(1, content, source=source)) == {}
        nursery.cancel_scope.cancel()


BAD_NAMES = ["127.0.0.1:0", "127.0.0.1:99999", "7..stor.x", f"{'l' * 70}.stor.x", "-.stor.lab"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_source_that_cannot_be_is_its_own_tasks_failure(tmp_path: Path, name: str) -> None:
    """A port out of range, a name that no resolver can encode: told, and others go on."""
    here = {"datacenter": "dc1", "manta_storage_id": name}
    async with open_rig(tmp_path, by_number(A, A, B)) as rig:
        await rig.post([task(3, B)], uuid(70))
        reply = await rig.post([task(1, A), task(2, A, source=here)])
        if reply.status_code == 400:
            assert name in (await reply.get_json())["message"]
        else:
            failed = {one["object_id"]: one["status"] for one in await rig.finish()}
            assert failed == {uuid(2): {"Failed": "SourceOtherError"}}
        assert await rig.finish(uuid(70)) == []


async def test_an_exception_that_nobody_has_thought_of_fails_one_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it comes from: in the answer, the writing, the looking; logged with its trace."""
    real, writing, looking = Puller._pull, ObjectFiles._write, ObjectFiles.is_there

    async def pull(self: Puller, tasks: Any, *rest: Any) -> Any:
        if tasks[0].name == uuid(2):
            raise KeyError("a bug in the answer")
        return await real(self, tasks, *rest)

    def write(self: ObjectFiles, tree: Any, one: Any) -> Any:
        if one.name == uuid(4):
            raise ZeroDivisionError("a bug in the writing")
        return writing(self, tree, one)

    def is_there(self: ObjectFiles, owner: str, name: str, md5: str) -> bool:
        if name == uuid(6):
            raise RecursionError("a bug in the looking")
        return looking(self, owner, name, md5)

    monkeypatch.setattr(Puller, "_pull", pull)
    monkeypatch.setattr(ObjectFiles, "_write", write)
    monkeypatch.setattr(ObjectFiles, "is_there", is_there)
    contents = [b"object %d" % number for number in range(1, 10)]
    async with open_rig(tmp_path, by_number(*contents)) as rig:
        rig.path(6).parent.mkdir()
        rig.path(6).write_bytes(contents[5])
        with capture_logs() as lines:
            failed = await rig.outcome(*[task(n, c) for n, c in enumerate(contents, 1)])

        assert failed == {uuid(n): {"Failed": "AgentFSError"} for n in (2, 4, 6)}
        assert all(rig.path(n).exists() for n in range(1, 10) if n not in (2, 4))
        assert rig.temporary == []
    traced = {line["task"] for line in lines if line.get("exc_info") and "task" in line}
    assert traced == {uuid(n) for n in (2, 4, 6)}


async def test_a_batch_that_meets_an_exception_is_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object cannot be put into place, for a reason nobody has thought of: the others can."""
    real = ObjectFiles.put

    def put(self: ObjectFiles, batch: Any) -> Any:
        if any(item.name == uuid(2) for item in batch):
            raise KeyError("a bug")
        return real(self, batch)

    monkeypatch.setattr(ObjectFiles, "put", put)
    async with open_rig(tmp_path, by_number(A, A, A)) as rig:
        failed = await rig.outcome(*[task(n, A) for n in (1, 2, 3)])

        assert failed == {uuid(2): {"Failed": "AgentFSError"}}
        assert rig.temporary == []


DRIPS = {
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "a head": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("kind", DRIPS)
async def test_what_drips_without_end_holds_no_worker(tmp_path: Path, kind: str) -> None:
    """A bit now and then is no answer: it must come within the time that silence may last."""
    begin, again = DRIPS[kind]

    async def drip(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(begin)
            while True:
                await trio.sleep(0.2)
                await stream.send_all(again)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, drip, 0, host="127.0.0.1"))
        here = {
            "datacenter": "dc1",
            "manta_storage_id": f"127.0.0.1:{listener.socket.getsockname()[1]}",
        }
        async with open_rig(tmp_path, by_number(A), idle_timeout=0.6) as rig:
            failed = await rig.outcome(task(1, A, source=here))
            assert failed == {uuid(1): NETWORK}
        nursery.cancel_scope.cancel()
