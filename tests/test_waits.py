"""Causes of waiting are shown while they last, and told of seldom."""

from trio.testing import MockClock

from rebalancer.waits import REMIND_S, Waits
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
