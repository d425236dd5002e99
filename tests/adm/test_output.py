"""What users have named reaches a terminal as text only."""

import pytest

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
