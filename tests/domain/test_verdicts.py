"""Whether an ended job has emptied its node: each word of a verdict, and when it may be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Column, words_of
from rebalancer.domain.states import JobState, ObjectStatus
from rebalancer.domain.verdicts import (
    BUCKET_OBJECTS,
    DROPPED,
    End,
    Scope,
    Verdict,
    Word,
    of_evacuation,
    of_verification,
)

JOB, NODE = "0fd630f1", "1.stor.lab"
C, F = JobState.COMPLETE, JobState.FAILED
MOVED = {("complete", ""): 42}
STUCK = {("skipped", "destination_unreachable"): 40, ("error", "missing_sharks"): 2}


def verdict(
    end: End, *scope: Scope, state: JobState | None = C, has_buckets: bool = False
) -> Verdict:
    return of_evacuation(JOB, NODE, state, scope, end, has_buckets=has_buckets)


def causes(found: Verdict) -> dict[str, int | None]:
    return {cause.word: cause.count for cause in found.causes}


@pytest.mark.parametrize(
    ("end", "scope", "state", "word", "left"),
    [
        # A whole evacuation: the last final scan decides, and not what became of the objects.
        (End(MOVED, {}), (), C, "empty", {}),
        (End({}, {}), (), C, "empty", {}),
        (End({("skipped", "md5_mismatch"): 1}, {}), (), C, "empty", {}),
        (End(MOVED, {"upload_in_progress": 2}), (), C, "not_empty", {"upload_in_progress": 2}),
        (End(MOVED, {"excluded": 3}), (), C, "partial", {"excluded": 3}),
        (
            End(MOVED, {"excluded": 3, "found_too_late": 1}),
            (),
            C,
            "not_empty",
            {"excluded": 3, "found_too_late": 1},
        ),
        # Nobody has looked at the end.
        (End(MOVED), (Scope.NO_FINAL_SCAN,), C, "partial", {"no_final_scan": None}),
        # A retry that moves none of its objects, and one that moves them all.
        (
            End(STUCK),
            (Scope.RETRIED,),
            C,
            "not_empty",
            {
                "destination_unreachable": 40,
                "missing_sharks": 2,
                "retried_objects_only": None,
            },
        ),
        (End(MOVED), (Scope.RETRIED,), C, "partial", {"retried_objects_only": None}),
        (End({}, dropped=7), (Scope.RETRIED,), C, "partial", {"retried_objects_only": None}),
        # A file whose lines name nothing that is there.
        (
            End({}, dropped=5),
            (Scope.OBJECTS_FILE,),
            C,
            "partial",
            {"objects_file": None, "dropped": 5},
        ),
        # A user's write won: nothing is left of these objects.
        (
            End({("skipped", "deleted"): 1, ("skipped", "overwritten"): 2}),
            (Scope.MAX_OBJECTS,),
            C,
            "partial",
            {"max_objects": None},
        ),
        (End(MOVED, links={"waiting": 1}), (Scope.MAX_OBJECTS,), C, "not_empty", None),
        # Not to its end, whatever it has done by then.
        (End(MOVED, {}), (), F, "not_done", {"failed": None}),
        (End({("unprocessed", ""): 3}, {}), (), F, "not_done", {"unprocessed": 3}),
        (
            End({("skipped", "cancelled"): 9}),
            (Scope.NO_FINAL_SCAN,),
            JobState.CANCELLED,
            "not_done",
            {"cancelled": 9},
        ),
        (End({}), (), None, "not_done", {"failed": None}),
    ],
)
def test_how_an_evacuation_has_ended(
    end: End,
    scope: tuple[Scope, ...],
    state: JobState | None,
    word: str,
    left: dict[str, int | None] | None,
) -> None:
    """Each word of a verdict, with the counts by cause."""
    found = verdict(end, *scope, state=state)

    assert found.word == word
    assert left is None or causes(found) == left
    assert found.line.startswith(word.replace("_", " ") + ": ")
    assert "\n" not in found.line


def test_the_command_that_acts_on_each_cause_is_named() -> None:
    """By the id of the job and the name of the node, to be copied."""
    why = {
        "{http_status_code:404}": 5,
        "destination_unreachable": 40,
        "missing_sharks": 2,
        "upload_in_progress": 1,
        "excluded": 3,
        "found_too_late": 1,
        "other": 1,
    }
    found = verdict(End({("complete", ""): 0}, why), has_buckets=True)

    assert {cause.word: cause.command for cause in found.causes} == {
        # In quotes, for braces mean something to a shell.
        "{http_status_code:404}": (
            f"rebalancer adm job objects {JOB} --reason '{{http_status_code:404}}'"
        ),
        "destination_unreachable": f"rebalancer adm job retry {JOB}",
        "excluded": f"rebalancer adm job create evacuate --shark {NODE}",
        "found_too_late": f"rebalancer adm job retry {JOB}",
        "missing_sharks": f"rebalancer adm job objects {JOB} --reason missing_sharks",
        "other": f"rebalancer adm job report {JOB}",
        "upload_in_progress": f"rebalancer adm node check {NODE}",
        BUCKET_OBJECTS: None,
    }
    assert found.line == (
        f"not empty: 0 of 0 objects moved, 53 records still name {NODE}:"
        " destination_unreachable 40, excluded 3, found_too_late 1, missing_sharks 2, other 1,"
        " upload_in_progress 1, {http_status_code:404} 5, bucket_objects_not_looked_at"
    )


def test_a_region_with_bucket_objects_is_never_said_to_be_empty() -> None:
    """Nobody has looked at them."""
    found = verdict(End(MOVED, {}), has_buckets=True)

    assert (found.word, causes(found)) == (Word.NOT_EMPTY, {BUCKET_OBJECTS: None})


REASONS = sorted(
    words_of(Column.SKIPPED_REASON) | words_of(Column.ERROR) | words_of(Column.OUTCOME) | {""}
)
ENDS = st.builds(
    End,
    st.dictionaries(
        st.tuples(
            st.sampled_from([*map(str, ObjectStatus), "duplicates"]), st.sampled_from(REASONS)
        ),
        st.integers(0, 9),
    ),
    st.none()
    | st.dictionaries(st.sampled_from([*REASONS, "upload_in_progress"]), st.integers(0, 9)),
    st.dictionaries(st.sampled_from(REASONS), st.integers(0, 9)),
    st.integers(0, 9),
)


@given(ENDS, st.sets(st.sampled_from(Scope)), st.sampled_from([None, *JobState]), st.booleans())
def test_empty_is_said_only_of_a_node_that_a_final_scan_found_empty(
    end: End, scope: set[Scope], state: JobState | None, has_buckets: bool
) -> None:
    """Whatever else a job's file says; and a verdict that asks for more names what is left."""
    if end.remaining is None and not scope:
        scope = {Scope.NO_FINAL_SCAN}  # as the action says of such a job
    found = verdict(end, *scope, state=state, has_buckets=has_buckets)
    is_proved = state is C and not scope and not has_buckets and not sum(end.remaining.values())  # type: ignore[union-attr]

    assert (found.word is Word.EMPTY) == is_proved
    assert bool(found.causes) != is_proved
    assert (found.word is Word.NOT_DONE) == (state is not C)


@pytest.mark.parametrize(
    ("objects", "state", "word", "left"),
    [
        ({("complete", ""): 5, ("skipped", "deleted"): 1}, C, "right", {}),
        ({("complete", ""): 5, ("skipped", "changing"): 1}, C, "partial", {"changing": 1}),
        ({("complete", ""): 5, ("error", "wrong_md5"): 2}, F, "faults", {"wrong_md5": 2}),
        ({("complete", ""): 5}, F, "not_done", {"failed": None}),
        (
            {("error", "wrong_md5"): 2, ("unprocessed", ""): 5},
            F,
            "not_done",
            {"wrong_md5": 2, "failed": None},
        ),
        ({("skipped", "cancelled"): 5}, JobState.CANCELLED, "not_done", {"cancelled": None}),
        (
            {("error", "wrong_md5"): 2, ("skipped", "cancelled"): 5},
            JobState.CANCELLED,
            "not_done",
            {"wrong_md5": 2, "cancelled": None},
        ),
    ],
)
def test_how_a_verification_has_ended(
    objects: dict[tuple[str, str], int], state: JobState, word: str, left: dict[str, int | None]
) -> None:
    """It has words of its own: nothing is moved by it."""
    found = of_verification(JOB, NODE, state, (), End(objects))

    assert (found.word, causes(found)) == (word, left)


@pytest.mark.parametrize(
    ("objects", "state", "word", "left"),
    [
        ({("complete", ""): 5}, C, "partial", {}),
        ({("skipped", "changing"): 1}, C, "partial", {"changing": 1}),
        ({("error", "wrong_md5"): 2}, F, "faults", {"wrong_md5": 2}),
    ],
)
def test_a_verification_that_left_shards_out_has_not_seen_all_of_its_node(
    objects: dict[tuple[str, str], int], state: JobState, word: str, left: dict[str, int | None]
) -> None:
    """Whatever it has seen, it says so."""
    found = of_verification(JOB, NODE, state, [Scope.SOME_SHARDS], End(objects))

    assert (found.word, causes(found)) == (word, {**left, "shards_left_out": None})
    assert found.causes[-1].command == f"rebalancer adm job create verify --shark {NODE}"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (verdict(End(STUCK, {"destination_unreachable": 40})), True),
        (verdict(End(MOVED, {"excluded": 1})), True),
        (verdict(End(MOVED), state=F), True),
        (verdict(End(MOVED, {})), False),
        (verdict(End(MOVED, {"upload_in_progress": 1})), False),
        (verdict(End(MOVED, {}), Scope.MAX_OBJECTS, has_buckets=True), False),
    ],
)
def test_what_another_evacuation_would_leave_as_well(found: Verdict, expected: bool) -> None:
    """Not what an evacuation did not take, or could not know yet."""
    assert found.recurs is expected


def test_words_for_what_has_no_reason_are_no_reasons() -> None:
    """A cause has one meaning."""
    known = set(REASONS) | {reasons.UPLOAD_IN_PROGRESS.word, reasons.FOUND_TOO_LATE.word}
    assert not known & {BUCKET_OBJECTS, DROPPED, *Scope}


#: Another try alone may help an object that is left for one of these.
BY_ITSELF = {"bad_moray_client", "internal_error", "cancelled", "changing"}


@pytest.mark.parametrize(
    "word",
    sorted(
        words_of(Column.SKIPPED_REASON) | words_of(Column.ERROR) | {"unknown_reason", "cancelled"}
    ),
)
def test_what_stands_in_the_way_of_another_try_is_said(word: str) -> None:
    """Without it the next job leaves the same objects, and says the same."""
    status = "error" if word in words_of(Column.ERROR) else "skipped"
    (cause,) = verdict(End({(status, word): 1}, {word: 1})).causes
    assert (cause.advice == "try once more") == (word in BY_ITSELF)
