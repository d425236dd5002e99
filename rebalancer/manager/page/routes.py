"""This module has the routes of the page at `/`: they read forms, ask, and fill templates."""

import time
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import parse_qsl, urlencode

from quart import Response, request

from rebalancer import __version__
from rebalancer.bodies import whole_number
from rebalancer.errors import BadRequest, Conflict, NotFound
from rebalancer.manager.http.requests import read_objects_query
from rebalancer.manager.jobs.service import Jobs
from rebalancer.manager.page import shown
from rebalancer.manager.page.answers import Answers, Values
from rebalancer.manager.page.app import HTML, Page, local_target
from rebalancer.manager.page.checks import check_page
from rebalancer.manager.page.session import make_session, set_cookie
from rebalancer.manager.page.streams import (
    CONTENT_TYPE,
    Streams,
    look_at_job,
    look_at_list,
)
from rebalancer.manager.page.templating import render, static_files
from rebalancer.tokens import Token

#: A form is a few hundred bytes, of a few fields.
MAX_BODY_BYTES, MAX_FIELDS = 16 << 10, 16
#: Seconds for which a browser keeps a static file, whose address changes with it.
KEPT_S = 365 * 86400


def make_page(jobs: Jobs, token: Token, *, is_secure: bool = False) -> Page:
    """Return the page's application, which has these routes."""
    program = f"rebalancer-manager {__version__}"
    page = Page(program, MAX_BODY_BYTES, token=token, is_secure=is_secure)
    _route_pages(page, Answers(jobs))
    _route_changes(page, jobs, Answers(jobs))
    _route_logins(page)
    _route_streams(page, Answers(jobs))
    return page


def _route_pages(page: Page, answers: Answers) -> None:
    quart = page.quart

    @quart.get("/")
    @quart.get("/page")
    @quart.get("/page/")
    async def list_jobs() -> Response:
        at = _at()
        events = f"/page/events?from={at}"
        return _html(page, "jobs.html", {**await answers.list_jobs(at), "events": events})

    @quart.get("/page/jobs/<job_id>")
    async def show_job(job_id: str) -> Response:
        done = shown.DONE.get(request.args.get("done", ""), "")
        values = await answers.job(job_id)
        events = {} if values["job"].has_ended else {"events": f"{values['job'].line.url}/events"}
        return _html(page, "job.html", {**values, **events, "done": done})

    @quart.get("/page/jobs/<job_id>/objects")
    async def list_objects(job_id: str) -> Response:
        # A form sends a field that nothing was chosen in as well.
        given = [(name, value) for name, value in request.args.items(multi=True) if value]
        query = read_objects_query(given)
        return _html(page, "objects.html", await answers.objects(job_id, query))

    @quart.get("/page/nodes")
    async def check_node() -> Response:
        if not (node := request.args.get("check", "").strip()):
            return _html(page, "node.html", {"node": ""})
        answers.jobs.resources.metrics.request("check_node")
        try:
            lines = await answers.jobs.checks.begin(node, None)
        except (BadRequest, Conflict) as exc:
            values = {"node": node, "message": str(exc)}
            return _html(page, "node.html", values, exc.status)
        return Response(check_page(node, lines, _frame(page)), content_type=HTML)

    @quart.get("/page/static/<path:name>")
    async def static(name: str) -> Response:
        if (file := static_files().get(name)) is None:
            raise NotFound(f"There is no file {name}")
        kept = f"public, max-age={KEPT_S}, immutable"
        headers = {"Cache-Control": kept} if request.args.get("v") == file.tag else {}
        return Response(file.content, content_type=file.content_type, headers=headers)


def _route_changes(page: Page, jobs: Jobs, answers: Answers) -> None:
    quart = page.quart

    @quart.get("/page/jobs/<job_id>/change")
    async def ask_change(job_id: str) -> Response:
        action, value = request.args.get("action", ""), request.args.get("value", "")
        asked = shown.change_asked(shown.read_asked(action, value))
        line = await answers.line(job_id)
        values = {"line": line, "action": action, "value": value, "asked": asked}
        return _html(page, "change.html", values)

    @quart.post("/page/jobs/<job_id>/change")
    async def change(job_id: str) -> Response:
        form = await _form()
        action = form.get("action", "")
        wanted = shown.read_asked(action, form.get("value", ""))
        line = await answers.line(job_id)
        jobs.resources.metrics.request("update_job")
        await jobs.change(line.id, wanted)
        return _see_other(f"{line.url}?{urlencode({'done': action})}")


def _route_logins(page: Page) -> None:
    quart = page.quart

    @quart.get("/page/login")
    async def ask_token() -> Response:
        return _html(page, "login.html", {"message": "", "next": "/"})

    @quart.post("/page/login")
    async def log_in() -> Response:
        form = await _form()
        target = local_target(form.get("next", "/"))
        token = page.token
        if token.value is None:
            return _see_other(target)
        if not token.is_borne_by({"authorization": f"Bearer {form.get('token', '')}"}):
            values = {"message": "This is not the token.", "next": target}
            return _html(page, "login.html", values, 401)
        return _see_other(target, _session(page, token.value))

    @quart.post("/page/logout")
    async def log_out() -> Response:
        return _see_other("/", set_cookie("", is_secure=page.is_secure))


def _route_streams(page: Page, answers: Answers) -> None:
    quart, streams = page.quart, Streams(page.stopping)

    def stream(pieces: AsyncGenerator[bytes, None]) -> Response:
        streams.check_room()
        # A proxy on the way is asked to hold nothing back.
        headers = {"X-Accel-Buffering": "no"}
        return Response(pieces, content_type=CONTENT_TYPE, headers=headers)

    @quart.get("/page/events")
    async def follow_jobs() -> Response:
        at = _at()
        return stream(streams.run(f"from {at}", look_at_list(answers, at)))

    @quart.get("/page/jobs/<job_id>/events")
    async def follow_job(job_id: str) -> Response:
        known = (await answers.line(job_id)).id
        look = look_at_job(answers, known)
        return stream(streams.run(known, look, answers.samples(known)))


def _at() -> int:
    return whole_number("from", request.args.get("from", "0"), 0, 1 << 31)


def _html(page: Page, name: str, values: Values, status: int = 200) -> Response:
    return Response(render(name, {**_frame(page), **values}), status, content_type=HTML)


def _frame(page: Page) -> Values:
    """Return what every page shows."""
    return {"has_token": page.token.value is not None and page.is_logged_in(_headers())}


def _headers() -> Mapping[str, str]:
    return {name.lower(): value for name, value in request.headers}


def _see_other(target: str, cookie: str = "") -> Response:
    headers = {"Location": target, **({"Set-Cookie": cookie} if cookie else {})}
    return Response("", 303, headers, content_type=HTML)


async def _form() -> dict[str, str]:
    """Return the fields of a form, the first of each name.

    Raises:
      BadRequest: it is no form.
    """
    try:
        text = (await request.body).decode()
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as exc:
        raise BadRequest(f"not a form: {exc}") from None
    return dict(reversed(pairs))


def _session(page: Page, token: str) -> str:
    return set_cookie(make_session(token, time.time()), is_secure=page.is_secure)
