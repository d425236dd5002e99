"""What a request may be made of."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.bodies import MAX_DEPTH, read_body, whole_number
from rebalancer.errors import BadRequest, RequestError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_json_can_say_is_read(value: Any, is_ascii: bool) -> None:
    """With and without escapes; also what Python would read from itself."""
    text = json.dumps(value, ensure_ascii=is_ascii)
    assert read_body(text.encode()) == value


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_what_is_no_json_is_an_error_of_the_client(body: bytes) -> None:
    """Whatever it is."""
    try:
        read_body(body)
    except RequestError as exc:
        assert 400 <= exc.status < 500


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a": "\\ud800"}', r"half of a character, \\ud800, at \$\.a$"),
        (b'{"\\udfff": 1}', r"half of a character, \\udfff, at a key of \$$"),
        (b'["\xed\xa0\x80"]', r"half of a character|not JSON"),
        (b'[["a\\u0000b"]]', r"got NUL at \$\[0\]\[0\]$"),
        (b"[" * 33 + b"]" * 33, "nested more than 32 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply|nested more"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply|nested more"),
        (b"9" * 5000, "not JSON"),
        (b"NaN", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_what_no_file_could_take_is_refused(body: bytes, words: str) -> None:
    """In one place, before anything is done with it."""
    with pytest.raises(BadRequest, match=words):
        read_body(body)


def test_the_deepest_that_is_read() -> None:
    """One more is refused above."""
    body = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(read_body(body)).encode() == body


@given(st.integers(1, 1000))
def test_a_number_is_read(number: int) -> None:
    """Also with zeros in front."""
    assert whole_number("limit", str(number), 1, 1000) == number
    assert whole_number("limit", f"{number:09}", 1, 1000) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "1001", "-1", "+1", "1.0", "1e2", " 1", "0x1", "\u0661", "0000199999", "9" * 5000],
)
def test_what_is_no_number_of_these_is_refused(text: str) -> None:
    """With what was expected, and a bounded piece of what was given."""
    with pytest.raises(BadRequest, match="limit: expected a whole number from 1 to 1000") as caught:
        whole_number("limit", text, 1, 1000)
    assert len(str(caught.value)) < 200
