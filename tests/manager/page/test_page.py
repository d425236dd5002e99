"""The page at `/`: what is shown to whom, without a script, on real files of jobs."""

import re
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest
import trio
import trio.testing

from rebalancer import daemon
from rebalancer.errors import StoreBusy
from rebalancer.manager.page import streams
from rebalancer.manager.page.answers import Answers
from rebalancer.manager.page.app import HEADERS, Page
from rebalancer.manager.page.front import Front
from rebalancer.manager.page.routes import make_page
from rebalancer.manager.page.templating import static_files
from rebalancer.manager.store import views
from rebalancer.serving.app import Request
from rebalancer.serving.bounds import API_LEAST
from rebalancer.tokens import Token
from tests.manager.http.test_api import Rig, open_rig, refusing_agents
from tests.web import Client, Reply

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "host": "here"}
NOWHERE = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
#: What nobody may name an object or a node, and what users do.
HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{7*7}}&amp;\u202e"""


@attrs.frozen
class Browser:
    """A browser without scripts, and the manager that it looks at."""

    rig: Rig
    client: Client
    page: Page

    async def get(self, target: str, **headers: str) -> Reply:
        return await self.client.get(target, headers={**HTML, **headers})

    async def text(self, target: str, **headers: str) -> str:
        reply = await self.get(target, **headers)
        assert reply.status_code == 200, reply.content
        return reply.content.decode()

    async def send(self, target: str, fields: dict[str, str], **headers: str) -> Reply:
        from_here = {"origin": "http://here", **HTML, **headers}
        return await self.client.post(target, data=urlencode(fields), headers=from_here)


@asynccontextmanager
async def open_browser(
    folder: Path, *, token: Token | None = None, **options: Any
) -> AsyncIterator[Browser]:
    """A browser in front of a manager; with a `token` the API wants it."""
    async with open_rig(folder, **options) as rig:
        page = make_page(rig.jobs, token or Token())
        daemon.require_token(rig.app, token or Token())
        yield Browser(rig, Client(Front(api=rig.app, page=page)), page)


async def ended(browser: Browser, **params: Any) -> str:
    """A job whose objects were all refused, when it has ended."""
    job_id = await browser.rig.create(**params)
    await browser.rig.reach(job_id, "Complete")
    return job_id


async def test_browsers_get_a_page_and_programs_what_they_got_before(tmp_path: Path) -> None:
    """`/` is HTML only for who names HTML; the API's routes never are."""
    async with open_browser(tmp_path) as browser:
        page = await browser.text("/")
        told = [await browser.client.get("/", headers=h) for h in ({}, {"accept": "*/*"})]
        before = await browser.rig.client.get("/")
        jobs = await browser.get("/jobs")
        posted = await browser.client.post("/", headers=HTML)

    assert "<h1>Jobs</h1>" in page
    assert [reply.status_code for reply in (*told, posted)] == [404, 404, 404]
    assert {reply.content for reply in told} == {before.content}
    assert (jobs.content_type, jobs.content) == ("application/json", b"[]")


async def test_a_job_is_shown_in_numbers_without_a_script(tmp_path: Path) -> None:
    """On the list and on its own page: counts, reasons, scans, and what can be done."""
    async with open_browser(tmp_path, objects=3, agents=refusing_agents()) as browser:
        job_id = await ended(browser)
        listed, shown = await browser.text("/"), await browser.text(f"/page/jobs/{job_id}")

    assert f'href="/page/jobs/{job_id}"' in listed
    assert "evacuate 1.stor.lab" in listed
    assert "100.0" in listed
    assert 'class="verdict left">not empty<' in listed
    assert '<h2 id="left">What is left</h2>' in shown
    assert re.search(r'href="/page/jobs/[\w-]+/objects\?status=skipped&amp;reason=\w+">3<', shown)
    assert "<td>discovery</td>" in shown
    assert "<td>final scan 1</td>" in shown
    assert "/change" not in shown  # it has ended
    assert 'http-equiv="refresh"' in listed


async def test_a_file_that_somebody_holds_hides_no_other_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list says so in the job's line."""
    read = views.read_job
    async with open_browser(tmp_path) as browser:
        held, other = await ended(browser), await ended(browser)

        def read_others(path: Path) -> views.Overview:
            if path.stem == held:
                raise StoreBusy("somebody has it")
            return read(path)

        monkeypatch.setattr(views, "read_job", read_others)
        listed = await browser.text("/")
        alone = await browser.get(f"/page/jobs/{held}")

    assert f"/page/jobs/{held}" in listed
    assert f"/page/jobs/{other}" in listed
    assert "somebody has it" in listed
    assert alone.status_code == 503
    assert "Not now" in alone.content.decode()


@pytest.mark.parametrize(
    "target",
    ["/", f"/page/jobs/{NOWHERE}", "/page/nonsense", "/page/login", "/page/static/page.css"],
)
async def test_every_answer_has_the_policy(tmp_path: Path, target: str) -> None:
    """Errors and files too, so that nothing can be run or framed that is not ours."""
    async with open_browser(tmp_path) as browser:
        replies = [await browser.get(target), await browser.send(target, {})]

    for reply in replies:
        if target != "/" or reply is replies[0]:
            expected = {**HEADERS, "Cache-Control": reply.headers["Cache-Control"]}
            assert expected.items() <= reply.headers.items()
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


async def test_what_is_not_there_is_said_on_a_page(tmp_path: Path) -> None:
    """An unknown job, an id that is none, a page and a file that do not exist."""
    async with open_browser(tmp_path) as browser:
        names = (f"jobs/{NOWHERE}", "jobs/x", "nonsense", "static/../app.py", "static/no.css")
        replies = [await browser.get(f"/page/{name}") for name in names]

    assert {reply.status_code for reply in replies} == {404}
    assert all("<h1>Not found</h1>" in reply.content.decode() for reply in replies)


async def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    """Keys, messages and names of nodes, each with all that HTML takes for orders."""
    async with open_browser(tmp_path, objects=2, agents=refusing_agents()) as browser:
        job_id = await ended(browser)
        file, folder = tmp_path / "db" / f"{job_id}.sqlite", tmp_path / "db"
        with closing(sqlite3.connect(file, isolation_level=None)) as db:
            db.execute("UPDATE records SET key = ?", (HOSTILE,))
            db.execute("UPDATE counters SET reason = reason || ? WHERE objects > 0", (HOSTILE,))
            db.execute("INSERT INTO warnings VALUES (?, ?)", (HOSTILE, HOSTILE))
            db.execute("UPDATE destinations SET datacenter = ?, shark = shark || ?", (HOSTILE,) * 2)
            db.execute("UPDATE scans SET id_column = id_column || round || ?", (HOSTILE,))
        with closing(sqlite3.connect(folder / "rebalancer.sqlite", isolation_level=None)) as db:
            db.execute("UPDATE jobs SET error = ?, created = ?", (HOSTILE, HOSTILE))
        targets = ("/", f"/page/jobs/{job_id}", f"/page/jobs/{job_id}/objects")
        pages = [await browser.text(target) for target in targets]
        pages.append((await browser.get(f"/page/{HOSTILE}")).content.decode())
        pages.append((await browser.get(f"/page/jobs/{HOSTILE}")).content.decode())

    for text in pages:
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "49" not in re.findall(r"&gt;(\d+)&amp;", text)
    assert sum(text.count("&lt;script&gt;alert(1)") for text in pages) > 5


async def test_objects_are_listed_by_status_and_reason_a_page_at_a_time(tmp_path: Path) -> None:
    """A form filters them, and sends what was not chosen as empty; the next page is a link."""
    async with open_browser(tmp_path, objects=3, agents=refusing_agents()) as browser:
        job_id = await ended(browser)
        url = f"/page/jobs/{job_id}/objects"
        first = await browser.text(f"{url}?status=skipped&reason=&limit=2")
        (onward,) = re.findall(r'<a rel="next" href="([^"]+)"', first)
        second = await browser.text(onward.replace("&amp;", "&"))
        none = await browser.text(f"{url}?status=complete")
        wrong = await browser.get(f"{url}?status=nonsense")

    keys = [re.findall(r"<bdi>(/account/stor/\d)</bdi>", text) for text in (first, second, none)]
    assert [len(found) for found in keys] == [2, 1, 0]
    assert set(keys[0]).isdisjoint(keys[1])
    assert '<option value="skipped" selected>' in second
    assert "There is no such object" in none
    assert wrong.status_code == 400


def test_nothing_is_written_into_a_page_as_a_script_or_a_style() -> None:
    """The policy would have a browser leave it out."""
    folder = Path(__file__).parents[3] / "rebalancer" / "manager" / "page" / "templates"
    for path in folder.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", text), path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text)), path


async def test_static_files_are_kept_until_they_change(tmp_path: Path) -> None:
    """A browser asks once for each; an address of an earlier version is answered, and not kept."""
    async with open_browser(tmp_path) as browser:
        page = await browser.text("/")
        (url,) = re.findall(r'href="(/page/static/page\.css\?v=\w+)"', page)
        kept, old = await browser.get(url), await browser.get(url[:-1] + "x")

    assert kept.content == old.content == static_files()["page.css"].content
    assert "immutable" in kept.headers["Cache-Control"]
    assert old.headers["Cache-Control"] == "no-store"
    assert "uplot/uPlot.iife.min.js" in static_files()


async def test_a_node_is_checked_on_a_page_that_grows(tmp_path: Path) -> None:
    """It asks for the name of the node, and says what names it and what to do."""
    async with open_browser(tmp_path, objects=3) as browser:
        asked = await browser.text("/page/nodes")
        found = await browser.text("/page/nodes?check=1.stor")
        empty = await browser.text("/page/nodes?check=20.stor")
        wrong = await browser.get(f"/page/nodes?{urlencode({'check': HOSTILE})}")
        unknown = await browser.get("/page/nodes?check=77.stor")
        job_id = await ended(browser, from_shark="20.stor")
        linked = await browser.text(f"/page/jobs/{job_id}")

    assert '<label for="node">' in asked
    assert "Safe to remove: no, because of: 3 objects" in found
    assert "<bdi>/account/stor/1</bdi>" in found
    assert "rebalancer adm job create evacuate --shark 1.stor" in found
    assert found.rstrip().endswith("</html>")
    assert "Safe to remove: yes" in empty
    assert wrong.status_code == 400
    assert "<script>alert" not in wrong.content.decode()
    assert unknown.status_code == 400
    assert "SharkNotFound: 77.stor.lab" in unknown.content.decode()
    assert re.search('<input id="node".* value="77.stor">', unknown.content.decode())
    assert 'href="/page/nodes?check=20.stor.lab"' in linked


# --- changes ---------------------------------------------------------------------------------


async def test_a_job_is_steered_by_forms_after_a_question(tmp_path: Path) -> None:
    """Each change is asked about first; nothing is changed by a look."""
    begin = trio.Event()
    agents = refusing_agents(begin)
    async with open_browser(tmp_path, objects=3, agents=agents) as browser:
        job_id = await browser.rig.create()
        job = await browser.rig.at_work(job_id)
        url = f"/page/jobs/{job_id}"
        shown = await browser.text(url)
        wanted = {"action": "set_metadata_threads", "value": "7"}
        question = await browser.text(f"{url}/change?{urlencode(wanted)}")
        before = job.config.options.max_metadata_update_threads
        changed = await browser.send(f"{url}/change", wanted)
        after = job.config.options.max_metadata_update_threads
        limited = await browser.send(f"{url}/change", {"action": "set_bandwidth", "value": "20M"})
        bandwidth = browser.rig.jobs.queries.limits(browser.rig.jobs.running[job_id].row)
        paused = await browser.send(f"{url}/change", {"action": "pause", "value": ""})
        told = await browser.text(paused.headers["Location"])
        view = await browser.rig.get(job_id)
        await browser.send(f"{url}/change", {"action": "cancel"})
        last = await browser.rig.get(job_id)

    assert 'name="action" value="pause"' in shown
    assert 'value="set_bandwidth"' in shown
    assert "Change a limit of this job to 7?" in question
    assert (before, after) == (10, 7)
    assert (changed.status_code, limited.status_code) == (303, 303)
    assert bandwidth is not None
    assert bandwidth["bandwidth_bytes_per_s"] == 20_000_000
    assert (view["state"], view["wish"]) == ("Stopped", "pause")
    assert "The job is paused." in told
    assert 'value="resume"' in told
    assert 'value="set_bandwidth"' in told
    assert last["wish"] == "cancel"


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({}, 422, "action"),
        ({"action": "explode"}, 422, "action"),
        ({"action": "set_bandwidth", "value": "20Mb"}, 400, "bytes a second"),
        ({"action": "set_bandwidth", "value": ""}, 400, "bytes a second"),
        ({"action": "set_max_sharks", "value": "0"}, 400, "below 1"),
        ({"action": "set_max_sharks", "value": "none"}, 422, "whole number"),
        ({"action": "pause"}, 409, "it cannot be paused"),
    ],
)
async def test_what_cannot_be_changed_is_said(
    tmp_path: Path, fields: dict[str, str], status: int, text: str
) -> None:
    """By the same words as the API's."""
    async with open_browser(tmp_path) as browser:
        job_id = await ended(browser)
        reply = await browser.send(f"/page/jobs/{job_id}/change", fields)
        nowhere = await browser.send(f"/page/jobs/{NOWHERE}/change", {"action": "pause"})

    assert reply.status_code == status
    assert text in reply.content.decode()
    assert nowhere.status_code == 404


async def test_another_sites_page_steers_nothing(tmp_path: Path) -> None:
    """Neither by the page's forms nor by the API; a program, which names no site, does."""
    async with open_browser(tmp_path) as browser:
        body = '{"action": "evacuate", "params": {"from_shark": "1.stor"}}'
        foreign = {"origin": "http://elsewhere", "host": "here"}
        created = await browser.client.post("/jobs", data=body, headers=foreign)
        job_id = await ended(browser)
        form = await browser.send(
            f"/page/jobs/{job_id}/change", {"action": "cancel"}, origin="http://elsewhere"
        )
        jobs = await (await browser.client.get("/jobs", headers=foreign)).get_json()

    assert (created.status_code, form.status_code) == (403, 403)
    assert "another site" in form.content.decode()
    assert len(jobs) == 1


# --- the token -------------------------------------------------------------------------------


@pytest.fixture
def token(tmp_path: Path) -> Token:
    """The token of the API, in its file."""
    (tmp_path / "token").write_text("secret\n")
    return Token.of(str(tmp_path / "token"))


async def test_with_a_token_nobody_sees_or_steers_without_it(tmp_path: Path, token: Token) -> None:
    """Who asks for a page is asked for the token; what was asked for comes after it."""
    async with open_browser(tmp_path, token=token) as browser:
        asked = await browser.get(f"/page/jobs/{NOWHERE}?done=x")
        replies = [await browser.get("/"), await browser.get("/page/events")]
        replies.append(await browser.send(f"/page/jobs/{NOWHERE}/change", {"action": "pause"}))
        wrong = await browser.send("/page/login", {"token": "wrong", "next": "/page/x"})
        right = await browser.send("/page/login", {"token": "secret", "next": "/page/x?y=1"})
        cookie = right.headers["Set-Cookie"].partition(";")[0]
        shown = await browser.text("/", cookie=cookie)
        as_program = await browser.text("/", authorization="Bearer secret")
        api = await browser.get("/jobs", cookie=cookie)
        out = await browser.send("/page/logout", {}, cookie=cookie)
        token.value = "renewed"
        late = await browser.get("/", cookie=cookie)

    assert asked.status_code == 401
    assert f'name="next" value="/page/jobs/{NOWHERE}?done=x"' in asked.content.decode()
    assert [reply.status_code for reply in replies] == [401, 401, 401]
    assert (wrong.status_code, "Set-Cookie" in wrong.headers) == (401, False)
    assert "This is not the token." in wrong.content.decode()
    assert (right.status_code, right.headers["Location"]) == (303, "/page/x?y=1")
    assert "Log out" in shown
    assert "<h1>Jobs</h1>" in as_program
    assert api.status_code == 401  # a form of another program cannot use what a browser has
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    assert late.status_code == 401
    assert "secret" not in cookie


@pytest.mark.parametrize(
    "target",
    [
        "//elsewhere/",
        "https://elsewhere",
        "/page//x",
        "/page/\\x",
        "/page/x y",
        "/page/\xe9",
        "/page/x\r\nSet-Cookie: a=b",
    ],
)
async def test_a_login_leads_nowhere_else(tmp_path: Path, token: Token, target: str) -> None:
    """A link that somebody was sent cannot name another site for after the login."""
    async with open_browser(tmp_path, token=token) as browser:
        reply = await browser.send("/page/login", {"token": "secret", "next": target})

    assert reply.headers["Location"] == "/"


async def test_a_form_without_the_token_is_not_even_received(tmp_path: Path, token: Token) -> None:
    """As for the API: the server asks before it takes a body."""
    async with open_browser(tmp_path, token=token) as browser:
        app = browser.client.app
        told = {
            path: app.admits(Request("POST", path))
            for path in ("/jobs", "/page/logout", "/page/jobs/x/change", "/page/login")
        }
        is_foreign = Request("POST", "/page/login", headers={"sec-fetch-site": "cross-site"})

        assert not app.admits(is_foreign)
    assert list(told.values()) == [False, False, False, True]


# --- streams ---------------------------------------------------------------------------------


async def pieces(browser: Browser, target: str) -> AsyncIterator[str]:
    request = Request("GET", target, headers=HTML)
    answer = await browser.client.app.begin(request)[1]
    assert not isinstance(answer.body, bytes), answer.body
    async for piece in answer.body:
        yield piece.decode()


async def test_a_stream_tells_of_a_job_until_it_has_ended(tmp_path: Path) -> None:
    """Its last look is the job as it ended."""
    async with open_browser(tmp_path, objects=2, agents=refusing_agents()) as browser:
        job_id = await browser.rig.create()
        with trio.fail_after(60):
            told = [piece async for piece in pieces(browser, f"/page/jobs/{job_id}/events")]

    assert told[-1].startswith("event: end\n")
    assert told[0].startswith("event: look\ndata: {")
    assert "<h2" in told[-2]
    assert '"samples"' in told[-2]


async def test_streams_are_few_and_end_with_the_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more than there may be is refused, and one that ends makes room."""
    monkeypatch.setattr(streams, "MOST_STREAMS", 1)
    async with open_browser(tmp_path) as browser:
        first = pieces(browser, "/page/events")
        await anext(first)
        refused = await browser.get("/page/events")
        browser.page.stopping.set()
        with trio.fail_after(1):
            rest = [piece async for piece in first]
        again = await browser.get("/page/events")

    assert (refused.status_code, again.status_code) == (503, 200)
    assert rest == []


async def test_a_stream_of_a_removed_job_ends(tmp_path: Path) -> None:
    """And says so, so that a browser does not ask again for ever."""
    async with open_browser(tmp_path) as browser:
        answers = Answers(browser.rig.jobs)
        look = streams.look_at_job(answers, NOWHERE)
        stream = streams.Streams(trio.Event()).run(NOWHERE, look)
        told = [piece async for piece in stream]

    assert told == [b"event: end\ndata: {}\n\n"]


async def test_browsers_share_their_looks(autojump_clock: trio.testing.MockClock) -> None:
    """Many who look at the same cost the manager what one does."""
    taken = 0

    async def look() -> streams.Event:
        nonlocal taken
        await trio.sleep(0.1)
        taken += 1
        return streams.Event(str(taken))

    all_streams = streams.Streams(trio.Event())
    many = [all_streams.run("here", look) for _ in range(8)]
    for count in range(1, 4):
        told = set[bytes]()

        async def next_of(stream: AsyncGenerator[bytes, None], told: set[bytes] = told) -> None:
            told.add(await anext(stream))

        async with trio.open_nursery() as nursery:
            for stream in many:
                nursery.start_soon(next_of, stream)
        assert (taken, len(told)) == (count, 1)
    for stream in many:
        await stream.aclose()

    assert all_streams.open == 0


def test_streams_leave_room_for_the_api() -> None:
    """Also where the process may have few files: then the API has few connections."""
    assert streams.MOST_STREAMS <= API_LEAST / 2
