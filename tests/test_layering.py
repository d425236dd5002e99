"""Who may know what: imports go downward only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rebalancer"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Folder or file -> prefixes of modules it must not import.
FORBIDDEN = {
    "manager": ["rebalancer.agent", "rebalancer.devregion"],
    "agent": ["rebalancer.manager", "rebalancer.devregion", "rebalancer.peers.moray"],
    "peers": ["rebalancer.manager", "rebalancer.agent", "rebalancer.devregion", "sqlite3"],
    "manager/pipeline": [
        "sqlite3",
        "h11",
        "quart",
        "rebalancer.serving",
        "rebalancer.peers.moray.fast",
    ],
    "peers/moray/fast.py": ["trio", "socket"],
    "agent/transfer/sources/engine.py": ["trio", "socket"],
    "adm": ["rebalancer.manager", "rebalancer.agent", "rebalancer.devregion", "sqlite3"],
    "wire.py": ["rebalancer.manager", "rebalancer.agent", "rebalancer.peers", "trio"],
}
#: Modules that these places alone, files or folders, may import.
ONLY_IN = {
    "pycurl": {"agent/transfer/sources/curl.py", "agent/transfer/sources/sockets.py"},
    "h11": {
        "peers/connections.py",
        "serving",
        "devregion/storagenode.py",
        "agent/transfer/sources/plain.py",
    },
    "quart": {"serving/quartapp.py", "manager/http/api.py"},
    "quart_trio": {"serving/quartapp.py"},
    "werkzeug": {"serving/quartapp.py"},
    "cattrs": {"wire.py"},
    # What these refuse, and that they refuse what is nested too deeply, is told in one place each.
    "tomllib": {"wire.py"},
    "msgspec": {"jsontext.py", "agent/state/posted.py"},
    "psycopg": {"peers/postgres.py", "devregion/postgres.py"},
    "sqlite3": {
        "sqlite.py",
        "layout.py",
        "agent/state/store.py",
        "agent/state/statefile.py",
        "manager/store",
        "manager/jobs/index.py",
        "devregion",
    },
}
PURE = {"attrs", "rebalancer"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_it_may_know(path: Path) -> None:
    """The table above holds for every module."""
    name = path.relative_to(PACKAGE).as_posix()
    used = imports(path)
    for where, forbidden in FORBIDDEN.items():
        if name == where or name.startswith(f"{where}/"):
            for prefix in forbidden:
                bad = {m for m in used if m == prefix or m.startswith(f"{prefix}.")}
                assert not bad, f"{name} imports {bad}"
    for module, homes in ONLY_IN.items():
        is_home = any(name == home or name.startswith(f"{home}/") for home in homes)
        assert module not in used or is_home, f"{name} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "domain").glob("*.py")), ids=lambda p: p.name)
def test_the_domain_is_pure(path: Path) -> None:
    """Decisions import the standard library, attrs, errors, JSON and each other; no I/O."""
    for module in imports(path):
        top = module.partition(".")[0]
        assert top not in {"trio", "sqlite3", "socket", "os", "time", "pathlib", "logging"}, module
        if top == "rebalancer":
            assert module.startswith(
                ("rebalancer.domain", "rebalancer.errors", "rebalancer.jsontext")
            ), module


@pytest.mark.parametrize(
    ("program", "has_framework"),
    [("agent.main", False), ("adm.commands", False), ("manager.main", True)],
)
def test_only_a_manager_has_the_web_framework_in_memory(program: str, has_framework: bool) -> None:
    """An agent, which runs on every storage node, would be larger by a fifth."""
    code = f"import sys, rebalancer.__main__, rebalancer.{program}; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())

    assert f"rebalancer.{program}" in loaded
    for name in ("quart", "quart_trio", "werkzeug", "hypercorn"):
        assert (name in loaded) == has_framework, name
