"""What findings come to, and how they are shown in 80 columns."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.doctor import shown
from rebalancer.doctor.checks import CHECKS
from rebalancer.doctor.findings import (
    Finding,
    Level,
    closing,
    exit_code,
    ok,
    skipped,
    stops,
    warning,
)
from rebalancer.doctor.run import Result

texts = st.text(min_size=1, max_size=300)
findings = (
    st.builds(ok, texts) | st.builds(warning, texts, texts, texts)
    | st.builds(stops, texts, texts, texts)
)  # fmt: skip
results = st.lists(st.builds(Result, st.sampled_from(CHECKS), findings), max_size=30)


@pytest.mark.parametrize(
    ("levels", "code", "says"),
    [
        ([Level.OK], 0, "the agent can run, and nothing is amiss"),
        ([Level.OK, Level.WARNING], 0, "the agent can run; 1 warning"),
        ([Level.STOPS, Level.WARNING], 1, "1 finding would stop the agent; 1 warning"),
        ([Level.STOPS] * 2, 1, "2 findings would stop the agent"),
        ([Level.SKIPPED], 0, "the agent can run, and nothing is amiss; 1 not looked at"),
    ],
)
def test_the_worst_decides(levels: list[Level], code: int, says: str) -> None:
    """Warnings alone let the program start."""
    assert (exit_code(levels), closing("agent", levels)) == (code, says)


def test_trouble_has_something_to_do() -> None:
    """Nobody makes a finding without."""
    with pytest.raises(AssertionError):
        Finding(Level.STOPS, "broken")
    with pytest.raises(AssertionError):
        Finding(Level.OK, "fine", "more", "do")
    assert warning("a", "b", "c").sentence == "a; expected b; c"


@given(results)
def test_a_report_fits_a_terminal_and_ends_with_the_worst(made: list[Result]) -> None:
    """Whatever a finding has from outside, none of it is an order to the terminal."""
    *lines, empty, last = shown.lines("manager", made)

    assert (empty, last) == ("", closing("manager", [one.finding.level for one in made]))
    assert all(len(line) <= 80 and line.isprintable() for line in lines)
    heads = [Level(line.split()[0]).rank for line in lines if not line.startswith(" ")]
    assert heads == sorted(heads)
    assert len(heads) >= len([one for one in made if one.finding.found.strip()])


def test_checks_that_are_skipped_for_one_reason_share_a_line() -> None:
    """What an operator has to read is the finding that stopped them."""
    needing = [check for check in CHECKS if check.needs_config][:2]
    unmade = [Result(check, skipped("no configuration")) for check in needing]

    names = ", ".join(check.name for check in needing)
    head, *_ = shown.lines("agent", unmade)
    assert head == f"skipped  2 checks       no configuration: {names}"


@given(results)
def test_json_has_all_of_it(made: list[Result]) -> None:
    """In the order of the checks, with the worst as the verdict."""
    document = json.loads(shown.document("agent", "/etc/a", "nobody", made))

    assert [one["found"] for one in document["findings"]] == [one.finding.found for one in made]
    levels = [Level(one["level"]) for one in document["findings"]]
    assert document["verdict"] == max(levels, key=lambda one: one.rank, default=Level.OK)
