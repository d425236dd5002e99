"""Dry runs that are answered line by line, on a real shard."""

import json
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.errors import JobFailed, StoreError
from rebalancer.manager.actions.evacuate import plan
from rebalancer.manager.http import plans, render
from rebalancer.manager.http.requests import read_new_job
from rebalancer.manager.jobs import scratch
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.stages.discover import run_discovery
from tests.manager.http.test_api import Rig, open_rig
from tests.manager.http.test_openapi import shown, valid

BODY = {"action": "evacuate", "params": {"from_shark": "1.stor"}, "dry_run": True}
LINES = {"accept": "application/x-ndjson"}


def failing(exc: Exception) -> Callable[..., Awaitable[Any]]:
    async def fail(*_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise exc

    return fail


def hold_search(patched: pytest.MonkeyPatch, lines: float) -> None:
    """Let a search end only when so many lines have shown all that it has found."""
    patched.setattr(plans, "PROGRESS_S", 0.001)
    patched.setattr(plan, "LOOK_S", 0.001)
    rendered, seen, enough = render.plan_progress, 0, trio.Event()

    async def find(job: Job, feeds: Any) -> None:
        await run_discovery(job, feeds)
        await feeds.send(Feed((), is_flush=True))
        await enough.wait()

    def count(look: Any, seconds: float) -> Any:
        nonlocal seen
        made = rendered(look, seconds)
        seen += made.shards_done == made.shards and made.placed == made.objects > 0
        if seen >= lines:
            enough.set()
        return made

    patched.setattr(plan, "run_discovery", find)
    patched.setattr(render, "plan_progress", count)


def folders(rig: Rig) -> list[Path]:
    return list((rig.folder / "db").glob(f"{scratch.PREFIX}*"))


async def lines_of(rig: Rig) -> list[Any]:
    reply = await rig.client.post("/jobs", json=BODY, headers=LINES)
    text = await reply.get_data(as_text=True)
    assert (reply.status_code, reply.content_type) == (200, "application/x-ndjson"), text
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(valid(line, shown("PlanLine")) for line in lines)
    return lines


async def test_the_last_line_is_the_plan(tmp_path: Path) -> None:
    """As others get it, who do not ask for lines; destinations are drawn by lot."""
    async with open_rig(tmp_path, objects=9, exclude_key_prefixes=("/account/stor/3",)) as rig:
        whole = await (await rig.client.post("/jobs", json=BODY)).get_json()
        (*_, made) = await lines_of(rig)
        assert folders(rig) == []

    assert {name: made[name] for name in ("objects", "bytes", "fits", "skipped")} == {
        name: whole[name] for name in ("objects", "bytes", "fits", "skipped")
    }
    assert list(made) == list(whole)


async def test_progress_says_what_was_found_and_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the share of the shards, which is not known before the first window."""
    hold_search(monkeypatch, lines=1)
    async with open_rig(tmp_path, objects=9) as rig:
        (*progress, made) = await lines_of(rig)

    last = progress[-1]
    assert (last["type"], last["scanned"]) == ("progress", 1.0)
    assert (last["shards_done"], last["shards"]) == (1, 1)
    assert (last["objects"], last["bytes"]) == (9, made["bytes"])
    assert (last["placed"], last["without_place"]) == (9, 0)


async def test_a_search_ends_with_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is removed, and another dry run can begin; meanwhile it cannot."""
    async with open_rig(tmp_path, objects=9) as rig:
        with monkeypatch.context() as slow:
            hold_search(slow, lines=float("inf"))
            lines = await plans.begin_plan(rig.jobs, read_new_job(BODY))
            assert json.loads(await anext(lines))["type"] == "progress"
            assert len(folders(rig)) == 1
            second = await rig.client.post("/jobs", json=BODY, headers=LINES)
            await lines.aclose()
            with trio.fail_after(5):
                while folders(rig):  # noqa: ASYNC110
                    await trio.sleep(0.001)
        (*_, made) = await lines_of(rig)

    assert (second.status_code, await second.get_data(as_text=True)) == (
        409,
        "another dry run is under way",
    )
    assert made["objects"] == 9


@pytest.mark.parametrize("is_in_lines", [True, False])
async def test_a_search_ends_when_its_client_hangs_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_in_lines: bool
) -> None:
    """Over a socket, by a reset, whether lines are sent or nothing is until the plan is made."""
    from tests.adm.test_commands import operator

    hold_search(monkeypatch, lines=float("inf"))
    async with operator(tmp_path, objects=3) as run:
        host, _, port = run.url.removeprefix("http://").partition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        # A connection that is ended, and not reset, may be that of a client which waits.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        body = json.dumps(BODY).encode()
        accept = b"Accept: application/x-ndjson\r\n" if is_in_lines else b""
        head = b"POST /jobs HTTP/1.1\r\nHost: manager\r\n%sContent-Length: %d\r\n\r\n"
        await stream.send_all(head % (accept, len(body)) + body)
        with trio.fail_after(5):
            while not folders(run.rig):  # noqa: ASYNC110
                await trio.sleep(0.001)
            await stream.aclose()
            while folders(run.rig) or run.rig.jobs._planning.locked():  # noqa: ASYNC110
                await trio.sleep(0.001)


@pytest.mark.parametrize(
    ("exc", "status", "message"),
    [
        (JobFailed("no such node"), 400, "no such node"),
        (StoreError("the disk is full"), 503, "the disk is full"),
        (KeyError("odd"), 500, "internal error: see the log"),
    ],
)
async def test_an_error_on_the_way_is_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exc: Exception, status: int, message: str
) -> None:
    """With the status and text that an answer without lines would have."""
    monkeypatch.setattr(plan, "preflight_of", failing(exc))
    async with open_rig(tmp_path) as rig:
        (*_, error) = await lines_of(rig)
        whole = await rig.client.post("/jobs", json=BODY)

    assert error == {"type": "error", "status": status, "message": message}
    assert (whole.status_code, await whole.get_data(as_text=True)) == (status, message)


async def test_a_manager_that_stops_says_so(tmp_path: Path) -> None:
    """Its search was cut off, and there is neither a plan nor an error of it."""
    async with open_rig(tmp_path) as rig:
        lines = await plans.begin_plan(rig.jobs, read_new_job(BODY))
        assert rig.jobs.followed._nursery is not None
        rig.jobs.followed._nursery.cancel_scope.cancel()
        error = json.loads([line async for line in lines][-1])

    assert (error["type"], error["status"]) == ("error", 503)
