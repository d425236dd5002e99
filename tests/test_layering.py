"""Who may know what: imports go downward only."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from rebalancer.actions import DECLARED
from rebalancer.actions.declaration import parameters_of

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rebalancer"
#: The modules of both distributions, by what the tables below call them.
MODULES = {
    path.relative_to(folder).as_posix(): path
    for folder in (PACKAGE, ROOT / "devregion")
    for path in sorted(folder.rglob("*.py"))
}

#: Folder or file -> prefixes of modules it must not import.
FORBIDDEN = {
    "api": [
        "rebalancer.manager",
        "rebalancer.agent",
        "rebalancer.adm",
        "rebalancer.peers",
        "rebalancer.serving",
        "trio",
    ],
    "manager": ["rebalancer.agent", "rebalancer_devregion"],
    "agent": ["rebalancer.manager", "rebalancer_devregion", "rebalancer.peers.moray"],
    "peers": ["rebalancer.manager", "rebalancer.agent", "rebalancer_devregion", "sqlite3"],
    "manager/pipeline": [
        "sqlite3",
        "h11",
        "quart",
        "rebalancer.serving",
        "rebalancer.peers.moray.fast",
    ],
    "peers/moray/fast.py": ["trio", "socket"],
    # It runs on a Python that cannot import trio; these two modules are imported on others only.
    **{
        name: ["trio", "rebalancer.manager", "rebalancer.adm.client"]
        for name in MODULES
        if name.startswith("doctor/")
        and name not in {"doctor/look/region.py", "doctor/look/jobs.py"}
    },
    "doctor/judge": ["trio", "os", "socket", "time", "rebalancer.config", "rebalancer.peers"],
    "agent/transfer/sources/engine.py": ["trio", "socket"],
    "adm": ["rebalancer.manager", "rebalancer.agent", "rebalancer_devregion", "sqlite3"],
    "actions": [
        "rebalancer.manager",
        "rebalancer.agent",
        "rebalancer_devregion",
        "rebalancer.adm",
        "rebalancer.peers",
        "click",
        "trio",
    ],
    "agent_protocol.py": ["rebalancer.manager", "rebalancer.agent", "rebalancer.peers", "trio"],
    "converter.py": ["rebalancer.manager", "rebalancer.agent", "rebalancer.peers", "trio"],
}
#: Modules that these places alone, files or folders, may import.
ONLY_IN = {
    "pycurl": {
        "agent/transfer/sources/curl.py",
        "agent/transfer/sources/driver.py",
        "agent/transfer/sources/exchange.py",
        "agent/transfer/sources/sockets.py",
    },
    "h11": {
        "peers/connections.py",
        "serving",
        "rebalancer_devregion/storagenode.py",
        "agent/transfer/sources/plain.py",
    },
    "quart": {"serving/quartapp.py", "manager/http/api.py", "manager/page/routes.py"},
    "jinja2": {"manager/page/templating.py"},
    "markupsafe": {"manager/page/templating.py"},
    "quart_trio": {"serving/quartapp.py"},
    "werkzeug": {"serving/quartapp.py"},
    "cattrs": {"converter.py"},
    # What these refuse, and that they refuse what is nested too deeply, is told in one place each.
    "tomllib": {"converter.py"},
    "msgspec": {"jsontext.py", "agent/state/quick.py"},
    "fastcrc": {"peers/moray/crc.py"},
    "psycopg": {
        "peers/postgres.py",
        "rebalancer_devregion/postgres.py",
        "rebalancer_devregion/buckets",
    },
    "sqlite3": {
        "sqlite.py",
        "layout.py",
        "agent/state/reading.py",
        "agent/state/statefile.py",
        "doctor/look/disks.py",
        "doctor/look/system.py",
        "manager/store",
        "manager/jobs/index.py",
        "manager/jobs/index_repair.py",
        "rebalancer_devregion",
    },
}
#: Modules of actions -> places beside the action's own that may import them.
ALSO_IMPORT = {
    "rebalancer.actions.evacuate": {
        "adm/create.py",  # has `job plan`, which the predecessor's operators type without an action
        "manager/actions/verify/action.py",  # verifies what an evacuation has moved
    },
    # A node is empty when an evacuation would find nothing.
    "rebalancer.manager.actions.evacuate": {"manager/nodes/scan.py"},
}
#: Where evacuations call their node as the wire and the table `config` of a job's file do.
FROM_SHARK = {
    "actions/evacuate.py",
    "manager/actions/evacuate",
    "manager/store/job_info.py",
    "peers/predecessor.py",
}


@cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def is_in(name: str, places: Iterable[str]) -> bool:
    """Tell whether a module is one of these files, or below one of these folders."""
    return any(name == place or name.startswith(f"{place}/") for place in places)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_it_may_know(name: str) -> None:
    """The table above holds for every module."""
    used = imports(MODULES[name])
    for where, forbidden in FORBIDDEN.items():
        if is_in(name, [where]):
            for prefix in forbidden:
                bad = {m for m in used if m == prefix or m.startswith(f"{prefix}.")}
                assert not bad, f"{name} imports {bad}"
    for module, homes in ONLY_IN.items():
        assert module not in used or is_in(name, homes), f"{name} imports {module}"


#: What is closed by its caller.
OPENED = {"connect", "open_apart", "open_to_read", "Journal", "ShardStore"}
#: Modules with a call of these whose result has another end.
OTHERWISE_CLOSED = {
    "agent/state/statefile.py",  # with its thread
    # Returned as they are opened.
    "rebalancer_devregion/evidence.py",
    "sqlite.py",
}


def opens(node: ast.AST) -> bool:
    """Tell whether this is a call that opens a file of sqlite."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return ast.unparse(node.func) == "sqlite3.connect"
    return isinstance(node.func, ast.Name) and node.func.id in OPENED


def test_who_opens_a_file_of_sqlite_closes_it() -> None:
    """Also where the block fails or is cancelled.  Python 3.13 warns of each that is dropped."""
    found = set()
    for name, path in MODULES.items():
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        closed = {
            id(argument)
            for call in calls
            if ast.unparse(call.func) in ("closing", "closed_on_failure")
            for argument in call.args
        }
        found |= {name for call in calls if opens(call) and id(call) not in closed}

    assert found == OTHERWISE_CLOSED


@pytest.mark.parametrize("action", DECLARED)
def test_an_action_is_imported_in_its_own_places_only(action: str) -> None:
    """Elsewhere it is one of all that are declared, and one of those with the same members."""
    own = {f"manager/actions/{action}", f"manager/actions/{action}.py"}
    tables = {"actions/__init__.py", "manager/actions/registry.py"}
    for module in (f"rebalancer.actions.{action}", f"rebalancer.manager.actions.{action}"):
        places = own | tables | ALSO_IMPORT.get(module, set())
        for name, path in MODULES.items():
            used = {one for one in imports(path) if f"{one}.".startswith(f"{module}.")}
            assert not used or is_in(name, places), f"{name} imports {used}"


def test_the_room_of_jobs_names_no_parameter_of_an_action() -> None:
    """Else a job of another action, which has none of that name, would break there."""
    parameters = {name for one in DECLARED.values() for name in parameters_of(one.params)}
    for name, path in MODULES.items():
        if is_in(name, ["manager/jobs"]):
            nodes = ast.walk(ast.parse(path.read_text()))
            texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
            named = texts & parameters - {"job"}  # which log lines call their job too
            assert not named, f"{name} names {named}"


def test_only_evacuations_call_their_node_by_the_word_of_the_wire() -> None:
    """Whoever shows, schedules or recovers a job asks its declaration for the node."""
    naming = {
        name
        for name, path in MODULES.items()
        if PACKAGE in path.parents and "from_shark" in path.read_text()
    }

    assert [name for name in sorted(naming) if not is_in(name, FROM_SHARK)] == []
    assert [place for place in FROM_SHARK if not any(is_in(name, [place]) for name in naming)] == []


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


def loaded_with(*modules: str) -> set[str]:
    """The modules in memory after an import of these, in a process of their own."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


@pytest.mark.parametrize(
    ("program", "has_framework"),
    [("agent.main", False), ("adm.commands", False), ("manager.main", True)],
)
def test_only_a_manager_has_the_web_framework_in_memory(program: str, has_framework: bool) -> None:
    """An agent, which runs on every storage node, would be larger by a fifth."""
    loaded = loaded_with("rebalancer.__main__", f"rebalancer.{program}")

    assert f"rebalancer.{program}" in loaded
    for name in ("quart", "quart_trio", "werkzeug", "hypercorn"):
        assert (name in loaded) == has_framework, name


@pytest.mark.parametrize(
    "program", ["agent.main", "agent.transfer.process", "adm.commands", "manager.main"]
)
def test_no_program_has_the_embedded_region_in_memory(program: str) -> None:
    """A storage node can be installed without it."""
    loaded = loaded_with("rebalancer.__main__", f"rebalancer.{program}")

    assert f"rebalancer.{program}" in loaded
    assert [name for name in loaded if name.startswith("rebalancer_devregion")] == []


#: What `adm` needs of others, with what that needs: nothing compiled.  The file of the operator's
#: command has no more (tools/build --adm).
LIGHT = {"attr", "attrs", "cattr", "cattrs", "click", "h11", "idna", "outcome", "rich", "sniffio"}
LIGHT |= {"sortedcontainers", "trio", "typing_extensions"}


def test_the_operators_command_is_light() -> None:
    """It runs on a laptop, with few packages and without the rooms of the daemons."""
    commands = sorted((PACKAGE / "adm").glob("[!_]*.py"))
    modules = [f"rebalancer.adm.{path.stem}" for path in commands]
    loaded = loaded_with("rebalancer.__main__", *modules) - loaded_with("sys")

    ours = {name.split(".")[1] for name in loaded if name.startswith("rebalancer.")}
    assert ours & {"manager", "agent", "serving", "sqlite", "daemon"} == set()
    tops = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    spared = {"msgspec"}  # quicker where it is installed
    assert {top.lstrip("_") for top in tops} - spared <= {*LIGHT, "rebalancer"}


def test_only_the_command_line_names_the_embedded_region() -> None:
    """It imports the region at the moment of the command, if the region is installed."""
    naming = {
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if "rebalancer_devregion" in path.read_text()
    }

    assert naming == {"cli.py"}


#: Folders of tests that are of no package: they test tools, whole processes, or all readers.
OF_NO_PACKAGE = {"bench", "data", "docs", "fuzz", "installed", "process", "tools"}


def test_the_tests_mirror_the_packages() -> None:
    """Whoever changes a folder of the program finds its tests in the folder of the same name."""
    tests = Path(__file__).parent
    packages = {"devregion": ROOT / "devregion" / "rebalancer_devregion"}
    for path in tests.rglob("test_*.py"):
        top, *rest = path.parent.relative_to(tests).parts or ("",)
        if top and top not in OF_NO_PACKAGE:
            mirrored = packages.get(top, PACKAGE / top).joinpath(*rest)
            assert mirrored.is_dir(), f"{path} is the test of no folder"
