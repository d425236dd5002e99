"""The fast parser is a drop-in for Python's, were that to know JSON only."""

import json
import random
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.jsontext import elements, loads, members

ODD = [
    *("1", "-0", "-0.0", "1.0", "1E5", "1e22", "1e400", "-1e400", "4.9e-324", "1e-400"),
    *("9007199254740993.0", "12345678901234567890", "18446744073709551616", "1" * 200),
    *("-9223372036854775809", "NaN", "Infinity", "-Infinity", "01", "1.", "+1", ".5"),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\x01"', '"\ud800"', '{"\\udfff": 1}'),
    *("1" * 5000, "[" * 500 + "]" * 500, '{"a": 1} x', "1\0"),
    *('{"a": 1, "a": 2}', "[1,]", "", " ", " null\n", "nul", "\ufeff1", "{} {}", "[" * 50_000),
]
ODD_BYTES = [b'"\xff"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", "[1]".encode("utf-16"), b'"\xc0\x80"']


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


reference = partial(json.loads, parse_constant=refuse)


def outcome(parse: Callable[[Any], Any], text: str | bytes) -> tuple[str, str]:
    """Kind and spelling of what comes of it: equal values of other types are told apart."""
    try:
        value = parse(text)
    except (ValueError, RecursionError) as exc:
        return type(exc).__name__, str(exc)
    return type(value).__name__, repr(value)


@pytest.mark.parametrize("text", [*ODD, *ODD_BYTES], ids=lambda text: repr(text[:20]))
def test_odd_texts_come_to_the_same(text: str | bytes) -> None:
    """Where parsers differ: numbers at their limits, surrogates, encodings, depth."""
    assert outcome(loads, text) == outcome(reference, text)


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_documents_come_to_the_same(document: Any, ascii_only: bool, indent: int | None) -> None:
    """Whatever JSON can say."""
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    assert outcome(loads, text) == outcome(reference, text)


@given(st.text('{}[]":,\\u0123456789.eE+-dtrufalsn \n'))
def test_fragments_come_to_the_same(text: str) -> None:
    """What is nearly JSON, or is by chance."""
    assert outcome(loads, text) == outcome(reference, text)


def test_every_spelling_of_a_double_is_the_same_double() -> None:
    """Also with more digits than it can hold."""
    rng = random.Random(1)
    for _ in range(20_000):
        (number,) = struct.unpack("d", rng.randbytes(8))
        digits = f"{rng.randrange(10**30)}.{rng.randrange(10**30)}e{rng.randrange(-330, 310)}"
        for text in (repr(number), f"{number:.25e}", digits):
            assert outcome(loads, text) == outcome(reference, text)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
def test_the_members_of_an_object_are_texts_as_they_stand(value: dict[str, int]) -> None:
    """With the names read, and every digit and blank of the values kept."""
    found = members(json.dumps(value, indent=1))

    assert {name: json.loads(text) for name, text in found.items()} == value


def test_numbers_that_no_double_holds_stand_as_they_were() -> None:
    """Users' properties may have them."""
    assert members('{"a": {"x": 1.10, "y":1e400}, "ü": 12345678901234567890123}') == {
        "a": '{"x": 1.10, "y":1e400}',
        "ü": "12345678901234567890123",
    }
    assert elements('[1.0, "a", null]') == ["1.0", '"a"', "null"]


@pytest.mark.parametrize("text", ["", "1", "null", "{", "[1]", '{"a": [1}'])
def test_what_is_no_object_has_no_members(text: str) -> None:
    """Nor has a list that is none elements."""
    with pytest.raises(ValueError):
        members(text)
    with pytest.raises(ValueError):
        elements(text.replace("[1]", "{}"))
