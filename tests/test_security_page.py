"""The page on security names the bounds that the code has."""

from pathlib import Path

from rebalancer import bodies, daemon
from rebalancer.agent_protocol import MAX_TASKS
from rebalancer.config import AgentApi
from rebalancer.converter import MAX_VALUES
from rebalancer.manager.http.api import MAX_BODY_BYTES
from rebalancer.manager.page.streams import MOST_STREAMS
from rebalancer.serving import bounds
from rebalancer.serving.bounds import Bounds
from tests.test_docs import rows

PAGE = Path(__file__).parent.parent / "docs" / "security.md"
SHARES = {4: "a quarter of the process's files", 16: "a sixteenth of them"}


def size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def test_the_bounds_on_the_page_are_those_in_force() -> None:
    """Every number of the table is a constant, and no row is missing."""
    had = Bounds()
    api = f"{SHARES[bounds.API_SHARE]}, {bounds.API_LEAST} to {bounds.API_MOST}"
    metrics = f"{SHARES[bounds.METRICS_SHARE]}, {bounds.METRICS_LEAST} to {bounds.METRICS_MOST}"
    agents = size(AgentApi().max_body_bytes)
    expected = [
        ("connections to the API", api),
        ("connections to the metrics", metrics),
        (
            "request line and headers",
            f"{size(had.head_bytes)}, within {had.head_s:g} s of their first byte",
        ),
        ("body, for the manager", size(MAX_BODY_BYTES)),
        (
            "body, for the agent",
            f"{agents} (`max_body_bytes`): {MAX_TASKS:,} tasks, the most that are taken, "
            "need 4 MiB",
        ),
        ("body, in time", f"{had.body_s:g} s"),
        (
            f"bodies above {size(had.small_body_bytes)}, together",
            f"{size(had.bodies_bytes)} a port, or two of the largest",
        ),
        ("values in a body", f"{MAX_VALUES:,}"),
        ("lists and objects within one another", str(bodies.MAX_DEPTH)),
        ("a connection without a request", f"{had.idle_s:g} s"),
        ("a client that takes nothing of its answer", f"{had.send_s:g} s"),
        ("an answer for a client that has ended what it sends", f"{had.half_closed_s:g} s"),
        ("TLS handshake", f"{had.handshake_s:g} s"),
        ("requests under way at a stop", f"{daemon.GRACE_S:g} s"),
    ]
    table = [row for row in rows(PAGE) if len(row) == 2]

    assert table[table.index(("bound", "value")) + 2 :] == expected
    page = PAGE.read_text()
    assert f"more than {had.patience_s:g} s" in page
    assert f"Bodies above {size(daemon.AT_ONCE_BYTES)} are read in a thread" in page
    assert f"Up to {MOST_STREAMS} browsers" in page
