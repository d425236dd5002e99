"""Rows of a Rust manager's jobs, as they may be and as they should not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.imported import read_job_state, read_node, read_object
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Column
from rebalancer.domain.states import JobState, ObjectStatus
from tests.rust import COLUMNS, ERRORS, REASONS, STATUSES

GOOD = json.dumps({"key": "/a/stor/x", "contentLength": 5})


@pytest.mark.parametrize(
    ("status", "column", "word"),
    [
        *(("skipped", Column.SKIPPED_REASON, word) for word in REASONS[:16]),
        *(("error", Column.ERROR, word) for word in ERRORS),
    ],
)
def test_a_reason_keeps_its_word_and_column(status: str, column: Column, word: str) -> None:
    """All that the Rust program's columns allow."""
    row = {**COLUMNS, "id": "x", "object": GOOD, "status": status, column: word}
    made = read_object(row)

    assert made.reason is not None
    assert (made.status, made.reason.word, made.reason.column) == (status, word, column)
    assert (made.key, made.bytes, made.is_odd) == ("/a/stor/x", 5, False)


WORDS = st.none() | st.text(max_size=9) | st.sampled_from([*STATUSES, *REASONS[:9], *ERRORS])


@given(WORDS, WORDS, WORDS, st.none() | st.text() | st.just(GOOD) | st.just("[" * 9999))
def test_any_row_is_read(status: Any, reason: Any, error: Any, text: Any) -> None:
    """With a status of ours, at most one reason, and a record that can be read if it is kept."""
    row = {**COLUMNS, "id": "x", "status": status, "object": text}
    made = read_object({**row, "skipped_reason": reason, "error": error})

    assert made.status == status or (made.is_odd and made.status is ObjectStatus.SKIPPED)
    assert (made.reason is None) == (made.status not in ("skipped", "error"))
    assert made.text is None or isinstance(json.loads(made.text), dict)
    assert (made.text is None) == (made.key is None)
    assert not made.is_odd or made.detail


def test_the_state_of_a_job_that_had_not_ended_is_told() -> None:
    """Only what was recorded as complete is."""
    assert read_job_state("complete") == (JobState.COMPLETE, None)
    for word in ("failed", "running", "setup", "init", "stopped", "odd"):
        state, error = read_job_state(word)
        assert state is JobState.FAILED
        assert word in str(error)


@pytest.mark.parametrize("text", [None, "", "{", "5", "{}", '{"datacenter": 1}', "[" * 9999,
                                  '{"datacenter": "dc1", "manta_storage_id": "a/b"}'])  # fmt: skip
def test_a_node_that_cannot_be_one_is_refused(text: str | None) -> None:
    """No job can be about it."""
    with pytest.raises(ValueError, match="does not say which node"):
        read_node(text)
    assert read_node('{"datacenter": "d", "manta_storage_id": "1.s"}') == Shark("d", "1.s")
