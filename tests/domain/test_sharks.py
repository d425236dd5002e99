"""Rewriting a record's sharks, and judging a record that changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark, UnusableRecord
from rebalancer.domain.reasons import Reason
from rebalancer.domain.sharks import Judgement, judge, rewrite, splice

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
OLD, NEW = "1.stor", Shark("dc1", "3.stor")


def record(*names: str, **fields: Any) -> dict[str, Any]:
    sharks = [{"datacenter": "dc1", "manta_storage_id": name, "note": name} for name in names]
    return {"objectId": ID, "sharks": sharks, **fields}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.text().filter(lambda k: k not in ("sharks", "objectId")), VALUES))
def test_invariant_4_only_the_one_entry_changes(extra: dict[str, Any]) -> None:
    """Every other field, known or not, and every other entry is written back as it was."""
    before = record("2.stor", OLD, **extra)
    after = rewrite(before, OLD, NEW)
    assert {**before, "sharks": None} == {**after, "sharks": None}
    assert list(before) == list(after)
    assert before["sharks"][0] == after["sharks"][0]
    assert after["sharks"][1] == {
        "datacenter": "dc1",
        "manta_storage_id": "3.stor",
        "note": OLD,
    }
    assert before["sharks"][1]["manta_storage_id"] == OLD  # not changed in place


@pytest.mark.row("DEF-1")
@pytest.mark.parametrize(
    ("names", "error"),
    [
        ((OLD, OLD), reasons.DUPLICATE_SHARK),
        ((OLD, "3.stor"), reasons.DUPLICATE_SHARK),
        (("2.stor",), reasons.MISSING_SHARKS),
    ],
)
def test_a_rewrite_that_would_lose_a_copy_is_refused(names: tuple[str, ...], error: Reason) -> None:
    """Twice the old shark, the new one already there, or the old one missing: no rewrite."""
    with pytest.raises(UnusableRecord) as caught:
        rewrite(record(*names), OLD, NEW)
    assert error is caught.value.reason


@pytest.mark.parametrize("sharks", [None, {}, "x", [1], [{"datacenter": "dc1"}], [{}]])
def test_malformed_sharks_are_an_error_of_the_record(sharks: Any) -> None:
    """Whatever stands for `sharks`, there is no traceback."""
    with pytest.raises(UnusableRecord) as caught:
        rewrite({"sharks": sharks}, OLD, NEW)
    assert caught.value.reason is reasons.MISSING_SHARKS


SPELLINGS = st.sampled_from(
    [
        {"separators": (",", ":"), "ensure_ascii": False},
        {"separators": (",", ":")},
        {"indent": 1, "ensure_ascii": False},
    ]
)
#: Names that a search for `sharks` in a text could take for the key, and texts that end a list.
NAMES = st.text() | st.sampled_from(
    [
        "sharks",
        '"sharks":[',
        'a"sharks',
        "]",
        "NaN",
        "Infinity",
        "\\",
        "\\u",
        'say "x"\n',
        "\\sharks",
    ]
)
SHARKS = st.fixed_dictionaries(
    {
        "datacenter": st.sampled_from(["dc1", "dc 2", "d]c", "\u00e9"]),
        "manta_storage_id": st.sampled_from([OLD, "2.stor", "3.stor", "4.stor", "../x"]),
    }
)
USUAL = st.permutations([OLD, "2.stor", "4.stor"]).map(
    lambda names: [{"datacenter": "dc1", "manta_storage_id": name} for name in names]
)
ENTRIES = (
    USUAL
    | st.lists(SHARKS, max_size=3)
    | st.lists(SHARKS | st.dictionaries(NAMES, NAMES, max_size=2), max_size=4)
)
PLAIN = st.dictionaries(st.text("ab:,{}[]", max_size=5), st.text("ab:,{}[]"), max_size=3)
FIELDS = PLAIN | st.dictionaries(
    NAMES, NAMES | VALUES | st.fixed_dictionaries({"sharks": ENTRIES}), max_size=3
)


@pytest.mark.row("DEF-1")
@given(before=FIELDS, entries=ENTRIES, after=FIELDS, spelling=SPELLINGS)
def test_invariant_4_a_text_is_rewritten_as_its_record_is(
    before: dict[str, Any], entries: list[Any], after: dict[str, Any], spelling: dict[str, Any]
) -> None:
    """Whatever else it holds, wherever its sharks are; or it is left to be parsed."""
    made = {**before, "sharks": entries, **{k: v for k, v in after.items() if k != "sharks"}}
    text = json.dumps(made, **spelling)
    found = splice(text, OLD, NEW)
    if found is not None:
        assert json.loads(found) == rewrite(json.loads(text), OLD, NEW)


#: Text within quotes, as it may be escaped.
QUOTED = st.lists(
    st.sampled_from([*"ab9 {}[]:,", r"\"", r"\\", r"\n", r"\/", r"\"sharks\":["])
).map("".join)


@given(before=QUOTED, after=QUOTED)
def test_invariant_4_no_other_byte_of_a_text_changes(before: str, after: str) -> None:
    """Numbers keep their spelling, texts their escapes, and fields their order."""
    head = f'{{"n":1.0,"n":2,"big":12345678901234567890,"x":"{before}","sharks":['
    tail = f'],"e":1e21,"y":"{after}"}}'
    json.loads(f"{head}{tail}")
    entries = [f'{{"datacenter":"dc1","manta_storage_id":"{name}"}}' for name in (OLD, "2.stor")]
    moved = entries[0].replace(OLD, NEW.manta_storage_id)
    text = f"{head}{','.join(entries)}{tail}"
    assert splice(text, OLD, NEW) == f"{head}{moved},{entries[1]}{tail}"


KEYS = st.sampled_from(['"sharks"', r'"\u0073harks"', r'"a\"sharks"', r'"\\"', '"n"', '"},{"'])
COLONS = st.sampled_from([":", ":", ":", " :", ": "])
ODD = st.sampled_from(
    [
        f'{{"datacenter":"d}}]","manta_storage_id":"{OLD}"}}',
        f'{{"datacenter":"}},{{","manta_storage_id":"{OLD}"}}',
        f'{{"datacenter":"dc1", "manta_storage_id":"{OLD}"}}',
        f'{{"manta_storage_id":"{OLD}","datacenter":"dc1","n":1}}',
        f'{{"datacenter":"dc1","manta_storage_id":"{OLD}","n":1}}',
        '{"datacenter":"dc1","manta_storage_id":"../x"}',
        "null",
    ]
)
PLAIN_ENTRIES = [
    f'{{"datacenter":"dc1","manta_storage_id":"{name}"}}'
    for name in (OLD, "2.stor", NEW.manta_storage_id)
]
LISTS = (
    st.sampled_from([PLAIN_ENTRIES[:2], PLAIN_ENTRIES[1::-1], PLAIN_ENTRIES[:1]])
    | st.lists(st.sampled_from(PLAIN_ENTRIES) | ODD, max_size=3)
).map(lambda entries: f"[{','.join(entries)}]")
SCALARS = KEYS | st.sampled_from(["1.0", "-0", "1e21", "12345678901234567890", "null"])


def pairs(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Texts of what an object holds, in which a name may come twice."""
    return st.lists(st.tuples(KEYS, COLONS, values).map("".join), max_size=2)


NESTED = SCALARS | LISTS | pairs(SCALARS | LISTS).map(lambda made: f"{{{','.join(made)}}}")


@given(
    before=pairs(NESTED),
    key=st.sampled_from(['"sharks":', '"sharks":', '"sharks" :', r'"\u0073harks":']),
    entries=LISTS,
    after=pairs(NESTED),
)
def test_invariant_4_the_list_that_counts_is_rewritten(
    before: list[str], key: str, entries: str, after: list[str]
) -> None:
    """Whatever else looks like it: nested, spelled otherwise, named twice or within a text."""
    text = f"{{{','.join([*before, key + entries, *after])}}}"
    try:
        wanted = rewrite(json.loads(text), OLD, NEW)
    except UnusableRecord as exc:
        # Whatever else is wrong with it has kept discovery from taking it.
        assert exc.reason is not reasons.DUPLICATE_SHARK or splice(text, OLD, NEW) is None
        return
    found = splice(text, OLD, NEW)
    assert found is None or json.loads(found) == wanted


ENTRY = f'{{"datacenter":"dc1","manta_storage_id":"{OLD}"}}'


@pytest.mark.parametrize(
    "text",
    [
        '{"sharks": [{"datacenter":"dc1","manta_storage_id":"1.stor"}]}',
        '{"a":{"sharks":[]},"sharks":[{"datacenter":"dc1","manta_storage_id":"1.stor"}]}',
        '{"x":"\\u0041","sharks":[{"datacenter":"dc1","manta_storage_id":"1.stor"}]}',
        '{"sharks":[{"datacenter":"dc1","manta_storage_id":"1.stor"},null]}',
        '{"sharks":[]}',
        '{"sharks":[{"datacenter":"dc1","manta_storage_id":"2.stor"}]}',
        f'{{"sharks":[{ENTRY},{ENTRY}]}}',
        f'{{"sharks":[{ENTRY},{ENTRY.replace(OLD, NEW.manta_storage_id)}]}}',
        f'{{"sharks":[{ENTRY},{ENTRY.replace(OLD, "../x")}]}}',
        f'{{"sharks":[{ENTRY[:-1]},"n":1}}]}}',
        '{"sharks":[{"n":1,"datacenter":"dc1","manta_storage_id":"1.stor"}]}',
        '{"sharks":[{"manta_storage_id":"1.stor","datacenter":"dc1"}]}',
        '{"objectId":"x"}',
        '{"x":{"sharks":[{"datacenter":"dc1","manta_storage_id":"1.stor"}]},"sharks" :[]}',
        r'{"a\"sharks":[{"datacenter":"dc1","manta_storage_id":"1.stor"}],"sharks":[]}',
        r'{"a":{"sharks":[{"datacenter":"dc1","manta_storage_id":"1.stor"}]},"\u0073harks":[]}',
        r'{"sharks":[{"datacenter":"d\\","manta_storage_id":"1.stor"}]}',
    ],
)
def test_a_text_that_is_not_plain_is_left_to_be_parsed(text: str) -> None:
    """Where its sharks are can only be guessed."""
    assert splice(text, OLD, NEW) is None


@pytest.mark.row("L7")
@pytest.mark.parametrize(
    ("now", "judgement"),
    [
        (None, Judgement.DELETED),
        (record(OLD) | {"objectId": ID.replace("0", "1")}, Judgement.OVERWRITTEN),
        ({"type": "directory"}, Judgement.OVERWRITTEN),
        (record(OLD, "2.stor"), Judgement.REWRITE),
        (record("3.stor", "2.stor"), Judgement.ALREADY_MOVED),
        (record("5.stor", "2.stor"), Judgement.MOVED_ELSEWHERE),
    ],
)
def test_invariant_5_a_changed_record_is_judged_by_what_it_is_now(
    now: dict[str, Any] | None, judgement: Judgement
) -> None:
    """A user's write wins; ours is made only where the object still lies on the old shark."""
    assert judgement is judge(now, ID, OLD, NEW.manta_storage_id)
