"""What users have named reaches a terminal as text only."""

import io

import pytest
from rich.console import Console

from rebalancer.adm.output import can_redraw
from rebalancer.adm.printing import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/account/stor/blå 日本", "/account/stor/blå 日本"),
        ('/a/stor/it\'s "quoted" \\', '/a/stor/it\'s "quoted" \\'),
        ("/a/stor/\x1b[2J\x9b2J", r"/a/stor/\x1b[2J\x9b2J"),
        ("/a/stor/two\nlines\r", r"/a/stor/two\nlines\r"),
        ("/a/stor/\u202egnp.exe", r"/a/stor/\u202egnp.exe"),
        ("/a/stor/\ud83d", r"/a/stor/\ud83d"),
    ],
)
def test_a_name_gives_a_terminal_no_orders(name: str, shown: str) -> None:
    """Control characters are escaped, as is what would end the line or turn it round."""
    assert printable(name) == shown


@pytest.mark.parametrize(
    ("term", "is_terminal", "expected"),
    [("xterm", True, True), ("dumb", True, False), ("xterm", False, False)],
)
def test_only_a_terminal_that_obeys_is_redrawn(
    term: str, is_terminal: bool, expected: bool
) -> None:
    """The others get lines."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, _environ={"TERM": term})
    assert can_redraw(console) is expected
