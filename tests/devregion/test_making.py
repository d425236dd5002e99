"""A region is made with its progress shown, and an interrupt ends that soon."""

import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from rebalancer_devregion import layout as layouts
from rebalancer_devregion import making
from rebalancer_devregion.commands import demo, region
from rebalancer_devregion.contents import Summary
from rebalancer_devregion.making import make, remove, showing


async def test_an_interrupt_ends_the_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large region takes minutes."""

    def endless(layout: layouts.Layout, ordinary: int, made: Callable[[int], None]) -> Summary:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            made(1)
            time.sleep(0.001)

    monkeypatch.setattr(making, "write", endless)
    with pytest.raises(KeyboardInterrupt):
        await make(layouts.plan(tmp_path / "lab"), 10, Console(file=io.StringIO()))


async def test_a_region_is_made_whole(tmp_path: Path) -> None:
    """Without a terminal nothing is shown meanwhile."""
    out = io.StringIO()
    layout = layouts.plan(tmp_path / "lab")
    layout.save()
    summary = await make(layout, 3, Console(file=out))
    assert ("records, " in summary, out.getvalue()) == (True, "")
    remove(layout.folder, Console(file=out, width=200))
    assert out.getvalue() == f"{layout.folder} is removed\n"
    assert not layout.folder.exists()


def test_a_terminal_sees_how_many_records_are_made() -> None:
    out = io.StringIO()
    with showing(10, Console(file=out, force_terminal=True, width=80)) as show:
        show(7_000)
    assert "7,000 records made" in out.getvalue()


@pytest.mark.parametrize("count", ["0", "-5"])
@pytest.mark.parametrize("command", ["demo", "create"])
def test_a_region_without_objects_is_refused(tmp_path: Path, command: str, count: str) -> None:
    """In one line; nothing is made."""
    words = [str(tmp_path / "lab")] if command == "create" else []
    group, head = (region, ["create"]) if command == "create" else (demo, [])
    done = CliRunner().invoke(group, [*head, *words, "--objects", count])
    assert done.exit_code == 1
    assert done.stderr == f"Error: --objects: expected 1 or more, got {count}\n"
    assert list(tmp_path.iterdir()) == []
