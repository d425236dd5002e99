"""Pages are compared loosely, but not so loosely that nothing can be wrong."""

from pathlib import Path

import pytest

from tests.docs.console import Command, Ids, commands

ID, OTHER = "5f0e3f0c-1111-4222-8333-444455556666", "aaaabbbb-1111-4222-8333-444455556666"


def test_a_page_has_commands_with_what_they_print(tmp_path: Path) -> None:
    """Of `console` blocks only; a command may take several lines, and exit otherwise than by 0."""
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n$ no\n```\n```console\n$ ls\na\n...\n$ curl \\\n  x  # exits 3\n```\n"
        "```console\n$ more\n```\n"
    )

    assert list(commands(page)) == [
        Command("ls", 0, ("a",)),
        Command("curl   x", 3, ()),
        Command("more", 0, ()),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        (["12 objects, 3.4 MB"], ["noise", "1,234 objects,   0.1 MB"], ""),
        (["a ... z"], ["a b c z"], ""),
        (["│ complete │ 12 │"], ["│ complete │ 7 │"], ""),
        (["  ──── x"], [" ──────────── x"], ""),
        (["one", "two"], ["two", "one"], "two"),
        (["one"], ["none of it"], ""),
        (["empty"], ["full"], "empty"),
        (["12 objects"], ["objects"], "12 objects"),
    ],
)
def test_lines_are_compared_loosely(shown: list[str], printed: list[str], missing: str) -> None:
    """In their order, with other numbers and blanks."""
    assert Ids().compare(shown, printed) == missing


def test_ids_stand_for_those_that_were_printed() -> None:
    """Whole and cut, in what is typed and in what is shown later."""
    ids = Ids()

    assert ids.compare([f"job {ID}"], [f"job {OTHER}"]) == ""
    assert ids.put(f"watch 5f0e; get {ID}; 5f0e3f0c") == f"watch aaaa; get {OTHER}; aaaabbbb"
    assert ids.compare(["job 5f0e3f0c"], ["job aaaabbbb"]) == ""
    assert ids.compare([f"job {ID}"], [f"job {ID}"]) == f"job {ID}"
