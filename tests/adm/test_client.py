"""The operator's side of the manager's API, over real sockets."""

import json
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.adm import watch
from rebalancer.adm.client import OPEN_END, Access, AdmError, Manager, open_manager, read_url
from rebalancer.adm.report import save_report
from rebalancer.adm.watch import Look, follow
from rebalancer.api.jobs import JobShown
from rebalancer.api.objects import Object
from rebalancer.peers.names import Endpoint
from tests.adm.scripted import scripted
from tests.adm.test_progress import running, shown
from tests.peers.test_http import answer

ONE = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
TWO = "0fd6aaaa-f29d-4da9-953f-48f1a09f76b5"
JOBS = json.dumps([{"id": job_id, "action": "Evacuate", "state": "Setup"} for job_id in (ONE, TWO)])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost", ("http", Endpoint("localhost", 80))),
        ("http://localhost:8880/", ("http", Endpoint("localhost", 8880))),
        ("localhost:8880", ("http", Endpoint("localhost", 8880))),
        ("https://manager.lab", ("https", Endpoint("manager.lab", 443))),
        ("https://[::1]:8443", ("https", Endpoint("::1", 8443))),
    ],
)
def test_where_a_manager_can_be(url: str, expected: tuple[str, Endpoint]) -> None:
    """The scheme may be left out, and the port of either scheme."""
    assert read_url(url) == expected


@pytest.mark.parametrize("url", ["ftp://a", "", "http://", "http://a/jobs", "http://a:b", "x@y"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="expected"):
        read_url(url)


async def test_https_to_a_port_without_tls_says_so() -> None:
    """The words of TLS itself are a riddle."""

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, refuse, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        async with open_manager(Access(f"https://127.0.0.1:{port}")) as manager:
            with pytest.raises(AdmError, match="it does not speak TLS: try http://"):
                await manager.jobs()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("text", ["0fd63", "0FD630F1"])
async def test_an_id_can_be_cut(text: str) -> None:
    """As long as it is one job's only, in either case."""
    async with scripted(jobs=JOBS) as (_, manager):
        assert await manager.find(text) == ONE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0fd6", f"may be any of {ONE} .Setup., {TWO} .Setup."),
        ("0fd7", "no job's id begins with '0fd7'"),
        ("0fd", "at least its first 4 characters"),
    ],
)
async def test_an_id_that_is_cut_too_short_is_refused(text: str, message: str) -> None:
    """With the jobs that it could be."""
    async with scripted(jobs=JOBS) as (_, manager):
        with pytest.raises(AdmError, match=message):
            await manager.find(text)


async def test_a_whole_id_needs_no_list() -> None:
    """It costs one request, not two, and the manager says what it knows of it."""
    async with scripted() as (script, manager):
        assert await manager.find(ONE) == ONE
        assert script.asked == []


async def test_a_token_goes_with_every_request(tmp_path: Path) -> None:
    """And a manager that wants one is told apart."""
    (tmp_path / "token").write_text("s3cret\n")

    def unauthorized() -> bytes:
        return answer(401, "a valid token is required")

    async with scripted(jobs="[]", ping=unauthorized) as (script, without):
        with pytest.raises(AdmError, match=r"401\); no token was sent: see --token-file"):
            await without.ask("GET", "/ping")
        access = Access(script.url, str(tmp_path / "token"))
        async with open_manager(access) as manager:
            await manager.ask("GET", "/jobs")
            with pytest.raises(AdmError, match=r"401\); the token that was sent is wrong: see"):
                await manager.ask("GET", "/ping")
    assert script.headers.count("authorization: Bearer s3cret") == 2


async def test_objects_come_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty page is not the end; a limit is kept, also across pages."""
    monkeypatch.setattr("rebalancer.adm.client.PAGE", 2)
    base = f"jobs/{ONE}/objects?status=error&reason=a+b&"
    fields = {field.name: None for field in attrs.fields(Object)} | {
        "status": "error",
        "attempts": 0,
    }

    def page(after: int | None, *ids: str) -> dict[str, Any]:
        return {"objects": [{**fields, "id": one} for one in ids], "after": after}

    pages = {
        f"{base}after=0&limit=2": page(7, "1", "2"),
        f"{base}after=7&limit=2": page(9),
        f"{base}after=9&limit=2": page(None, "3", "4"),
        f"{base}after=7&limit=1": page(8, "3"),
    }
    async with scripted(**{path: json.dumps(page) for path, page in pages.items()}) as (_, manager):

        async def listed(limit: int | None) -> str:
            found = manager.objects(ONE, status="error", reason="a b", limit=limit)
            return " ".join([one.id async for page in found for one in page.read().objects])

        assert await listed(None) == "1 2 3 4"
        assert await listed(3) == "1 2 3"
        assert await listed(2) == "1 2"


async def test_a_newer_manager_is_asked_too() -> None:
    """What only it has is left out of what is read, and stays in what scripts get."""
    newer = running(1, 2, colour="green", waiting=[])
    newer["results"]["Archived"] = 7
    async with scripted(**{f"jobs/{ONE}": json.dumps(newer)}) as (_, manager):
        body = await manager.job(ONE)

    assert body.json == newer
    assert body.read() == shown(1, 2)


async def test_an_answer_of_something_else_is_told_with_what_is_wrong() -> None:
    """Such as that of another service: no traceback, and no guess."""
    async with scripted(**{f"jobs/{ONE}": '{"state": 5}', "jobs": '{"no": "list"}'}) as (
        _,
        manager,
    ):
        body = await manager.job(ONE)
        with pytest.raises(AdmError, match=r"answer cannot be read: .*state"):
            body.read()
        with pytest.raises(AdmError, match="answer cannot be read: expected a list"):
            await manager.jobs()


REPORT = b'{"type": "job"}\n{"type": "object"}\n{"type": "end", "lines": 1}\n'


def cut_off() -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + REPORT[:16] + b"\r\n"


async def test_where_nothing_listens_is_said_how_to_name_the_manager() -> None:
    """A laptop has none at the default address."""
    with pytest.raises(AdmError, match="; --url, or REBALANCER_URL in the environment, says where"):
        async with open_manager(Access("http://127.0.0.1:1")) as manager:
            await manager.ask("GET", "/jobs")


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (404, "", "no manager has answered"),
        (405, "<html>", "no manager has answered"),
        (404, '{"message": "The requested URL was not found on the server."}', "no manager"),
        (404, "Could not find job UUID", "^Could not find job UUID"),
        (400, "", "^no message"),
    ],
)
async def test_an_address_where_no_manager_is_is_said_to_be_none(
    code: int, text: str, said: str
) -> None:
    """What a web server or an agent says of a path is of no use to who mistook it."""
    async with scripted(jobs=lambda: answer(code, text)) as (_, manager):
        with pytest.raises(AdmError, match=said) as caught:
            await manager.jobs()
    assert str(caught.value).endswith("see --url") == ("no manager" in said)


@pytest.mark.parametrize(
    ("method", "body", "is_open"),
    [("GET", None, False), ("POST", {"dry_run": True}, False), ("POST", {}, True)],
)
async def test_of_a_change_without_an_answer_is_said_that_its_end_is_open(
    method: str, body: Any, is_open: bool
) -> None:
    """The manager may have made the job, and lost the connection since."""
    async with scripted(jobs=cut_off) as (_, manager):
        with pytest.raises(AdmError, match="no answer from the manager") as caught:
            await manager.ask(method, "/jobs", body)
    assert (OPEN_END in str(caught.value)) == is_open
    assert not manager.without_answer


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (cut_off, "no answer from the manager: GET 127.0.0.1/jobs"),
        (lambda: answer(200, REPORT[:-20].decode()), "the report broke off after 2 lines"),
        (lambda: answer(400, "Could not find it"), r"Could not find it \(status 400\)"),
    ],
)
async def test_a_report_that_breaks_off_is_an_error(
    reply: Callable[[], bytes], message: str
) -> None:
    """Whether the connection tells or not."""
    async with scripted(**{f"jobs/{ONE}/report": reply}) as (_, manager):
        with pytest.raises(AdmError, match=message):
            await save_report(manager, ONE, BytesIO())


async def test_a_whole_report_is_passed_on_as_it_is() -> None:
    """Byte for byte."""
    async with scripted(**{f"jobs/{ONE}/report": REPORT.decode()}) as (_, manager):
        out = BytesIO()
        assert (await save_report(manager, ONE, out)).lines == 3
    assert out.getvalue() == REPORT


# --- watching ------------------------------------------------------------------------------


def views(*replies: Any) -> Callable[[], bytes]:
    """One answer after the other."""
    left = list(replies)

    def reply() -> bytes:
        one = left.pop(0)
        return answer(*one) if isinstance(one, tuple) else answer(200, json.dumps(one))

    return reply


async def watched(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> tuple[JobShown, list[Look]]:
    monkeypatch.setattr(watch, "WATCH_S", 0.0)
    looks: list[Look] = []
    with trio.fail_after(10):
        return await follow(manager, ONE, looks.append), looks


async def test_a_manager_without_summaries_is_asked_for_one_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deployed one."""
    done = {**running(2, 2), "state": "Complete"}
    replies = views(running(1, 2), running(1, 2), done)
    async with scripted(**{f"jobs/{ONE}": replies}) as (script, manager):
        view, looks = await watched(manager, monkeypatch)

    assert view == shown(2, 2, state="Complete")
    assert [look.glance.done for look in looks] == [1, 1, 2]
    assert [path.endswith("/summary") for path in script.asked].count(True) == 1


async def test_a_manager_that_is_away_for_a_while_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is shown, with what was last known."""
    done = {**running(2, 2), "state": "Stopped"}
    replies = views(running(1, 2), (503, "starting"), (503, "starting"), done)
    async with scripted(**{f"jobs/{ONE}": replies}) as (_, manager):
        view, looks = await watched(manager, monkeypatch)

    assert view.state == "Stopped"
    assert [look.glance.phase for look in looks] == ["running", watch.AWAY, watch.AWAY, "stopped"]
    assert looks[2].glance.done == 1


@pytest.mark.parametrize("refused", [(400, "Could not find job UUID"), (401, "a token")])
async def test_a_job_that_is_gone_is_not_waited_for(
    refused: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is an answer."""
    async with scripted(**{f"jobs/{ONE}": views(running(1, 2), refused)}) as (_, manager):
        with pytest.raises(AdmError, match=refused[1]):
            await watched(manager, monkeypatch)
