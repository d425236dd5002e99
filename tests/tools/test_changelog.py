"""`tools/changelog` moves fragments into the section of a version."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "changelog"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The tool as a module, which works in a folder of its own."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location(
        "changelog", loader=SourceFileLoader("changelog", str(TOOL))
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT = tmp_path  # type: ignore[attr-defined]
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / "README.md").write_text("# How to\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 1.0.0 (2026-11-26)\n\n- Old.\n")
    return module


def test_fragments_become_the_section_of_a_new_version(tool: ModuleType) -> None:
    """The section is on top, its entries are in the order of the files' names."""
    (tool.ROOT / "changelog.d" / "b.md").write_text("- Later.\n")
    (tool.ROOT / "changelog.d" / "a.md").write_text("- Earlier,\n  on two lines.\n")

    tool.main("1.1.0", "2026-12-01")

    assert (tool.ROOT / "CHANGELOG.md").read_text() == (
        "# Changes\n\n## 1.1.0 (2026-12-01)\n\n- Earlier,\n  on two lines.\n- Later.\n\n"
        "## 1.0.0 (2026-11-26)\n\n- Old.\n"
    )
    assert [path.name for path in (tool.ROOT / "changelog.d").iterdir()] == ["README.md"]


def test_fragments_are_added_to_the_section_of_the_newest_version(tool: ModuleType) -> None:
    """A change that comes in before the tag is not lost."""
    (tool.ROOT / "changelog.d" / "a.md").write_text("- New.")

    tool.main("1.0.0", "2026-12-01")

    text = (tool.ROOT / "CHANGELOG.md").read_text()
    assert text == "# Changes\n\n## 1.0.0 (2026-11-26)\n\n- Old.\n- New.\n"


def test_a_version_that_was_followed_by_another_gets_no_entries(tool: ModuleType) -> None:
    """What was released stays as it was."""
    page = tool.ROOT / "CHANGELOG.md"
    page.write_text("## 2.0.0 (x)\n\n- B.\n\n## 1.0.0 (y)\n\n- A.\n")
    (tool.ROOT / "changelog.d" / "a.md").write_text("- New.\n")

    with pytest.raises(ValueError, match="before 2\\.0\\.0"):
        tool.main("1.0.0", "z")
    assert (tool.ROOT / "changelog.d" / "a.md").exists()


@pytest.mark.parametrize(
    "text", ["", "New.\n", "- New.\nmore\n", "- New.\n\n- More.\n", "  more\n"]
)
def test_a_fragment_of_another_form_is_refused(tool: ModuleType, text: str) -> None:
    """Nothing is changed, and the message names the file."""
    before = (tool.ROOT / "CHANGELOG.md").read_text()
    (tool.ROOT / "changelog.d" / "odd.md").write_text(text)

    with pytest.raises(SystemExit, match=r"odd\.md"):
        tool.main("1.1.0", "z")
    assert (tool.ROOT / "CHANGELOG.md").read_text() == before


def test_the_fragments_of_this_checkout_have_the_form(tool: ModuleType) -> None:
    """A release does not stop at one that was merged long ago."""
    tool.ROOT = TOOL.parents[1]  # type: ignore[attr-defined]
    faults = [
        fault for path in tool.fragments() for fault in tool.faults(path.name, path.read_text())
    ]

    assert faults == []
