"""The manager's routes: parse, call `jobs`, render.  Texts and codes are the predecessor's."""

import json
from typing import Any

import attrs
from quart import Response
from quart_trio import QuartTrio

from rebalancer import __version__
from rebalancer.daemon import body_json, make_app, prefers_json
from rebalancer.errors import BadRequest, Unprocessable
from rebalancer.manager.jobs import Jobs, JobView, results

#: A request is a few hundred bytes.
MAX_BODY_BYTES = 1 << 20


def make_api(jobs: Jobs) -> QuartTrio:
    """The application."""
    app = make_app(__name__, f"rebalancer-manager {__version__}", MAX_BODY_BYTES)
    count = jobs.metrics.request

    @app.post("/jobs")
    async def create_job() -> Response:
        count("evacuate")
        return _new_id(await jobs.create(await _body()))

    @app.post("/jobs/<job_id>/retry")
    async def retry_job(job_id: str) -> Response:
        count("retry_job")
        return _new_id(await jobs.retry(job_id))

    @app.get("/jobs")
    async def list_jobs() -> Response:
        count("list_jobs")
        rows = await jobs.list()
        return _json(
            [
                {"id": row.id, "action": row.action.capitalize(), "state": row.state_shown}
                for row in rows
            ]
        )

    @app.get("/jobs/<job_id>")
    async def get_job(job_id: str) -> Response:
        count("get_job")
        return _json(_view(await jobs.view(job_id)))

    @app.put("/jobs/<job_id>")
    async def change_job(job_id: str) -> Response:
        count("update_job")
        await jobs.change(job_id, await _body())
        return Response("", content_type="application/json")

    @app.get("/ping")
    async def ping() -> Response:
        return _json({"ping": "pong", "version": __version__})

    return app


async def _body() -> Any:
    try:
        return await body_json()
    except BadRequest as exc:
        raise Unprocessable(str(exc)) from exc


def _new_id(job_id: str) -> Response:
    # The rewrite's generated client wants a JSON string, the deployed one bare text.
    text = json.dumps(job_id) if prefers_json() else f"{job_id}\n"
    return Response(text, content_type="application/json")


def _json(value: Any) -> Response:
    return Response(json.dumps(value), content_type="application/json")


def _view(view: JobView) -> dict[str, Any]:
    origin, status = view.known.origin, view.known.status
    shown = {
        "config": {
            "action": view.row.action.capitalize(),
            "from_shark": {
                "datacenter": "" if origin is None else origin.datacenter,
                "manta_storage_id": "" if origin is None else origin.manta_storage_id,
            },
            "max_objects": view.row.params.get("max_objects"),
        },
        "results": results(status),
        "bytes": {"complete": status.size("complete"), "total": status.size()},
        "scans": [attrs.asdict(scan) for scan in view.known.scans],
        "rounds": [attrs.asdict(one) for one in view.known.rounds],
        "warnings": [attrs.asdict(finding) for finding in view.known.warnings],
        "state": view.row.state_shown,
    }
    if view.row.error is not None:
        shown["error"] = view.row.error
    return shown
