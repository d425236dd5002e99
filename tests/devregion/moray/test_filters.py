"""Moray's filters: what parses, and that both stages agree with the plain meaning."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer_devregion.moray import filters
from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.filters import Either, Every, InvalidFilter, Not, Term
from rebalancer_devregion.moray.store import ShardStore

INDEX = {"owner": "string", "type": "string", "size": "number"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a=b)", Term("a", "=", ("b",))),
        ("a=b", Term("a", "=", ("b",))),
        ("(a=b=c)", Term("a", "=", ("b=c",))),
        ("(a>=5)", Term("a", ">=", ("5",))),
        ("(a=*)", Term("a", "=", ("", ""))),
        ("(a=x*y*)", Term("a", "=", ("x", "y", ""))),
        ("(a<=x*y)", Term("a", "<=", ("x*y",))),
        (r"(a=\28x\29\2a)", Term("a", "=", ("(x)*",))),
        (r"(a=\(x\))", Term("a", "=", ("(x)",))),
        ("(&(a=b)(c=d))", Every((Term("a", "=", ("b",)), Term("c", "=", ("d",))))),
        ("(|(a=b)(!(c=d)))", Either((Term("a", "=", ("b",)), Not(Term("c", "=", ("d",)))))),
        ("!(a=b)", Not(Term("a", "=", ("b",)))),
    ],
)
def test_what_parses(text: str, expected: filters.Filter) -> None:
    """The whole text, with its escapes and wildcards."""
    assert filters.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "(", ")", "(a=b", "a=b)", "(a=b))", "(a=(b)", "(&)", "(& (a=b))", "(!)", "(=b)", "(a!b)",
     "(a=b)(c=d)", "(&(a=b)", "(!(a=b)"],
)  # fmt: skip
def test_what_does_not_parse(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidFilter):
        filters.parse(text)


@given(st.text("()&|!=*\\ab >", max_size=20))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No other exception."""
    with suppress(InvalidFilter):
        filters.parse(text)


ROWS: list[dict[str, Any]] = [
    {"owner": "ann", "type": "object", "size": 5, "note": "x"},
    {"owner": "bob", "type": "object", "size": 10, "note": 7},
    {"owner": "an%", "type": "directory", "size": 10},
    {"owner": "an_na", "type": "link"},
]


def in_python(found: filters.Filter, row: dict[str, Any]) -> bool:
    """The plain meaning of the filters of this test: equality, order, wildcards on text."""
    match found:
        case Every(members=members):
            return all(in_python(member, row) for member in members)
        case Either(members=members):
            return any(in_python(member, row) for member in members)
        case Not(member=member):
            return not in_python(member, row)
    value, term = row.get(found.field), found
    if value is None:
        return False
    if len(term.parts) == 2:
        return str(value).startswith(term.parts[0]) and str(value).endswith(term.parts[1])
    wanted: Any = float(term.parts[0]) if isinstance(value, int) else term.parts[0]
    order = int(value > wanted) - int(value < wanted)
    return {"=": order == 0, ">=": order >= 0, "<=": order <= 0}[term.operator]


TERMS = st.sampled_from(
    [
        *("(owner=ann)", "(owner=an*)", "(owner=*n%)", "(owner=*)", "(owner>=b)"),
        *("(type=object)", "(type<=link)", "(size=10)", "(size>=6)", "(size<=5)"),
    ]
)
TEXTS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(&{''.join(parts)})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(|{''.join(parts)})"),
    ),
    max_leaves=5,
)


@given(TEXTS)
def test_both_stages_agree_with_the_plain_meaning(text: str) -> None:
    """On fields that are indexed, the row-by-row stage finds what the words say."""
    found = filters.parse(text)

    assert [filters.matches(found, row, INDEX) for row in ROWS] == [
        in_python(found, row) for row in ROWS
    ]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = ShardStore(tmp_path / "1.sqlite")
    yield made
    made.close()


def value(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "dirname": "/a/stor",
        "name": str(number),
        "owner": "ann",
        "objectId": f"00000000-0000-4000-8000-{number:012d}",
        "type": "object",
        **fields,
    }


def found(store: ShardStore, text: str, **options: Any) -> list[str]:
    return [row["key"] for row in store.find("manta", text, {"noLimit": True, **options})]


def test_the_store_finds_by_both_stages(store: ShardStore) -> None:
    """SQL on what is indexed, then each row; `limit` counts what SQL found."""
    store.seed("manta", [(f"/{n}", value(n, color="red" if n % 2 else "blue")) for n in range(9)])

    assert found(store, "(&(type=object)(color=red))") == ["/1", "/3", "/5", "/7"]
    assert found(store, "(owner=a*)") == [f"/{n}" for n in range(9)]
    assert found(store, "(!(owner=ann))") == []
    assert found(store, "(&(owner=ann)(_id>=8))") == ["/7", "/8"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("(color=red)", "InvalidQueryError"),
        ("(|(owner=ann)(color=red))", "NotIndexedError"),
        ("(color", "InvalidQueryError"),
    ],
)
def test_a_filter_that_no_index_serves_is_refused(store: ShardStore, text: str, name: str) -> None:
    """As the real server refuses it: such a scan would read every row."""
    with pytest.raises(MorayError) as caught:
        store.find("manta", text, {})
    assert caught.value.payload["name"] == name


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("(name:caseIgnoreMatch:=ANN)", ["a"]),
        ("(name:caseIgnoreSubstringsMatch:=*N*)", ["a", "b"]),
        ("(name=*n)", ["a"]),  # SQL finds b too
        ("(name=b_n%)", []),
        ("(size:within:=[5,10])", ["a", "b"]),
        ("(size:within:=\\285,10])", ["b"]),
        ("(size:within:=[,10\\29)", ["a"]),
        ("(size=1e1)", ["b"]),
        ("(size>=abc)", []),
        ("(hidden=TRUE)", ["a"]),
        ("(hidden=*)", ["a", "b"]),
        ("(&(size>=0)(weight>=1.5))", ["b"]),
        ("(&(size>=0)(shown=true))", []),  # unindexed: not equal to text
        ("(&(size>=0)(tags=y))", ["b"]),
        ("(!(size=5))", ["b", "c"]),  # also where there is none
        ("(_mtime>=5)", ["a", "b", "c"]),
    ],
)
def test_what_a_find_finds(store: ShardStore, text: str, keys: list[str]) -> None:
    """By the extensions, wildcards, numbers and booleans; an unindexed field is as it is."""
    index = {"name": "string", "size": "number", "hidden": "boolean"}
    store.create_bucket("lab", {"index": {name: {"type": kind} for name, kind in index.items()}})
    store.put("lab", "a", {"name": "ann", "size": 5, "hidden": True, "shown": True, "weight": 1})
    tags = ["x", "y"]
    store.put("lab", "b", {"name": "Bnx", "size": 10, "hidden": False, "weight": 2, "tags": tags})
    store.put("lab", "c", {"name": None})

    assert [row["key"] for row in store.find("lab", text, {"sort": {"attribute": "_id"}})] == keys


@pytest.mark.parametrize("text", ["(a:other:=b)", "(a:within:=5)", "(a > 5)", "(a!=5)", "()"])
def test_unknown_extensions_do_not_parse(text: str) -> None:
    """Nor do operators of other languages."""
    with pytest.raises(InvalidFilter):
        filters.parse(text)


def test_nulls_are_above_all_values(store: ShardStore) -> None:
    """In the order of PostgreSQL, either way."""
    store.create_bucket("lab", {"index": {"n": {"type": "number"}}})
    for key, number in (("a", 2), ("b", None), ("c", 1)):
        store.put("lab", key, {"n": number})
    orders = [
        [
            row["key"]
            for row in store.find("lab", "(_id>=1)", {"sort": {"attribute": "n", "order": order}})
        ]
        for order in ("ASC", "DESC")
    ]

    assert orders == [["c", "a", "b"], ["b", "a", "c"]]
