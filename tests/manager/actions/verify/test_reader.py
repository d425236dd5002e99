"""Copies are read from real web servers, and from servers that answer oddly or not at all."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from rebalancer.manager.actions.verify.copies import Copy, Fault, FaultKind
from rebalancer.manager.actions.verify.rate import ByteRate
from rebalancer.manager.actions.verify.reader import PROBE_S, TRIES, Reader
from rebalancer.peers.http import open_http
from rebalancer.waits import Waits
from rebalancer_devregion import nginx
from rebalancer_devregion.storagenode import serve_node
from tests.conftest import require
from tests.sources import OWNER, Answer, md5, ok, open_source, uuid

NODE = "2.stor.lab"
CONTENT = b"what the user has stored" * 1000


def a_copy(number: int = 1, content: bytes = CONTENT) -> Copy:
    return Copy(NODE, f"/{OWNER}/{uuid(number)}", len(content), md5(content))


@asynccontextmanager
async def open_reader(
    port: int, *, patience_s: float = 60.0, rate: int | None = None, silence_s: float = 30.0
) -> AsyncIterator[Reader]:
    async with open_http({NODE: "127.0.0.1"}, read_s=silence_s) as http:
        yield Reader(http, port, patience_s, ByteRate(rate), Waits())


async def checked(
    answer: Callable[[int, str], Answer], *, is_sampled: bool = True
) -> tuple[Fault | None, list[bytes]]:
    """Return what a reader makes of a source, and the requests that it has sent."""
    async with open_source(answer) as source, open_reader(source.port) as reader:
        fault = await reader.check(a_copy(), is_sampled=is_sampled)
        return fault, [request.split(b" ")[0] for request in source.requests]


def head_then(*bodies: bytes) -> Callable[[int, str], Answer]:
    """Answer every HEAD well, and the n-th GET with the n-th of `bodies`, cut off behind it."""
    heads = ok(CONTENT)[: -len(CONTENT)]

    def answer(number: int, _path: str) -> Answer:
        if number % 2 == 0:
            return Answer(heads)
        return Answer(bodies[min(number // 2, len(bodies) - 1)], keep=False)

    return answer


async def test_a_copy_that_is_not_sampled_is_asked_for_its_size_only() -> None:
    """One HEAD."""
    fault, requests = await checked(head_then(b""), is_sampled=False)
    assert (fault, requests) == (None, [b"HEAD"])


async def test_a_sampled_copy_is_read_whole() -> None:
    """Its MD5 is that of the record."""
    fault, requests = await checked(head_then(ok(CONTENT)))
    assert (fault, requests) == (None, [b"HEAD", b"GET"])


async def test_other_bytes_of_the_same_length_are_a_wrong_md5() -> None:
    """That is what a HEAD cannot see."""
    fault, _ = await checked(head_then(ok(CONTENT[::-1])))
    assert fault is not None
    assert fault.kind is FaultKind.WRONG_MD5


async def test_a_copy_that_is_not_there_is_missing_at_once() -> None:
    """No second question is needed."""
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    fault, requests = await checked(lambda *_: Answer(missing))
    assert fault is not None
    assert (fault.kind, requests) == (FaultKind.COPY_MISSING, [b"HEAD"])


async def test_a_body_that_is_cut_is_asked_for_again(autojump_clock: object) -> None:
    """A connection may break at any byte of a good copy."""
    fault, requests = await checked(head_then(ok(CONTENT)[:-5], ok(CONTENT)))
    assert (fault, len(requests)) == (None, 4)


async def test_a_body_that_is_always_cut_is_unreadable(autojump_clock: object) -> None:
    """A disk with a bad sector looks like this; the node itself is well."""
    fault, requests = await checked(head_then(ok(CONTENT)[:-5]))
    assert fault is not None
    assert (fault.kind, len(requests)) == (FaultKind.COPY_UNREADABLE, 2 * TRIES)


async def test_a_server_error_is_asked_again_and_then_unreadable(autojump_clock: object) -> None:
    """An overloaded node may recover; a copy that always fails is listed."""
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    well = head_then(ok(CONTENT))
    fault, _ = await checked(lambda n, path: Answer(busy) if n < 2 else well(n, path))
    assert fault is None

    fault, requests = await checked(lambda *_: Answer(busy))
    assert fault is not None
    assert (fault.kind, len(requests)) == (FaultKind.COPY_UNREADABLE, TRIES)


async def test_a_node_that_is_away_is_waited_for_visibly(autojump_clock: object) -> None:
    """It is back before the patience is over, and nothing is wrong."""
    async with open_source(head_then(ok(CONTENT))) as source:
        port = source.port
    async with open_reader(port) as reader, trio.open_nursery() as nursery:
        seen = list[str]()

        async def come_back() -> None:
            await trio.sleep(20)
            seen.extend(wait.subject for wait in reader.waits.causes)
            await nursery.start(_serve_again, port)

        nursery.start_soon(come_back)
        assert await reader.check(a_copy(), is_sampled=False) is None
        assert seen == [f"storage node {NODE}"]
        assert reader.waits.causes == []
        nursery.cancel_scope.cancel()


async def _serve_again(port: int, *, task_status: trio.TaskStatus[object]) -> None:
    head = ok(CONTENT)[: -len(CONTENT)]

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(head)

    await trio.serve_tcp(serve, port, host="127.0.0.1", task_status=task_status)


async def test_copies_on_a_node_that_stays_away_are_listed(autojump_clock: trio.abc.Clock) -> None:
    """The first waits for the node's patience; those after it do not, but for a probe a minute."""
    async with open_source(head_then(b"")) as source:
        port = source.port
    async with open_reader(port, patience_s=300) as reader:
        begun = trio.current_time()
        fault = await reader.check(a_copy(), is_sampled=False)
        waited = trio.current_time() - begun
        assert fault is not None
        assert fault.kind is FaultKind.NODE_UNREACHABLE
        assert 300 <= waited < 330

        for number in range(2, 50):
            again = await reader.check(a_copy(number), is_sampled=True)
            assert again is not None
            assert again.kind is FaultKind.NODE_UNREACHABLE
        assert trio.current_time() - begun < waited + 1
        assert reader.waits.causes == []


async def test_a_node_that_was_given_up_is_believed_when_it_answers(
    autojump_clock: trio.abc.Clock,
) -> None:
    """The probe finds it, and from then on its copies are checked again."""
    async with open_source(head_then(b"")) as source:
        port = source.port
    async with open_reader(port, patience_s=100) as reader, trio.open_nursery() as nursery:
        assert await reader.check(a_copy(), is_sampled=False) is not None
        await nursery.start(_serve_again, port)
        assert await reader.check(a_copy(), is_sampled=False) is not None
        await trio.sleep(PROBE_S)
        assert await reader.check(a_copy(), is_sampled=False) is None
        assert await reader.check(a_copy(), is_sampled=False) is None
        nursery.cancel_scope.cancel()


async def test_a_node_that_answers_nothing_is_away(autojump_clock: trio.abc.Clock) -> None:
    """A silence is bounded as a refused connection is."""
    async with (
        open_source(lambda *_: Answer(b"", hang=True)) as source,
        open_reader(source.port, patience_s=100) as reader,
    ):
        fault = await reader.check(a_copy(), is_sampled=True)
        assert fault is not None
        assert fault.kind is FaultKind.NODE_UNREACHABLE


async def test_bytes_are_read_at_the_rate(mock_clock: trio.testing.MockClock) -> None:
    """A body of 24,000 bytes takes two seconds at 12,000 bytes a second."""
    mock_clock.autojump_threshold = 0.05
    async with (
        open_source(head_then(ok(CONTENT))) as source,
        open_reader(source.port, rate=12_000) as reader,
    ):
        begun = trio.current_time()
        assert await reader.check(a_copy(), is_sampled=True) is None
        assert trio.current_time() - begun == pytest.approx(len(CONTENT) / 12_000, abs=0.2)


@asynccontextmanager
async def web_server(kind: str, folder: Path) -> AsyncIterator[int]:
    """Serve the folder `root` by nginx, or by the storage nodes of the embedded region."""
    if kind == "nginx":
        with nginx.serving(require("nginx"), folder, folder / "root", 60) as port:
            yield port
        return
    async with trio.open_nursery() as nursery:
        _, port = await nursery.start(serve_node, folder / "root", "127.0.0.1", 0)
        yield port
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("server", ["nginx", "the region's"])
@pytest.mark.parametrize("is_sampled", [True, False])
async def test_copies_on_a_real_web_server(is_sampled: bool, server: str, tmp_path: Path) -> None:
    """Copies on a node are right, missing, cut, or of the right length with other bytes."""
    lay_out(tmp_path)
    async with web_server(server, tmp_path) as port, open_reader(port) as reader:
        found = {}
        for number in range(1, 6):
            copy = a_copy(number, b"" if number == 5 else CONTENT)
            found[number] = await reader.check(copy, is_sampled=is_sampled)
    kinds = {number: fault and fault.kind for number, fault in found.items()}
    assert kinds == {
        1: None,
        2: FaultKind.WRONG_SIZE,
        3: FaultKind.WRONG_MD5 if is_sampled else None,
        4: FaultKind.COPY_MISSING,
        5: None,
    }


def lay_out(folder: Path) -> None:
    """Make the objects of a storage node, of which number 4 is missing."""
    (folder / "root" / OWNER).mkdir(parents=True)
    for number, content in {1: CONTENT, 2: CONTENT[:-1], 3: CONTENT[::-1], 5: b""}.items():
        (folder / "root" / OWNER / uuid(number)).write_bytes(content)
