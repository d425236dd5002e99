"""The table of what a replacement must do has a test in every row."""

from tests.parity import TABLE, TESTS, Row, find_marks, read_rows, without_test


def test_every_row_has_a_test() -> None:
    """Or a reason why it needs none; no row has both."""
    rows, marks = read_rows(TABLE.read_text()), find_marks(TESTS)

    assert without_test(rows, marks) == []
    assert [row.id for row in rows if row.by_construction and row.id in marks] == []
    assert len(rows) > 150


def test_every_mark_is_of_a_row() -> None:
    """A row that is misspelt or gone proves nothing."""
    known = {row.id for row in read_rows(TABLE.read_text())}

    assert set(find_marks(TESTS)) - known == set()


def test_a_row_without_a_test_is_seen() -> None:
    """Unless it says why it needs none."""
    rows = read_rows('[a]\nX-1 = "x"\nX-2 = "y"\nX-3 = "z"\n[by-construction]\nX-2 = "no y"')

    assert rows[1] == Row("X-2", "a", "y", "no y")
    assert without_test(rows, {"X-1": ["test_x"]}) == ["X-3"]
