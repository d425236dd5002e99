"""Causes of waiting are shown while they last, and told of seldom."""

import re

from trio.testing import MockClock

from rebalancer.waits import KINDS, OTHER, REMIND_S, Wait, Waits, by_kind
from tests.families import PAGE
from tests.logs import capture_logs


async def test_a_cause_is_shown_from_its_beginning_to_its_end(autojump_clock: MockClock) -> None:
    """The oldest is first, the newest error is shown, and what is over is gone."""
    waits = Waits(job="a")
    waits.begin("storinfo", "no answer")
    waits.begin("shard 2", "connection refused")
    waits.begin("storinfo", "an empty list")

    assert [(one.subject, one.detail) for one in waits.causes] == [
        ("storinfo", "an empty list"),
        ("shard 2", "connection refused"),
    ]
    assert all(one.since and one.since.endswith("Z") for one in waits.causes)
    waits.end("storinfo")
    waits.end("what was never waited for")
    assert [one.subject for one in waits.causes] == ["shard 2"]


async def test_the_log_hears_of_a_cause_once_a_minute(mock_clock: MockClock) -> None:
    """A hundred failures a minute are one line, and its end is another."""
    waits = Waits(job="a")
    with capture_logs() as lines:
        for _ in range(300):
            waits.begin("storinfo", "no answer")
            mock_clock.jump(REMIND_S / 100)
        waits.end("storinfo")

    assert [line["event"] for line in lines] == [
        "waiting",
        "still waiting",
        "still waiting",
        "waited for",
    ]
    assert {line["job"] for line in lines} == {"a"}
    assert lines[-1]["waited_s"] == 3 * REMIND_S


def test_every_cause_of_the_page_is_of_a_kind() -> None:
    """Of a cause without one, metrics would only say that there is something."""
    page = (PAGE.parent / "waiting.md").read_text().partition("\n\nA peer")[0]
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ")][2:]
    subjects = [subject for cell in rows for subject in re.findall(r"`([^`]+)`", cell)]

    assert len(subjects) > 10
    assert [one for one in subjects if Wait(one, "", None).kind == OTHER] == []


def test_causes_are_counted_by_kind() -> None:
    """The oldest of a kind gives its seconds; of a beginning that makes no sense there are none."""
    old, new = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
    causes = [Wait("shard 1", "", new), Wait("shard 2", "", old), Wait("its turn", "", "soon")]
    counted = by_kind([*causes, Wait("x", "", None)])

    assert {kind: count for kind, (count, _) in counted.items()} == {
        "shard": 2,
        "turn": 1,
        OTHER: 1,
    }
    assert counted["shard"][1] > by_kind(causes[:1])["shard"][1] + 30 * 86_400
    assert counted["turn"][1] == counted[OTHER][1] == 0
    assert set(KINDS.values()) >= counted.keys() - {OTHER}
