"""This module has the manager's routes: they parse, call `jobs` and render.

Texts and codes are the predecessor's.
"""

import json
from collections.abc import Callable
from typing import Any

from quart import Quart, Response, request

from rebalancer import __version__
from rebalancer.api.imports import ImportJob, ListImports
from rebalancer.api.jobs import Deleted
from rebalancer.api.status import Ping
from rebalancer.converter import unstructure
from rebalancer.daemon import body_json
from rebalancer.errors import BadRequest, Unprocessable
from rebalancer.manager.http import render
from rebalancer.manager.http.lines import NDJSON
from rebalancer.manager.http.openapi import DOCUMENT
from rebalancer.manager.http.plans import begin_plan
from rebalancer.manager.http.requests import (
    check_no_query,
    checked_id,
    read_change,
    read_first,
    read_import,
    read_jobs_query,
    read_new_job,
    read_objects_query,
)
from rebalancer.manager.jobs.service import Jobs
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.serving.app import prefers, prefers_json
from rebalancer.serving.quartapp import QuartApp

#: A request is a few hundred bytes.
MAX_BODY_BYTES = 1 << 20


def make_api(jobs: Jobs, metrics: ManagerMetrics) -> QuartApp:
    """Return the application that has these routes."""
    app = QuartApp(f"rebalancer-manager {__version__}", MAX_BODY_BYTES)
    _route_changes(app.quart, jobs, metrics.request)
    _route_views(app.quart, jobs, metrics.request)
    _route_nodes(app.quart, jobs, metrics.request)

    @app.quart.get("/ping")
    async def ping() -> Response:
        return _shown(Ping(ping="pong", version=__version__))

    @app.quart.get("/status")
    async def status() -> Response:
        return _shown(await jobs.queries.status())

    @app.quart.get("/openapi.json")
    async def describe() -> Response:
        return _json(DOCUMENT)

    return app


def _route_changes(quart: Quart, jobs: Jobs, count: Callable[[str], None]) -> None:
    @quart.post("/jobs")
    async def create_job() -> Response:
        count("evacuate")
        check_no_query(request.args)
        wanted = read_new_job(await _body())
        if wanted.dry_run:
            if prefers(request.headers.get("accept", ""), NDJSON):
                return Response(await begin_plan(jobs, wanted), content_type=NDJSON)
            return _shown(render.plan(await jobs.plan(wanted)))
        return _new_id(await jobs.create(wanted))

    @quart.post("/jobs/<job_id>/retry")
    async def retry_job(job_id: str) -> Response:
        count("retry_job")
        check_no_query(request.args)
        return _new_id(await jobs.retry(job_id))

    @quart.post("/imports")
    async def import_job() -> Response:
        count("import_job")
        check_no_query(request.args)
        wanted = read_import(await _body(), ImportJob)
        job_id = checked_id(wanted.job_id)
        return _shown(await jobs.imports.run(wanted.dsn, job_id, again=wanted.again))

    @quart.post("/imports/list")
    async def list_imports() -> Response:
        count("list_imports")
        check_no_query(request.args)
        return _shown(await jobs.imports.list(read_import(await _body(), ListImports).dsn))

    @quart.put("/jobs/<job_id>")
    async def change_job(job_id: str) -> Response:
        count("update_job")
        check_no_query(request.args)
        await jobs.change(job_id, read_change(await _body()))
        return Response("", content_type="application/json")

    @quart.delete("/jobs/<job_id>")
    async def delete_job(job_id: str) -> Response:
        count("delete_job")
        check_no_query(request.args)
        await jobs.delete(job_id)
        return _shown(Deleted(deleted=job_id.lower()))


def _route_views(quart: Quart, jobs: Jobs, count: Callable[[str], None]) -> None:
    @quart.get("/jobs")
    async def list_jobs() -> Response:
        count("list_jobs")
        query = read_jobs_query(request.args.items(multi=True))
        return _shown(await jobs.lister.list(query))

    @quart.get("/jobs/<job_id>")
    async def get_job(job_id: str) -> Response:
        count("get_job")
        details = await jobs.queries.details(job_id)
        return _shown(render.job(details.row, details.known, details.waits, details.verdict))

    @quart.get("/jobs/<job_id>/objects")
    async def list_objects(job_id: str) -> Response:
        count("list_objects")
        query = read_objects_query(request.args.items(multi=True))
        page = await jobs.queries.objects(job_id, query)
        # As `Objects` of `rebalancer.api` has it: rows by the thousand get no instance each.
        return _json({"objects": page.objects, "after": page.after})

    @quart.get("/jobs/<job_id>/summary")
    async def summarize_job(job_id: str) -> Response:
        count("job_summary")
        return _shown(await jobs.queries.summary(job_id))

    @quart.get("/jobs/<job_id>/report")
    async def report_job(job_id: str) -> Response:
        count("job_report")
        row = await jobs.queries.readable(job_id)
        return Response(jobs.queries.report(row), content_type=NDJSON)


def _route_nodes(quart: Quart, jobs: Jobs, count: Callable[[str], None]) -> None:
    @quart.get("/nodes/<shark>/check")
    async def check_node(shark: str) -> Response:
        count("check_node")
        first = read_first(request.args.items(multi=True))
        lines = await jobs.checks.begin(shark, first)
        return Response(lines, content_type=NDJSON)


async def _body() -> Any:
    try:
        return await body_json(await request.body)
    except BadRequest as exc:
        raise Unprocessable(str(exc)) from exc


def _new_id(job_id: str) -> Response:
    # The rewrite's generated client wants a JSON string, the deployed one bare text.
    text = json.dumps(job_id) if prefers_json(request.headers.get("accept", "")) else f"{job_id}\n"
    return Response(text, content_type="application/json")


def _shown(body: Any) -> Response:
    """Answer with a body of a class of `rebalancer.api`, or with a list of such."""
    return _json(unstructure(body))


def _json(value: Any) -> Response:
    return Response(json.dumps(value), content_type="application/json")
