"""Reasons in their three spellings."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Column, Reason, read_word, words_of
from rebalancer.manager.store.schema import JOB_FILE
from tests.domain.test_state_words import PACKAGE, constants

SPELLINGS = {
    "AgentFSError": "agent_fs_error",
    "AgentAssignmentNoEnt": "agent_assignment_no_ent",
    "AgentBusy": "agent_busy",
    "AssignmentError": "assignment_error",
    "AssignmentMismatch": "assignment_mismatch",
    "AssignmentRejected": "assignment_rejected",
    "DestinationInsufficientSpace": "destination_insufficient_space",
    "DestinationUnreachable": "destination_unreachable",
    "MD5Mismatch": "md5_mismatch",
    "NetworkError": "network_error",
    "ObjectAlreadyOnDestShark": "object_already_on_dest_shark",
    "ObjectAlreadyInDatacenter": "object_already_in_datacenter",
    "SourceOtherError": "source_other_error",
    "SourceIsEvacShark": "source_is_evac_shark",
}


@pytest.mark.row("TEST-TYPES-2")
@pytest.mark.parametrize(("name", "column"), SPELLINGS.items())
def test_columns_are_spelled_as_the_predecessor_did(name: str, column: str) -> None:
    """Every reason has the column text operators query for."""
    assert column == Reason(name).word
    assert Reason(name).is_known


@pytest.mark.row("TEST-TYPES-2")
def test_status_codes_keep_their_braces() -> None:
    """A code is a reason of its own, in braces."""
    assert reasons.http_status_code(404).word == "{http_status_code:404}"


def test_a_status_code_is_read_from_its_word() -> None:
    """Metrics count all codes under one label; a word that only looks like one stays unknown."""
    assert read_word("{http_status_code:404}") == reasons.http_status_code(404)
    unknown = read_word("{http_status_code:0404}")
    assert unknown is not None
    assert unknown.label == "unknown_reason"


@pytest.mark.row("CRIT-6")
def test_an_unknown_reason_is_kept() -> None:
    """Text nobody knows is neither lost nor turned into something else."""
    assert Reason("OutOfCoffee").name == "OutOfCoffee"
    assert not Reason("OutOfCoffee").is_known


@pytest.mark.parametrize("reason", [Reason("OutOfCoffee"), Reason("HTTPStatusCode", -1)])
def test_what_columns_cannot_hold_is_no_known_reason(reason: Reason) -> None:
    """Nor does it make another label in metrics."""
    assert not reason.is_known
    assert reason.label == "unknown_reason"
    assert reasons.http_status_code(404).label == "http_status_code"


# --- one type for all columns --------------------------------------------------------------------


def test_no_agent_can_send_a_reason_of_ours() -> None:
    """A word such as `deleted` would have a copy taken for one that its record does not name."""
    sent = Reason("deleted")
    assert sent != reasons.DELETED
    assert not sent.is_known
    assert not sent.is_gone
    assert sent.label == reasons.UNKNOWN.word


@given(st.sampled_from(Column).flatmap(lambda c: st.sampled_from(sorted(words_of(c)))) | st.text())
def test_a_word_that_is_read_stays_as_it_is(word: str) -> None:
    """Whatever a person has written into a column is listed as it is."""
    reason = read_word(word)
    assert reason is not None
    assert reason.word == word


@pytest.mark.parametrize("column", [Column.ERROR, Column.SKIPPED_REASON])
def test_the_layout_of_files_has_the_words_of_reasons(column: Column) -> None:
    """CHECKs are frozen with the files, so a word that they lack would stop a job."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        JOB_FILE.bring_up(db)
        (shape,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'progress'").fetchone()
    check = re.search(rf"{column} IN \(([^)]*)\)", shape)
    assert check is not None
    assert set(re.findall(r"'(\w+)'", check[1])) == words_of(column)


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "reasons.py")
#: Words that name something else too: a wish of an operator, and a field of a body.
ALSO_OTHERS = {"cancelled", "deleted"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_other_module_spells_a_reason(path: Path) -> None:
    """One that is spelled elsewhere has no column and no remedy."""
    own = frozenset().union(*(words_of(column) for column in Column)) - ALSO_OTHERS
    name = path.relative_to(PACKAGE).as_posix()
    spelled = [
        (line, text)
        for line, text in constants(path)
        if text in own or any(f"'{word}'" in text for word in own)
    ]
    assert spelled == [] or name in ("agent/metrics.py", "manager/store/schema.py")
