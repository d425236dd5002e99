"""What the commands of a region say where there is none, or none that runs."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from rebalancer_devregion import layout as layouts
from rebalancer_devregion.commands import region


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A region that does not run."""
    layouts.plan(tmp_path / "lab").save()
    return str(tmp_path / "lab")


def test_a_shell_learns_where_the_region_is(folder: str) -> None:
    """By lines that `eval` takes."""
    layout = layouts.load(Path(folder))
    done = CliRunner().invoke(region, ["env", folder])

    assert done.stdout.splitlines() == [
        f"export REBALANCER_URL=http://{layout.subnet}.250:8880",
        f"export METRICS_URL=http://{layout.subnet}.250:8878/metrics",
        f"export AGENT_URL=http://{layout.subnet}.12:7878",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env", "nowhere"], "no region"),
        (["kill", "{}", "manager"], "does not run"),
        (["audit", "{}", "0fd6"], "0fd6: no jobs of this region begin so"),
        (["serve", "{}", "--part", "moon"], "no part moon; there are moray-1, moray-2, storinfo"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder: str, words: list[str], message: str) -> None:
    done = CliRunner().invoke(region, [word.format(folder) for word in words])

    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_program_is_killed_by_its_name_only(folder: str) -> None:
    """Of those that were started; one that has ended meanwhile is named."""
    (Path(folder) / "pids.json").write_text('{"manager": 999999999}')
    unknown = CliRunner().invoke(region, ["kill", folder, "9.stor"])
    gone = CliRunner().invoke(region, ["kill", folder, "manager"])

    assert "no program 9.stor; there are manager" in unknown.stderr
    assert "manager does not run" in gone.stderr
