"""The engines that ask sources for objects: what they believe, keep, close and refuse."""

import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.puller import Puller
from rebalancer.agent.transfer.sources.choice import check_engine, open_engine
from rebalancer.agent.transfer.sources.engine import (
    AGE_S,
    AHEAD_BYTES,
    MAX_HEAD_BYTES,
    MAX_INTERIM,
    Engine,
    PullFailure,
    Source,
    read_head,
    read_status,
)
from rebalancer.agent.transfer.sources.plain import PlainEngine
from rebalancer.config import AgentSource
from rebalancer.domain import reasons
from rebalancer.errors import ConfigError
from rebalancer.peers.names import Endpoint
from tests.logs import capture_logs
from tests.sources import Answer, ok, open_source

LIBCURL = pytest.mark.native("pycurl")
ENGINES = [pytest.param("libcurl", marks=LIBCURL), "plain"]
SMALL, LARGE = b"a small one", bytes(range(256)) * 20_000


@asynccontextmanager
async def running(
    name: str, port: int, allowance: Allowance | None = None, **limits: float
) -> AsyncIterator[tuple[Engine, Source]]:
    """An engine at work, and the source that answers on a port."""
    settings = AgentSource(engine=name, **limits)  # type: ignore[arg-type]
    engine = open_engine(settings, allowance or Allowance(), 16)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        yield engine, Source("2.stor.lab", Endpoint("127.0.0.1", port))
        nursery.cancel_scope.cancel()


async def body(engine: Engine, source: Source, path: str = "/a/b") -> bytes:
    """The whole body of an answer."""
    answer = await engine.get(source, path)
    try:
        assert answer.status == 200
        chunks = await answer.take()
        while not answer.is_whole:
            chunks += await answer.take()
        return b"".join(chunks)
    finally:
        answer.close()


# --- heads -----------------------------------------------------------------------------------

OK, LENGTH, END = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n", b"\r\n"
EARLY = [b"HTTP/1.1 103 Early Hints\r\n", b"Content-Length: 7\r\n", END]
BELIEVED = {
    "one length": ([OK, LENGTH, END], 5),
    "in capitals": ([OK, b"CONTENT-LENGTH:5\r\n", END], 5),
    "none": ([OK, b"Server: nginx\r\n", END], None),
    "chunked": ([OK, b"Transfer-Encoding: Chunked\r\n", END], None),
    "with trailers": ([OK, b"Transfer-Encoding: chunked\r\n", END, LENGTH], None),
    "the same twice": ([OK, LENGTH, LENGTH, END], 5),
    "identity": ([OK, b"Content-Encoding: identity\r\n", LENGTH, END], 5),
    "an interim one before it": ([*EARLY, OK, LENGTH, END], 5),
    "as many as may be": ([*EARLY * MAX_INTERIM, OK, LENGTH, END], 5),
}
REFUSED = {
    "nothing": [],
    "cut": [OK, LENGTH],
    "cut behind an interim one": [*EARLY, OK],
    "two lengths": [OK, LENGTH, b"Content-Length: 6\r\n", END],
    "no number": [OK, b"Content-Length: 0x5\r\n", END],
    "a sign": [OK, b"Content-Length: +5\r\n", END],
    "digits of another script": [OK, "Content-Length: \u0665\r\n".encode(), END],
    "too many digits": [OK, b"Content-Length: " + b"1" * 19 + END, END],
    "chunked and a length": [OK, LENGTH, b"Transfer-Encoding: chunked\r\n", END],
    "another coding": [OK, b"Transfer-Encoding: gzip, chunked\r\n", END],
    "gzip": [OK, b"Content-Encoding: gzip\r\n", LENGTH, END],
    "too many interim ones": [*EARLY * (MAX_INTERIM + 1), OK, LENGTH, END],
    "too long": [OK, b"X: " + b"y" * MAX_HEAD_BYTES + END, LENGTH, END],
    "too long trailers": [OK, LENGTH, END, b"X: " + b"y" * MAX_HEAD_BYTES + END],
}


@pytest.mark.parametrize("name", BELIEVED)
def test_a_head_tells_the_length(name: str) -> None:
    """None where only the end of the body tells it."""
    head, length = BELIEVED[name]
    assert (read_head(head), read_status(head)) == (length, 200)


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_leaves_room_for_doubt_is_refused(name: str) -> None:
    """Whatever the body then is."""
    with pytest.raises(PullFailure) as told:
        read_head(REFUSED[name])
    assert (told.value.reason, told.value.is_transient) == (reasons.NETWORK_ERROR, False)


_FIELDS = [LENGTH, b"content-length: 7\r\n", b"Content-Length: x\r\n", b"ETag: 5\r\n"]
_FIELDS += [b"X-Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"]
_FIELDS += [b"Content-Encoding: gzip\r\n", END, OK, *EARLY]


@given(st.lists(st.sampled_from(_FIELDS), max_size=8))
def test_heads_of_the_common_kind_are_read_as_all_others(fields: list[bytes]) -> None:
    """Quickly, with the same result: a field of no meaning makes them another kind."""
    results = []
    for head in ([OK, *fields, END], [OK, b"X-Encoding: none\r\n", *fields, END]):
        try:
            results.append(read_head(head))
        except PullFailure as failure:
            results.append(-1)
            assert str(failure)
    assert results[0] == results[1]


# --- what comes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
async def test_no_more_is_received_than_is_taken(name: str) -> None:
    """Memory has a bound, however slow the disk is; and all comes in the end."""
    async with (
        open_source(lambda *_: Answer(ok(LARGE * 8))) as source,
        running(name, source.port, idle_timeout=0.5) as (engine, where),
    ):
        answer = await engine.get(where, "/a/b")
        await trio.sleep(1.5)  # longer than a source may be silent: it is not the source's silence
        first = await answer.take()
        taken = len(b"".join(first))
        assert taken <= 3 * AHEAD_BYTES
        rest = [b"".join(first)]
        while not answer.is_whole:
            rest += await answer.take()
        answer.close()
        assert b"".join(rest) == LARGE * 8


@pytest.mark.parametrize("name", ENGINES)
async def test_time_in_which_the_process_did_not_run_is_no_silence(
    name: str, mock_clock: MockClock
) -> None:
    """An hour of sleep in the midst of an answer, or of waiting for one, is a tick."""
    go_on = trio.Event()

    def answer(*_: object) -> Answer:
        return Answer(ok(SMALL)[:-3], late=SMALL[-3:], until=go_on)

    async with (
        open_source(answer) as source,
        running(name, source.port, idle_timeout=10.0) as (engine, where),
        trio.open_nursery() as nursery,
    ):
        found = []

        async def pull() -> None:
            found.append(await body(engine, where))

        nursery.start_soon(pull)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(3):
            mock_clock.jump(3600)
            await trio.testing.wait_all_tasks_blocked(0.02)
        go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert found == [SMALL]


@pytest.mark.parametrize("name", ENGINES)
async def test_silence_ends_a_transfer_that_nobody_else_feels(
    name: str, mock_clock: MockClock
) -> None:
    """Within a tick of its time, told as what it is."""
    async with (
        open_source(lambda *_: Answer(b"", hang=True)) as source,
        running(name, source.port, idle_timeout=10.0) as (engine, where),
        trio.open_nursery() as nursery,
    ):
        told = []

        async def pull() -> None:
            with pytest.raises(PullFailure, match=r"nothing came for 10") as failure:
                await engine.get(where, "/a/b")
            told.append(failure.value.reason)

        nursery.start_soon(pull)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(12):
            assert len(told) == 0 or _ > 8
            mock_clock.jump(1.0)
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert told == [reasons.NETWORK_ERROR]


@LIBCURL
async def test_sockets_may_be_watched_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on platforms that have kqueue: many transfers, of which some open connections anew."""
    from rebalancer.agent.transfer.sources import driver
    from rebalancer.agent.transfer.sources.sockets import SelectedSockets

    monkeypatch.setattr(driver, "open_sockets", SelectedSockets)
    contents = [SMALL, LARGE, b"", SMALL * 2000]
    async with (
        open_source(lambda n, _: Answer(ok(contents[n % 4]), keep=n % 3 > 0)) as source,
        running("libcurl", source.port) as (engine, where),
        trio.open_nursery() as nursery,
    ):
        found: list[bytes] = []

        async def pull() -> None:
            for _ in range(8):
                found.append(await body(engine, where))

        for _ in range(4):
            nursery.start_soon(pull)
    assert sorted(map(len, found)) == sorted(map(len, contents * 8))


@LIBCURL
async def test_an_answer_may_be_there_before_anybody_waits_for_it() -> None:
    """A request that was sent, and answered by more than is received ahead, in one turn."""
    from rebalancer.agent.transfer.sources.curl import CurlEngine

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(ok(LARGE))
            with suppress(ConnectionResetError):
                connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        async with running("libcurl", listener.getsockname()[1]) as (engine, where):
            assert isinstance(engine, CurlEngine)
            begin = engine.kick

            def kick_for_long() -> None:
                """Go on until libcurl was told to receive no more: nobody else has a turn."""
                begin()
                end = time.monotonic() + 10
                while not any(one.is_full for one in engine._driver.under_way.values()):
                    engine._judge(0.0)
                    assert time.monotonic() < end

            engine.kick = kick_for_long
            judge = engine._judge

            def judge_as_before(seconds: float) -> None:
                engine.kick = begin
                judge(seconds)

            engine._judge = judge_as_before  # type: ignore[method-assign]
            with trio.fail_after(20):
                assert await body(engine, where) == LARGE
    thread.join()


# --- connections -------------------------------------------------------------------------------


@LIBCURL
async def test_connections_that_nobody_uses_are_closed(mock_clock: MockClock) -> None:
    """After a while, and not while another transfer is under way."""
    async with (
        open_source(lambda *_: Answer(ok(SMALL))) as source,
        running("libcurl", source.port) as (engine, where),
    ):
        assert await body(engine, where) == SMALL
        assert source.at_work == 1
        for _ in range(AGE_S + 2):
            mock_clock.jump(1.0)
            await trio.testing.wait_all_tasks_blocked(0.001)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert source.at_work == 0
        assert await body(engine, where) == SMALL
        assert (source.connections, source.at_work) == (2, 1)


@LIBCURL
async def test_a_connection_that_its_source_has_closed_is_closed() -> None:
    """Within seconds, though nobody wants it: else its socket would wait for ever."""

    def sockets() -> int:
        count = 0
        for number in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # the one by which the folder is listed
                count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        return count

    async with (
        open_source(lambda *_: Answer(ok(SMALL), keep=False)) as source,
        running("libcurl", source.port) as (engine, where),
    ):
        before = sockets()
        assert await body(engine, where) == SMALL
        with trio.fail_after(10):
            while sockets() > before or source.at_work:  # noqa: ASYNC110
                await trio.sleep(0.05)


@LIBCURL
async def test_connections_are_given_up_when_files_lack() -> None:
    """Those at rest at once; those in use when they are at rest, for the next to start anew."""
    slow = trio.Event()

    def answer(request: int, _path: str) -> Answer:
        return (
            Answer(ok(SMALL)[:-3], late=SMALL[-3:], until=slow)
            if request == 1
            else Answer(ok(SMALL))
        )

    async with (
        open_source(answer) as source,
        running("libcurl", source.port) as (engine, where),
    ):
        assert await body(engine, where) == SMALL
        engine.rest()
        with trio.fail_after(5):
            while source.at_work:  # noqa: ASYNC110
                await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(body, engine, where)
            with trio.fail_after(5):
                while len(source.paths) < 2:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            engine.rest()
            slow.set()
        assert await body(engine, where) == SMALL
        assert source.connections == 3


GONE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@LIBCURL
@pytest.mark.parametrize("unasked", [b"unasked", GONE, b"\r\n\r\n", ok(b"another")])
async def test_what_a_kept_connection_carries_unasked_is_not_the_next_answer(
    unasked: bytes,
) -> None:
    """A source says that it waited for too long, or nonsense: the next is asked for elsewhere."""
    async with (
        open_source(lambda *_: Answer(ok(SMALL), late=unasked)) as source,
        running("libcurl", source.port) as (engine, where),
    ):
        for _ in range(3):
            assert await body(engine, where) == SMALL
            await trio.sleep(0.1)
        assert source.connections == 3


@LIBCURL
async def test_an_answer_that_came_unasked_just_now_is_not_the_next_one() -> None:
    """Before anybody but the next request could look at its connection."""

    def serve(listener: socket.socket) -> None:
        for more in (True, False):
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(ok(SMALL))
                if more:
                    time.sleep(0.05)
                    connection.sendall(ok(b"another"))
                    has_sent.set()
                with suppress(ConnectionResetError):
                    connection.recv(1)

    has_sent = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        async with running("libcurl", listener.getsockname()[1]) as (engine, where):
            assert await body(engine, where) == SMALL
            assert has_sent.wait(10)  # without a turn for any other trio task
            assert await body(engine, where) == SMALL
    thread.join()


@pytest.mark.parametrize("name", ENGINES)
async def test_a_failure_of_any_kind_is_told(name: str) -> None:
    """Also one for which libcurl has no words, and a status that there is not."""
    odd = [b"HTTP/1.1 200 OK\r\nX: " + b"x" * (200 << 10), b"HTTP/1.1 099 Odd\r\n" + LENGTH + END]
    odd.append(b"HTTP/2 200\r\n" + LENGTH + END)
    async with (
        open_source(
            lambda n, _: Answer(odd[n] + b"small" if n < len(odd) else ok(SMALL))
        ) as source,
        running(name, source.port) as (engine, where),
    ):
        for _ in odd:
            with pytest.raises(PullFailure) as told:
                await engine.get(where, "/a/b")
            assert told.value.reason == reasons.NETWORK_ERROR
        assert await body(engine, where) == SMALL


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("more", [0, 1, 100_000])
async def test_a_body_that_ends_while_it_waits_to_be_taken_is_not_whole(
    name: str, more: int
) -> None:
    """What was received is taken first; then its end is told."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + bytes(AHEAD_BYTES + more)
    async with (
        open_source(lambda *_: Answer(cut, keep=False)) as source,
        running(name, source.port) as (engine, where),
    ):
        answer = await engine.get(where, "/a/b")
        await trio.sleep(0.2)
        with pytest.raises(PullFailure) as told:
            while not answer.is_whole:
                await answer.take()
        answer.close()
    assert told.value.reason == reasons.NETWORK_ERROR


async def test_a_body_of_very_many_pieces_leaves_time_to_others() -> None:
    """By the plain engine, which takes them one by one."""
    pieces = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with (
        open_source(lambda *_: Answer(pieces + b"0\r\n\r\n")) as source,
        running("plain", source.port) as (engine, where),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(count)
        assert await body(engine, where) == b"x" * 10_000
        nursery.cancel_scope.cancel()
    assert turns > 500


@pytest.mark.parametrize("name", ENGINES)
async def test_a_transfer_that_is_given_up_ends(name: str) -> None:
    """In the head, in the body, and when its task is cancelled: the source sees it go."""
    large = Answer(ok(LARGE * 8))
    async with (
        open_source(lambda n, _: large if n == 1 else Answer(b"", hang=True)) as source,
        running(name, source.port) as (engine, where),
    ):
        with trio.move_on_after(0.2):
            await engine.get(where, "/a/b")
        answer = await engine.get(where, "/a/b")
        answer.close()
        answer.close()
        assert len(source.paths) == 2
        with trio.fail_after(5):
            while source.at_work > 1:  # noqa: ASYNC110 - the first one hangs without reading
                await trio.sleep(0.01)


@LIBCURL
async def test_a_task_that_is_cancelled_with_its_engine_asks_it_for_nothing_more() -> None:
    """As one that has been in a thread until then, which cannot be cancelled."""

    async def go_on(task_status: trio.TaskStatus[None]) -> None:
        answer = await engine.get(where, "/a/b")
        task_status.started()
        try:
            with trio.CancelScope(shield=True):
                await has_ended.wait()
            while not answer.is_whole:
                await answer.take()
        finally:
            answer.close()

    async def begin_another(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with trio.CancelScope(shield=True):
            await has_ended.wait()
        await engine.get(where, "/a/b")

    async def run() -> None:
        try:
            await engine.run()
        finally:
            has_ended.set()

    has_ended = trio.Event()
    engine = open_engine(AgentSource(engine="libcurl"), Allowance(), 16)
    async with open_source(lambda *_: Answer(ok(LARGE))) as source:
        where = Source("2.stor.lab", Endpoint("127.0.0.1", source.port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await nursery.start(go_on)
            await nursery.start(begin_another)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught


@LIBCURL
async def test_a_transfer_that_libcurl_does_not_take_harms_no_other() -> None:
    """As when it lacks memory: nothing is left of it that would be looked at later."""
    import pycurl

    from rebalancer.agent.transfer.sources.curl import CurlEngine

    class Unwilling:
        def __getattr__(self, name: str) -> object:
            return getattr(multi, name)

        def add_handle(self, _curl: object) -> None:
            raise pycurl.error(3, "no memory")

    async with (
        open_source(lambda *_: Answer(ok(SMALL))) as source,
        running("libcurl", source.port, connect_timeout=0.1) as (engine, where),
    ):
        assert await body(engine, where) == SMALL
        assert isinstance(engine, CurlEngine)
        multi, engine._driver._multi = engine._driver._multi, Unwilling()
        with pytest.raises(pycurl.error):
            await engine.get(where, "/a/b")
        engine._driver._multi = multi
        await trio.sleep(0.3)  # while it is judged who keeps silent
        assert await body(engine, where) == SMALL


@pytest.mark.parametrize("name", ENGINES)
async def test_a_process_without_files_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waiting can mend is not the source's fault."""
    where = f"rebalancer.agent.transfer.sources.{'curl' if name == 'libcurl' else 'plain'}"
    monkeypatch.setattr(f"{where}.is_short_of_files", lambda: True)
    async with running(name, 1) as (engine, source):
        with pytest.raises(PullFailure) as told:
            await engine.get(source, "/a/b")
    assert (told.value.is_short, told.value.reason) == (True, reasons.SOURCE_OTHER_ERROR)


@pytest.mark.parametrize("name", ENGINES)
async def test_no_proxy_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of the process says."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with (
        open_source(lambda *_: Answer(ok(SMALL))) as source,
        running(name, source.port) as (engine, where),
    ):
        assert await body(engine, where) == SMALL


ODD_NAMES = [
    "2.stor.lab/x",
    "you@2.stor.lab",
    "2.stor.lab?x",
    "2.stor.lab#x",
    "2.stor.lab\\x",
    "2 .stor.lab",
]
ODD_NAMES += ["2.stor.lab\r\nX: y", "2.stor.lab%00", "[2.stor.lab]x", "\u0662.stor.lab", ""]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_could_mean_two_hosts_is_asked_nothing(name: str) -> None:
    """Else who checks the name and who connects could read it differently."""
    settings = AgentSource(allowed_domains=("lab", "lab\r\nX: y", "lab/x"))
    puller = Puller(None, settings, {})  # type: ignore[arg-type]
    for named in (puller, Puller(None, AgentSource(), {})):  # type: ignore[arg-type]
        with pytest.raises(PullFailure) as told:
            named._source(name)
        assert (told.value.reason, told.value.is_transient) == (reasons.SOURCE_OTHER_ERROR, False)


# --- the choice --------------------------------------------------------------------------------


def test_without_libcurl_the_plain_engine_is_taken_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless the configuration says that it must be libcurl."""
    monkeypatch.setitem(sys.modules, "pycurl", None)
    monkeypatch.delitem(sys.modules, "rebalancer.agent.transfer.sources.curl", raising=False)
    with capture_logs() as lines:
        assert isinstance(open_engine(AgentSource(), Allowance(), 4), PlainEngine)
    assert [line["log_level"] for line in lines] == ["warning"]
    with pytest.raises(ImportError):
        open_engine(AgentSource(engine="libcurl"), Allowance(), 4)


@LIBCURL
def test_a_libcurl_that_is_too_old_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's log, or its refusal to start, says what was expected."""
    import pycurl

    monkeypatch.delattr(pycurl, "MAXAGE_CONN")
    monkeypatch.delitem(sys.modules, "rebalancer.agent.transfer.sources.curl", raising=False)
    with capture_logs() as lines:
        assert isinstance(open_engine(AgentSource(), Allowance(), 4), PlainEngine)
    assert "expected libcurl" in lines[0]["error"]
    with pytest.raises(ConfigError, match="pycurl cannot be loaded: .* expected libcurl"):
        check_engine(AgentSource(engine="libcurl"))
    check_engine(AgentSource())


def test_an_agent_that_must_use_libcurl_does_not_start_on_one_that_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would come up, and its fetchers would end at once, again and again."""
    (tmp_path / "pycurl.py").write_text("raise ImportError('libcurl.so.4: no such file')")
    monkeypatch.delitem(sys.modules, "pycurl", raising=False)
    monkeypatch.delitem(sys.modules, "rebalancer.agent.transfer.sources.curl", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"pycurl cannot be loaded: libcurl\.so\.4"):
        check_engine(AgentSource(engine="libcurl"))


@LIBCURL
def test_with_libcurl_it_is_taken_and_said() -> None:
    """With the versions that an operator would be asked for."""
    from rebalancer.agent.transfer.sources.curl import CurlEngine

    with capture_logs() as lines:
        assert type(open_engine(AgentSource(), Allowance(), 4)).__name__ == CurlEngine.__name__
        assert isinstance(open_engine(AgentSource(engine="plain"), Allowance(), 4), PlainEngine)
    assert "libcurl/" in lines[0]["version"]
    assert (lines[1]["log_level"], "plain engine" in lines[1]["event"]) == ("info", True)
