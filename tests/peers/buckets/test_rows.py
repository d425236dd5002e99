"""Texts of rows are read whatever is in them."""

import pytest

from rebalancer.errors import PeerMalformed
from rebalancer.peers.buckets.rows import read_row


@pytest.mark.parametrize("digits", [19, 25, 5000])
def test_a_number_of_any_length_is_no_trouble(digits: int) -> None:
    """One that Python does not read stays as it stands."""
    row = read_row(f'{{"id": "a", "properties": {{"x": {"1" * digits}}}}}')

    assert row["id"] == "a"
    assert "1" * digits in str(row["properties"])


def test_properties_that_are_nested_too_deeply_hide_no_other_column() -> None:
    """One such row would be the end of each scan of its shard, and of each job."""
    headers = r'{"properties": "1", "a": ",\"properties\":"}'
    deep = "[" * 100_000 + "]" * 100_000
    row = read_row(f'{{"id":"a","headers":{headers},"sharks":["dc1:1"],"properties":{deep}}}')

    assert row == {
        "id": "a",
        "headers": {"properties": "1", "a": ',"properties":'},
        "sharks": ["dc1:1"],
        "properties": deep,
    }


@pytest.mark.parametrize("text", ["", "1", "[]", '{"id": }', '{"properties": ' + "[" * 100_000])
def test_what_is_no_row_is_an_error_of_the_shard(text: str) -> None:
    """Nor does anything nested too deeply end the program."""
    with pytest.raises(PeerMalformed):
        read_row(text)
