"""The page of performance says what the kept results say, and of nothing that was not measured."""

import re
from pathlib import Path

import page
import pytest
from goals import GOALS, Goal, Outcome, figure, outcomes
from results import Figure, Results, Row

from tests.bench.test_results import HEADING

ROOT = Path(__file__).parents[2]
FIGURES = {"objects": Figure("/s", "more"), "CPU": Figure("us/object", "less")}


def run(*rows: Row) -> dict[str, Results]:
    return {"agent": Results("agent", HEADING, FIGURES, list(rows))}


def row(contender: str, name: str, *values: float) -> Row:
    return Row("4k tmpfs", contender, [{name: value} for value in values])


def test_the_page_is_what_the_program_makes_of_the_results() -> None:
    """Nobody has changed a figure by hand, or results without making the page."""
    made = page.make((page.FOLDER / "text.md").read_text(), page.load(page.FOLDER))

    assert made == page.PAGE.read_text(), "run tools/bench/page"


def test_every_table_that_the_text_asks_for_is_one_that_is_known() -> None:
    """A line for a table that is misspelled would be shown to readers."""
    asked = re.findall(r"<!-- (.*) -->", (page.FOLDER / "text.md").read_text())

    assert {one.split()[0] for one in asked} == {"goals", "recorded", *page.TABLES}


def test_a_goal_is_judged_by_the_median_of_the_ratios_of_each_round() -> None:
    """Rounds are neighbours in time: noise of one is in both of its sides."""
    found = outcomes(
        run(row("agent", "objects", 100, 50, 30), row("curl+md5sum", "objects", 50, 40, 40))
    )

    assert found[0].values == [2.0, 1.25, 0.75]
    assert found[0].verdict == "met, in 2 of 3 rounds"
    assert {one.verdict for one in found[5:]} == {"not measured"}


@pytest.mark.parametrize(
    ("at_least", "values", "verdict"),
    [
        (True, [3, 2], "met"),
        (True, [1, 1.9], "missed"),
        (False, [2, 1], "met"),
        (False, [3, 2.5, 1], "missed, in 2 of 3 rounds"),
        (False, [], "not measured"),
    ],
)
def test_a_bound_is_met_from_its_side(at_least: bool, values: list[float], verdict: str) -> None:
    """And the bound itself meets it."""
    goal = Goal("it", 2, at_least, figure("agent", "", "", ""), "")

    assert Outcome(goal, values).verdict == verdict


def test_the_deployed_agent_is_taken_from_the_same_run_where_it_took_part() -> None:
    """Else its recorded figures stand in."""
    ours = row("agent", "objects", 20_850)
    recorded = [one for one in GOALS if "a second against the deployed" in one.what]

    assert outcomes(run(ours), recorded)[0].values == [2.0]
    assert outcomes(run(ours, row("Rust agent", "objects", 5_212.5)), recorded)[0].values == [4.0]


def test_what_changed_beyond_noise_is_a_row() -> None:
    """And of the rest the number is told."""
    before = Row("4k", "old", [{"objects": 10.0 + n, "CPU": 5.0} for n in range(5)])
    after = Row("4k", "agent", [{"objects": 20.0 + n, "CPU": 5.0} for n in range(5)])
    made = page.changes(run(before, after)["agent"], "old", "agent")

    assert "| 4k | objects, /s | 12.0 | 22.0 | +83% | better |" in made.splitlines()
    assert made.endswith("1 others.")


def test_every_goal_names_a_benchmark_that_is_there() -> None:
    """Its command can be typed as it is."""
    for goal in GOALS:
        assert (ROOT / goal.command.split()[0]).is_file(), goal.command
