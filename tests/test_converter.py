"""What comes from outside is parsed and structured strictly, within bounds."""

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.converter import MAX_VALUES, parse_json, parse_toml, structure
from rebalancer.errors import BadRequest, TooLarge


@attrs.frozen
class Part:
    """A part of the document below."""

    size: int
    is_fast: bool = False


@attrs.frozen
class Document:
    """A document has a field of each kind that configurations and requests have."""

    name: str
    parts: tuple[Part, ...] = ()
    share: float = 0.0
    limit: int | None = None
    places: dict[str, str] = attrs.field(factory=dict)


def test_a_document_is_structured_with_what_it_holds() -> None:
    """Each field gets a value of its type, and a whole number may stand for a fraction."""
    given_ = {"name": "x", "parts": [{"size": 5}], "share": 2, "limit": 7, "places": {"a": "b"}}

    assert structure(given_, Document) == Document("x", (Part(5),), 2.0, 7, {"a": "b"})
    assert structure({"name": "x", "limit": None}, Document) == Document("x")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"name": 5}, "expected a string, got 5 at $.name"),
        ({"name": None}, "expected a string, got null at $.name"),
        ({"parts": "ab"}, 'expected a list, got "ab" at $.parts'),
        ({"parts": {}}, "expected a list, got an object of 0 at $.parts"),
        ({"parts": [{"size": 1}, {"size": "1"}]}, 'a whole number, got "1" at $.parts[1].size'),
        ({"parts": [{"size": 1.0}]}, "expected a whole number, got 1.0 at $.parts[0].size"),
        ({"parts": [{"size": True}]}, "expected a whole number, got true at $.parts[0].size"),
        ({"parts": [{"size": 1, "is_fast": 1}]}, "true or false, got 1 at $.parts[0].is_fast"),
        ({"parts": [{}]}, "required field size is missing at $.parts[0]"),
        ({"parts": [5]}, "expected an object, got 5 at $.parts[0]"),
        ({"share": "0.5"}, 'expected a number, got "0.5" at $.share'),
        ({"share": True}, "expected a number, got true at $.share"),
        ({"limit": "7"}, 'expected a whole number, got "7" at $.limit'),
        ({"places": {"a": 5}}, "expected a string, got 5 at $.places"),
        ({"places": []}, "at $.places"),
        ({"name": "\ud800"}, 'half of a character in "\\ud800" at $.name'),
    ],
)
def test_nothing_is_coerced_and_a_fault_names_its_place(change: dict[str, Any], fault: str) -> None:
    """The message says what was expected, what came, and where."""
    with pytest.raises(BadRequest) as caught:
        structure({"name": "x", **change}, Document)
    assert fault in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    """Each with its place, so that one try shows an operator everything."""
    with pytest.raises(BadRequest) as caught:
        structure({"name": 5, "share": "x", "parts": [1, 2]}, Document)
    assert str(caught.value).count(" at $") == 4


@pytest.mark.parametrize("part", [b"1,", b"[],", b"{},", b'{"":0},', b'"",'])
def test_values_are_counted_before_any_is_made(part: bytes) -> None:
    """What takes forty times its length in memory is refused by its length."""
    with pytest.raises(TooLarge, match="more than 300000 values"):
        parse_json(b"[" + part * MAX_VALUES + b"0]")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '[{"a":' * 50_000 + "1"])
@pytest.mark.parametrize("encode", [str, str.encode])
def test_deep_json_is_no_json(text: str, encode: Any) -> None:
    """Deeper than the parser's stack: an error like any other."""
    with pytest.raises(BadRequest, match="nested too deeply"):
        parse_json(encode(text))


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "{a=" * 100_000, "a = 1\na = 2"])
def test_toml_that_cannot_be_read_is_told(text: str) -> None:
    """Deep nesting too."""
    with pytest.raises(BadRequest):
        parse_toml(text)


@given(st.text(max_size=20))
def test_text_that_is_no_json_is_told(text: str) -> None:
    """Parsing never raises anything else."""
    try:
        parse_json(text)
    except BadRequest as exc:
        assert "not JSON" in str(exc)
