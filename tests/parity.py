"""The rows of `parity.toml` and the tests that bear their marks; as a program, it prints them."""

import ast
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

TESTS = Path(__file__).parent
TABLE = TESTS / "parity.toml"
#: The table of `parity.toml` that says why rows need no test; all others hold rows.
BY_CONSTRUCTION = "by-construction"


@attrs.frozen
class Row:
    """What must hold, in which part of the table, and why without a test if so."""

    id: str
    part: str
    text: str
    by_construction: str | None


def read_rows(text: str) -> list[Row]:
    """The rows in their order."""
    parts = tomllib.loads(text)
    reasons = parts.pop(BY_CONSTRUCTION, {})
    return [
        Row(name, part, holds, reasons.get(name))
        for part, rows in parts.items()
        for name, holds in rows.items()
    ]


def find_marks(folder: Path) -> dict[str, list[str]]:
    """The tests below `folder` by the rows they are marked with, as `file::name`.

    The files are read, not run.
    """
    found = defaultdict[str, list[str]](list)
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for row in _rows_of(node):
                    found[row].append(f"{path.relative_to(folder.parent)}::{node.name}")
    return dict(found)


def _rows_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.row":
            yield from (ast.literal_eval(argument) for argument in decorator.args)


def without_test(rows: list[Row], marks: Mapping[str, list[str]]) -> list[str]:
    """The ids of rows that need a test and have none."""
    return [row.id for row in rows if not (row.by_construction or marks.get(row.id))]


def main() -> int:
    """Print the table; the exit status says whether each row has a test."""
    rows, marks = read_rows(TABLE.read_text()), find_marks(TESTS)
    part = ""
    for row in rows:
        if row.part != part:
            part = row.part
            print(f"\n{part}\n")
        print(f"{row.id:<13} {row.text}")
        proofs = marks.get(row.id) or [row.by_construction or "NO TEST"]
        for proof in proofs:
            print(f"{'':<13}     {proof}")
    missing = without_test(rows, marks)
    tests = {test for found in marks.values() for test in found}
    print(f"\n{len(rows)} rows, {len(tests)} tests; without a test: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
