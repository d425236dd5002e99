"""The pages say what the code does."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from rebalancer.config import AgentConfig, ManagerConfig, read_agent, read_manager
from rebalancer.domain import states

ROOT = Path(__file__).parent.parent


def rows(page: Path) -> list[tuple[str, ...]]:
    """The rows of all tables of a page, without their headings."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


@pytest.mark.parametrize("table", [states.OBJECT, states.LINK, states.ASSIGNMENT, states.JOB])
def test_the_page_of_states_has_every_change(table: Mapping[Any, Mapping[Any, Any]]) -> None:
    """Each change of state in the tables is a row of the page, in their order."""
    expected = [
        (str(state), str(event), str(new))
        for state, events in table.items()
        for event, new in events.items()
    ]
    page = [row for row in rows(ROOT / "docs" / "states.md") if len(row) == 3]

    assert [row for row in page if row in expected] == expected


def test_the_page_of_states_has_no_other_change() -> None:
    """No row of the page is a change that the tables do not have."""
    known = {
        (str(state), str(event), str(new))
        for table in (states.OBJECT, states.LINK, states.ASSIGNMENT, states.JOB)
        for state, events in table.items()
        for event, new in events.items()
    }
    shown = {row for row in rows(ROOT / "docs" / "states.md") if len(row) == 3}

    assert shown - {("state", "event", "next")} <= known | {("---", "---", "---")}


def test_every_module_that_the_page_of_the_architecture_names_exists() -> None:
    """A reader who follows a path finds it."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", page))

    paths = [
        p.as_posix()
        for top in ("rebalancer", "devregion", "tests")
        for p in (ROOT / top).rglob("*.py")
    ]
    assert [name for name in named if not any(p.endswith(f"/{name}") for p in paths)] == []


def test_the_page_of_modules_is_what_the_modules_say() -> None:
    """`tools/modules` makes it anew of their docstrings."""
    checked = subprocess.run([ROOT / "tools/modules", "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_dependency_is_explained() -> None:
    """Each installed package has its line in the README."""
    text = (ROOT / "setup.cfg").read_text().partition("[options.packages.find]")[0]
    packages = re.findall(r"^[ \t]+([a-z0-9-]+)>=", text, re.MULTILINE)  # an sdist has tabs
    readme = (ROOT / "README.md").read_text()

    assert len(packages) > 10
    assert [name for name in packages if name not in readme] == []


def keys(kind: Any) -> set[str]:
    """Every key of a configuration, dotted below its table."""
    found = set()
    for field in attrs.fields(kind):
        if attrs.has(field.type):
            found |= {f"{field.name}.{key}" for key in keys(field.type)}
        else:
            found.add(field.name)
    return found


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool that writes the parts of the pages that are made of the code, as a module."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_made_of_the_code_is_what_the_code_says() -> None:
    """Configuration, command line, the APIs' documents: `tools/reference` writes them anew."""
    # In a process of its own, because click remembers by which options help was asked for before.
    tool = str(ROOT / "tools" / "reference.py")
    checked = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_page_that_is_not_what_would_be_made_is_named(reference: ModuleType) -> None:
    """The test above can fail; what is between the parts is nobody's but the writer's."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    changed = page.replace("| `domain_name` | required |", "| `domain_name` | none |")

    assert changed != page
    assert reference.filled(changed) == page
    assert reference.filled(page.replace("# Config", "# My config")).startswith("# My config")


@pytest.mark.parametrize("kind", [ManagerConfig, AgentConfig])
def test_every_key_says_in_a_sentence_what_it_means(reference: ModuleType, kind: Any) -> None:
    """And each number its unit, but where it has no effect."""
    for name, field in reference.fields_of(kind):
        assert re.fullmatch(r"[A-Zs].*[.`]|.*: .*\.", field.metadata["about"]), name
        is_number = field.type in (int, float) and "no effect" not in field.metadata["about"]
        assert field.metadata["unit"] or not is_number, name


def document_keys(value: Any, kind: Any, prefix: str = "") -> set[str]:
    found = set()
    for name, item in value.items():
        inner: Any = attrs.fields_dict(kind)[name].type
        if attrs.has(inner):
            found |= document_keys(item, inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_example_of_the_manager_has_every_key_at_its_default() -> None:
    """etc/manager.json can be read, names every key, and shows each default."""
    text = (ROOT / "etc" / "manager.json").read_text()
    config = read_manager(text, "etc/manager.json")

    assert document_keys(json.loads(text), ManagerConfig) == keys(ManagerConfig)
    required = {"domain_name", "shards", "hosts", "storinfo_url"}
    default = ManagerConfig(config.domain_name, config.shards)
    for field in attrs.fields(ManagerConfig):
        if field.name not in required:
            assert getattr(config, field.name) == getattr(default, field.name), field.name


def test_the_example_of_the_agent_has_every_key_at_its_default() -> None:
    """etc/agent.toml can be read, names every key, and shows each default."""
    text = (ROOT / "etc" / "agent.toml").read_text()
    config = read_agent(text, "etc/agent.toml")

    assert document_keys(tomllib.loads(text), AgentConfig) == keys(AgentConfig)
    shown = attrs.evolve(config, hosts={}, storage=attrs.evolve(config.storage, temp_dir=""))
    assert shown == AgentConfig()


def test_every_test_that_holds_a_mended_fault_exists() -> None:
    """The page of what went wrong once names tests that there are."""
    page = (ROOT / "docs" / "robustness.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    known = {
        path: set(
            re.findall(r"^(?:async )?def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE)
        )
        for path in {path for path, _ in named}
    }

    assert len(named) > 150
    assert [(path, name) for path, name in named if name and name not in known[path]] == []
    for row in rows(ROOT / "docs" / "robustness.md"):
        assert "`tests/" in row[-1] or row[-1] in ("held by", "---"), row


def test_the_page_of_the_architecture_is_short() -> None:
    """It can be read before the first cup is empty."""
    assert len((ROOT / "docs" / "architecture.md").read_text().split()) < 900


def test_every_decision_is_in_the_list() -> None:
    """Each page has a number, a title and its three parts, and its line in the list."""
    folder = ROOT / "docs" / "decisions"
    pages = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    expected = []
    for number, page in enumerate(pages, 1):
        title, *parts = re.findall(r"^##? (.+)$", page.read_text(), re.MULTILINE)
        assert page.name.startswith(f"{number:04d}-"), page.name
        assert parts == ["Context", "Decision", "Consequences"], page.name
        expected.append((str(number), f"[{title.removeprefix(f'{number}. ')}]({page.name})"))

    assert rows(folder / "README.md")[2:] == expected


def test_every_file_that_contributors_are_sent_to_exists() -> None:
    """The lists of files in CONTRIBUTING.md; a name in <> stands for any."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:rebalancer|devregion|tests|docs|etc|tools)/[\w/.]+)`", page))

    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def links(page: Path) -> list[str]:
    """The files that a page links to, as it spells them."""
    found = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text())
    return [link for link in found if "://" not in link]


def test_every_link_between_pages_leads_somewhere() -> None:
    """From README, CONTRIBUTING, the changelog and all of docs/."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("changelog.d/*.md")]
    broken = [
        (page.name, link)
        for page in pages
        for link in links(page)
        if not (page.parent / link).exists()
    ]

    assert broken == []


def test_no_page_is_an_orphan() -> None:
    """From README, by links alone, a reader comes to every page, and to every file beside them."""
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            waiting += [(page.parent / link).resolve() for link in links(page)]
    kinds = ("*.md", "api/*.json", "examples/*", "*.png")
    files = {path for kind in kinds for path in (ROOT / "docs").rglob(kind)}
    made_of = set((ROOT / "docs" / "performance").iterdir())

    assert files - made_of - reached == set()


def test_the_readme_is_read_at_a_sitting() -> None:
    """It says what this is, and where to go next; pages have the rest."""
    assert len((ROOT / "README.md").read_text().split()) < 750


def test_every_heading_that_a_page_links_to_exists() -> None:
    """As GitHub makes its anchors."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = []
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", page.read_text()):
            if "://" not in target:
                text = (page.parent / target).read_text() if target else page.read_text()
                headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
                known = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
                broken += [(page.name, target, anchor)] if anchor not in known else []

    assert broken == []
