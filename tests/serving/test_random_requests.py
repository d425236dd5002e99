"""Random requests to every route of both daemons: no answer is an error of the server's."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebalancer.daemon import Listen, listen
from rebalancer.metrics import metrics_app
from rebalancer.serving.app import Application
from rebalancer.serving.bounds import Bounds
from tests.agent.scripted import open_rig as open_agent
from tests.logs import capture_logs
from tests.manager.http.test_api import open_rig as open_manager
from tests.sources import ASSIGNMENT, Answer, ok, task

# The servers' thread draws random numbers too, which hypothesis takes for its strategies' doing.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)
MANY = settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SHORT = Bounds(head_s=0.2, body_s=0.2, idle_s=0.2)

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
_names = ("id", "tasks", "action", "params", "from_shark", "max_objects", "object_id", "owner")
_near = st.dictionaries(
    st.sampled_from(_names), _values | st.sampled_from([ASSIGNMENT, "evacuate"])
)
_assignment = st.fixed_dictionaries(
    {"id": st.just(ASSIGNMENT) | _values},
    optional={"tasks": st.lists(st.just(task(1, b"x")) | _near, max_size=3) | _values},
)
_job = st.fixed_dictionaries(
    {"action": st.sampled_from(["evacuate", "pause", "set_max_sharks"]) | _values},
    optional={"params": _near | _values, "dry_run": _values},
)
_numbers = st.integers().map(str) | st.sampled_from(["9" * 5000, "00000000199999", "-1", "1e9", ""])
_bodies = st.binary(max_size=200) | (_values | _near | _assignment | _job).map(
    lambda value: json.dumps(value).encode()
)
_parts = (
    st.sampled_from(
        [
            "jobs",
            "assignments",
            "limits",
            "status",
            "ping",
            "metrics",
            "summary",
            "objects",
            "retry",
        ]
    ).map(str.encode)
    | st.sampled_from([ASSIGNMENT.encode(), b"", b".", b"..", b"*"])
    | st.binary(max_size=20).map(lambda text: quote_from_bytes(text).encode())
)
_queries = st.lists(
    st.tuples(
        st.sampled_from(["limit", "before", "after", "status", "reason", "x"]),
        _numbers | st.binary(max_size=20).map(quote_from_bytes),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode())
_named = (b"Accept", b"Authorization", b"Content-Type", b"Transfer-Encoding", b"Connection")
_others = (
    b"Upgrade",
    b"Expect",
    b"Cookie",
    b"Range",
    b"If-None-Match",
    b"Origin",
    b"Content-Length",
)
_known = (b"chunked", b"websocket", b"h2c", b"application/json", b"100-continue", b"5", b"close")
_texts = st.binary(max_size=40) | st.integers(1, 70_000).map(lambda size: b"a" * size)
_fields = st.lists(
    st.tuples(st.sampled_from([*_named, *_others]), _texts | st.sampled_from(_known)), max_size=3
)
_hosts = st.one_of(*[st.just(b"x")] * 6, _texts)
_of_a_job = [
    f"/jobs/{ASSIGNMENT}{part}" for part in ("", "/objects", "/summary", "/report", "/retry")
]
_fixed = ["/jobs", "/assignments", "/limits", "/status", "/ping", "/metrics", "/openapi.json"]
_routes = st.sampled_from([*_of_a_job, *_fixed, f"/assignments/{ASSIGNMENT}"]).map(str.encode)
_targets = st.one_of(
    *[_routes] * 4, st.lists(_parts, max_size=3).map(lambda parts: b"/" + b"/".join(parts))
)
_methods = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, more or less."""
    target: bytes = draw(_targets)
    if query := draw(_queries):
        target += b"?" + query
    target = draw(st.one_of(*[st.just(target)] * 9, st.binary(max_size=60)))
    body: bytes = draw(st.just(b"") | _bodies)
    fields = [(b"Connection", b"close"), (b"Host", draw(_hosts)), *draw(_fields)]
    if body:
        fields.append((b"Content-Length", str(len(body)).encode()))
    method: bytes = draw(st.one_of(*[_methods] * 9, st.binary(max_size=9)))
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % field for field in fields]
    return b"".join([*lines, b"\r\n", body])


def exchange(port: int, sent: bytes) -> bytes:
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        try:
            client.sendall(sent)
            while data := client.recv(65536):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer


async def bombard(app: Application, *expected: bytes) -> list[Any]:
    """Send requests, with such answers among others; the errors that were logged meanwhile."""
    stopping, seen = trio.Event(), set[bytes]()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            where = await listen(nursery, app, Listen("127.0.0.1", 0), stopping, SHORT)
            port = int(where.rpartition(":")[2])

            @MANY
            @given(requests())
            def ask(sent: bytes) -> None:
                answer = exchange(port, sent)
                for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer):
                    seen.add(status)
                    assert status < b"500" or status == b"503", answer[:500]
                assert b"Traceback" not in answer

            await trio.to_thread.run_sync(ask)
            stopping.set()
    assert set(expected) <= seen
    return [line for line in logs if line["log_level"] == "error"]


async def test_the_agent_answers_no_nonsense_with_an_error_of_its_own(tmp_path: Path) -> None:
    """Nor is anything logged as one."""
    answer: Callable[[int, str], Answer] = lambda *_: Answer(ok(b"x"))  # noqa: E731
    async with open_agent(tmp_path, answer) as rig:
        assert await bombard(rig.client.app, b"200", b"400", b"404") == []
        assert await bombard(metrics_app(rig.agent.metrics.registry), b"400", b"404") == []


async def test_the_manager_answers_no_nonsense_with_an_error_of_its_own(tmp_path: Path) -> None:
    """Nor is anything logged as one."""
    async with open_manager(tmp_path, objects=5) as rig:
        assert await bombard(rig.client.app, b"200", b"400", b"404") == []
