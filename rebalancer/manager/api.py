"""The manager's routes: parse, call `jobs`, render.  Texts and codes are the predecessor's."""

import json
from typing import Any

from rebalancer import __version__
from rebalancer.daemon import body_json
from rebalancer.errors import BadRequest, Unprocessable
from rebalancer.manager import render
from rebalancer.manager.jobs import Jobs
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.openapi import DOCUMENT
from rebalancer.manager.requests import (
    check_no_query,
    read_change,
    read_new_job,
    read_objects_query,
)
from rebalancer.serving.app import Answer, App, Request

#: A request is a few hundred bytes.
MAX_BODY_BYTES = 1 << 20


def make_api(jobs: Jobs, metrics: ManagerMetrics) -> App:
    """The application."""
    app = App(f"rebalancer-manager {__version__}", MAX_BODY_BYTES)
    count = metrics.request

    @app.post("/jobs")
    async def create_job(request: Request) -> Answer:
        count("evacuate")
        check_no_query(request.parameters)
        wanted = read_new_job(await _body(request))
        if wanted.dry_run:
            return _json(render.plan(await jobs.plan(wanted)))
        return _new_id(request, await jobs.create(wanted))

    @app.post("/jobs/<job_id>/retry")
    async def retry_job(request: Request, job_id: str) -> Answer:
        count("retry_job")
        check_no_query(request.parameters)
        return _new_id(request, await jobs.retry(job_id))

    @app.get("/jobs")
    async def list_jobs(_request: Request) -> Answer:
        count("list_jobs")
        return _json([render.listed(row) for row in await jobs.list()])

    @app.get("/jobs/<job_id>")
    async def get_job(_request: Request, job_id: str) -> Answer:
        count("get_job")
        view = await jobs.view(job_id)
        return _json(render.job(view.row, view.known, view.waits))

    @app.put("/jobs/<job_id>")
    async def change_job(request: Request, job_id: str) -> Answer:
        count("update_job")
        check_no_query(request.parameters)
        await jobs.change(job_id, read_change(await _body(request)))
        return Answer()

    @app.delete("/jobs/<job_id>")
    async def delete_job(request: Request, job_id: str) -> Answer:
        count("delete_job")
        check_no_query(request.parameters)
        await jobs.delete(job_id)
        return _json({"deleted": job_id.lower()})

    @app.get("/jobs/<job_id>/objects")
    async def list_objects(request: Request, job_id: str) -> Answer:
        count("list_objects")
        query = read_objects_query(request.pairs)
        page = await jobs.objects(job_id, query)
        return _json({"objects": page.objects, "after": page.after})

    @app.get("/jobs/<job_id>/summary")
    async def summarize_job(_request: Request, job_id: str) -> Answer:
        count("job_summary")
        return _json(await jobs.summary(job_id))

    @app.get("/jobs/<job_id>/report")
    async def report_job(_request: Request, job_id: str) -> Answer:
        count("job_report")
        row = await jobs.readable(job_id)
        return Answer(jobs.report(row), content_type="application/x-ndjson")

    @app.get("/ping")
    async def ping(_request: Request) -> Answer:
        return _json({"ping": "pong", "version": __version__})

    @app.get("/status")
    async def status(_request: Request) -> Answer:
        return _json(await jobs.status())

    @app.get("/openapi.json")
    async def describe(_request: Request) -> Answer:
        return _json(DOCUMENT)

    return app


async def _body(request: Request) -> Any:
    try:
        return await body_json(request)
    except BadRequest as exc:
        raise Unprocessable(str(exc)) from exc


def _new_id(request: Request, job_id: str) -> Answer:
    # The rewrite's generated client wants a JSON string, the deployed one bare text.
    text = json.dumps(job_id) if request.prefers_json else f"{job_id}\n"
    return Answer(text.encode())


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode())
