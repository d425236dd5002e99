"""The words of states stand in one module: `domain/states.py`, whose tables decide all changes."""

import ast
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import rebalancer
from rebalancer.domain.states import (
    OPEN_ASSIGNMENTS,
    STATE_WORDS,
    AssignmentState,
    LinkStatus,
    ObjectStatus,
)
from rebalancer.manager.store.schema import JOB_FILE

PACKAGE = Path(rebalancer.__file__).parent
WORDS = {str(state) for kind in (ObjectStatus, AssignmentState, LinkStatus) for state in kind}
WORDS |= set(STATE_WORDS)
#: A word of a state as SQL has it.
IN_SQL = re.compile(f"'({'|'.join(sorted(WORDS))})'")
#: Modules in which any of the words may stand: the tables, and what must never change with them.
FREE = {"domain/states.py", "manager/store/schema.py"}
#: The name of columns, of labels of metrics and of fields of bodies too; within SQL it is a state.
ALSO_A_NAME = {"error"}
#: Fields of bodies of the API that are called like a state.
FIELDS = {"waiting", "running", "skipped", "complete", "failed"}


def constants(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the string constants of a module, and of its f-strings, which are no docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if id(node) in docstrings or not isinstance(node, ast.Constant):
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value


def offences(path: Path, name: str) -> list[str]:
    found = []
    for line, text in constants(path):
        if IN_SQL.search(text):
            found.append(f"{name}:{line}: {IN_SQL.findall(text)} in SQL")
        elif text in WORDS - ALSO_A_NAME - (FIELDS if name.startswith("manager/http/") else set()):
            found.append(f"{name}:{line}: {text!r}")
    return found


MODULES = sorted(p for part in ("domain", "manager") for p in (PACKAGE / part).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_spells_a_state(path: Path) -> None:
    """Rows change by the tables only, so nobody else has a word to write."""
    name = path.relative_to(PACKAGE).as_posix()
    if name not in FREE:
        assert offences(path, name) == []


@pytest.mark.parametrize(
    "text",
    [
        "db.execute(\"UPDATE progress SET status = 'complete'\")",
        "db.execute(f\"SELECT {columns} FROM links WHERE status IN ('waiting', ?)\")",
        "x.state == 'agent_complete'",
        "log.debug('assignment', state='post_processed')",
    ],
)
def test_a_spelled_state_is_found(text: str, tmp_path: Path) -> None:
    """The test above can fail."""
    module = tmp_path / "module.py"
    module.write_text(text)
    assert len(offences(module, "manager/store/module.py")) == 1


def test_the_layout_of_files_has_the_words_of_the_tables() -> None:
    """CHECKs and partial indices are frozen with the files, so the enums must not leave them."""
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        JOB_FILE.bring_up(db)
        shapes = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    db.close()
    for table, column, kind in (
        ("progress", "status", ObjectStatus),
        ("links", "status", LinkStatus),
        ("assignments", "state", AssignmentState),
    ):
        check = re.search(rf"CHECK \({column} IN \(([^)]*)\)\)", shapes[table])
        assert check is not None
        assert set(re.findall(r"'(\w+)'", check[1])) == set(kind), table
    assert re.findall(r"'(\w+)'", shapes["waiting"]) == [ObjectStatus.UNPROCESSED]
    assert re.findall(r"'(\w+)'", shapes["open_assignments"]) == list(OPEN_ASSIGNMENTS)
    assert re.findall(r"DEFAULT '(\w+)'", shapes["links"]) == [LinkStatus.WAITING]
