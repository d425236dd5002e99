"""The pace of updates, and the patience with what fails."""

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.pace import Pace, Patience

#: What happens, one after the other: a success, an overload, a new ceiling.
EVENTS = st.lists(st.one_of(st.just("ok"), st.just("overload"), st.integers(1, 250)), max_size=200)


@given(st.integers(1, 250), EVENTS)
def test_the_limit_stays_between_one_and_the_operators(ceiling: int, events: list[object]) -> None:
    """Whatever happens; and the operator's own number is in force at once, up or down."""
    pace = Pace(ceiling)
    assert pace.limit == ceiling
    for now, event in enumerate(events):
        if event == "ok":
            pace.on_success()
        elif event == "overload":
            pace.on_overload(asked_at=now - 0.5, now=now, at_work=pace.limit)
        elif isinstance(event, int):
            pace.resize(event)
            assert pace.limit == pace.ceiling == event
        assert 1 <= pace.limit <= pace.ceiling


def test_an_overload_halves_what_was_at_work() -> None:
    """Not what was allowed but not used: that would change nothing."""
    pace = Pace(250)
    pace.on_overload(asked_at=1, now=2, at_work=12)
    assert pace.limit == 6
    pace.on_overload(asked_at=3, now=4, at_work=6)
    assert pace.limit == 3


def test_answers_to_what_was_asked_before_count_once() -> None:
    """All that were under way hear of the same overload; it halves once."""
    pace = Pace(32)
    for now in range(10, 42):
        pace.on_overload(asked_at=1, now=now, at_work=32)
    assert pace.limit == 16


def test_a_round_of_successes_adds_one() -> None:
    """As many successes as are allowed at a time: ten more rounds, about ten more."""
    pace = Pace(100)
    pace.on_overload(asked_at=0, now=1, at_work=20)
    for _ in range(sum(range(10, 20)) + 10):
        pace.on_success()
    assert 19 <= pace.limit <= 21


@given(st.integers(1, 40))
def test_the_pace_finds_what_a_server_can_do(capacity: int) -> None:
    """Rounds against a server that is overloaded above `capacity`: after a while the pace stays
    between half of it and one above it.
    """
    pace, now = Pace(250), 0.0
    for turn in range(2000):
        asked_at, at_work = now, pace.limit
        now += 1
        if at_work > capacity:
            pace.on_overload(asked_at=asked_at, now=now, at_work=at_work)
        else:
            for _ in range(at_work):
                pace.on_success()
        if turn > 100:
            assert capacity // 2 <= pace.limit <= capacity + 1


@given(st.lists(st.tuples(st.floats(0.01, 100), st.booleans()), max_size=50), st.floats(1, 500))
def test_patience_ends_after_nothing_but_failures(
    steps: list[tuple[float, bool]], bound_s: float
) -> None:
    """It is over exactly when the first failure since the last success is `bound_s` ago."""
    patience, now, since = Patience(bound_s), 0.0, None
    for pause_s, works in steps:
        now += pause_s
        if works:
            patience.on_success()
            since = None
        else:
            patience.on_failure(now)
            since = now if since is None else since
        assert patience.is_over(now) == (since is not None and now - since >= bound_s)
