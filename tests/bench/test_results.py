"""Results of benchmarks are kept whole, compared row by row, and shown by what sums them up."""

import json
import sys
from io import StringIO
from pathlib import Path

import compare
import pytest
from harness import table_of, turn
from hypothesis import given
from hypothesis import strategies as st
from ranks import Verdict
from results import Figure, Heading, Noise, Results, Row, Summary, shown
from rich.console import Console

NOISE = Noise((0.1, 0.2, 0.3), 0.01, (1.0, 0.5, 0.3), 0.02, 0.0)
HEADING = Heading(
    measured="2026-11-26T00:00:00+00:00",
    arguments=["--rounds", "5"],
    version="1.2.3",
    commit="3d105ac",
    is_dirty=False,
    programs={"Python": "3.11.7"},
    cpu="a CPU",
    cpus=2,
    file_systems={"memory": "tmpfs"},
    noise=NOISE,
)
FIGURES = {"wall": Figure("s", "less"), "objects": Figure("/s", "more")}


def results(*rows: Row) -> Results:
    return Results("agent", HEADING, FIGURES, list(rows))


def row(contender: str, *walls: float, setting: str = "4k") -> Row:
    return Row(setting, contender, [{"wall": wall, "objects": 1 / wall} for wall in walls])


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """All rounds, with the heading, in a file whose lines are rounds."""
    made = results(row("agent", 1.5, 2.25), row("curl", 3.0))
    made.save(tmp_path / "new" / "it.json")
    text = (tmp_path / "new" / "it.json").read_text()

    assert Results.load(tmp_path / "new" / "it.json") == results(
        Row(
            "4k", "agent", [{"wall": 1.5, "objects": 0.666667}, {"wall": 2.25, "objects": 0.444444}]
        ),
        Row("4k", "curl", [{"wall": 3.0, "objects": 0.333333}]),
    )
    assert '      {"wall": 2.25, "objects": 0.444444}]},' in text.splitlines()


def test_results_of_another_format_are_refused(tmp_path: Path) -> None:
    """By name, not by an error about a field."""
    (tmp_path / "it.json").write_text('{"format": 2}')

    with pytest.raises(SystemExit, match="format 1"):
        Results.load(tmp_path / "it.json")


@given(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1), st.integers(-3, 9))
def test_a_round_has_each_contender_once_and_another_one_first(names: list[str], n: int) -> None:
    """So none has the coldest caches in every round."""
    assert sorted(turn(names, n)) == sorted(names)
    assert {turn(names, n + k)[0] for k in range(len(names))} == set(names)


def test_a_table_shows_the_middle_and_the_spread() -> None:
    """Of those figures that were measured."""
    console = Console(width=100, record=True, file=StringIO())
    console.print(
        table_of([row("agent", 1.0, 2.0, 4.0)], {**FIGURES, "RSS": Figure("MiB", "less")})
    )
    text = console.export_text()

    assert "4k: 3 rounds" in text
    assert "2.00 ±1.00" in text
    assert "1.00-4.00" in text
    assert "MiB" not in text


def test_a_summary_has_the_median_and_its_deviation() -> None:
    """The median absolute deviation is not moved by one round that a neighbour spoiled."""
    assert Summary.of([10, 11, 12, 13, 99]) == Summary(12, 10, 99, 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.000"), (0.12345, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (12345.6, "12,346")],
)
def test_numbers_are_shown_with_the_digits_that_count(value: float, text: str) -> None:
    """Three of them."""
    assert shown(value) == text


# --- the program -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A run, and one in which the agent took twice as long; of curl's rounds there are too few."""
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    results(row("agent", 1, 2, 3, 4, 5), row("curl", 1, 2)).save(before)
    results(row("agent", 6, 7, 8, 9, 10), row("curl", 5, 6), row("new", 1)).save(after)
    return str(before), str(after)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    try:
        compare.main()
    except SystemExit as exc:
        assert isinstance(exc.code, int)
        return exc.code
    return 0


def test_two_files_are_compared_by_what_they_have_in_common(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each figure of each row."""
    assert run(monkeypatch, *files, "--json") == 0
    told = json.loads(capsys.readouterr().out)

    assert [(one["contender"], one["figure"], one["change"]["verdict"]) for one in told] == [
        ("agent", "wall", Verdict.WORSE),
        ("agent", "objects", Verdict.WORSE),
        ("curl", "wall", Verdict.FEW),
        ("curl", "objects", Verdict.FEW),
    ]


def test_a_loss_fails_where_that_is_asked_for(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a gain does not."""
    assert run(monkeypatch, *files, "--fail-on-worse") == 1
    assert run(monkeypatch, *reversed(files), "--fail-on-worse") == 0
    assert run(monkeypatch, *files, "--fail-on-worse", "--only", "nothing") == 2


def test_contenders_of_one_run_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As versus does it."""
    results(row("before", 6, 7, 8, 9, 10), row("now", 1, 2, 3, 4, 5)).save(tmp_path / "a.json")

    assert run(monkeypatch, str(tmp_path / "a.json"), "--contenders", "before", "now") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "better" in line]
    assert "wall, s" in lines[0]
    assert "-62.5%" in lines[0]
    assert len(lines) == 2


def test_usage_is_wrong_with_neither_two_files_nor_two_contenders(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2, which no comparison has."""
    assert run(monkeypatch, files[0]) == 2
    assert run(monkeypatch, *files, "--contenders", "a", "b") == 2
