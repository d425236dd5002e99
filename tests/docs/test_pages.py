"""Every command that a page shows in a `console` block is run, on one small region, in order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.docs.console import BLOCK, Command, commands
from tests.docs.session import ROOT, SERVE, Session, session

pytestmark = pytest.mark.process
DOCS = ROOT / "docs"
REHEARSAL = DOCS / "rehearsal.md"
#: The pages with commands to run; each finds the region as those before it have left it.
PAGES = [REHEARSAL, DOCS / "operating.md", DOCS / "integrating.md"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session with a region that runs, made as the page of the rehearsal says."""
    for program in ("bash", "curl", "jq", "sqlite3"):
        require(program)
    with session(tmp_path_factory.mktemp("pages")) as made:
        made.run(_begin())
        yield made


def _begin() -> list[Command]:
    """The commands of the rehearsal until a shell knows its region."""
    found = list(commands(REHEARSAL))
    texts = [command.text for command in found]
    return found[: texts.index(SERVE) + 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_it_shows(shell: Session, page: Path) -> None:
    found = list(commands(page))
    shell.run(found[len(_begin()) :] if page == REHEARSAL else found)


def test_every_page_with_commands_is_run() -> None:
    """None is left out of the list."""
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    assert {page for page in pages if BLOCK.search(page.read_text())} == set(PAGES)
