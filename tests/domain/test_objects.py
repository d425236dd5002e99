"""Reading a record."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.objects import UnusableRecord, is_md5
from rebalancer.domain.reasons import Reason
from rebalancer.domain.records import account_of, copy_path, parse_record, read_object

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
CREATOR = "1F4C8A90-6D2B-0C51-0C1E-0A7D5B8E2F11"
GOOD: dict[str, Any] = {
    "key": "/a/stor/x",
    "objectId": ID,
    "owner": ID,
    "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==",
    "contentLength": 4096,
    "sharks": [{"datacenter": "dc4", "manta_storage_id": "4.stor"}],
}


def test_the_account_is_the_creator_where_there_is_one() -> None:
    """The file lies under `creator`, else under `owner`; ids need no version."""
    assert read_object(GOOD).account == ID
    assert read_object({**GOOD, "creator": CREATOR}).account == CREATOR


@pytest.mark.parametrize(
    ("record", "account"),
    [
        ({"creator": "c", "owner": "o"}, "c"),
        ({"creator": None, "owner": "o"}, "o"),
        ({"creator": "", "owner": "o"}, "o"),
        ({"owner": "o"}, "o"),
        ({}, None),
    ],
)
def test_the_account_is_known_of_records_that_cannot_be_moved(record: Any, account: Any) -> None:
    """Reports name the copies of any record, so it need not be a usable one."""
    assert account_of(record) == account


def test_a_copy_lies_in_the_folder_of_its_account() -> None:
    """It is a path that a person pastes into a shell on the storage node."""
    assert copy_path(CREATOR, ID) == f"/manta/{CREATOR}/{ID}"


@pytest.mark.parametrize("text", ["", "{", "[]", "NaN", '{"n": 1e999}', "[" * 100_000])
def test_text_that_is_no_object_is_no_record(text: str) -> None:
    """Whatever is wrong with it, one reason says so."""
    with pytest.raises(UnusableRecord) as failure:
        parse_record(text)
    assert failure.value.reason == reasons.BAD_MORAY_OBJECT


@pytest.mark.row("L8")
@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("sharks", None, reasons.MISSING_SHARKS),
        ("sharks", {"0": 1}, reasons.MISSING_SHARKS),
        ("sharks", [{"manta_storage_id": "4.stor"}], reasons.MISSING_SHARKS),
        ("key", None, reasons.BAD_MANTA_OBJECT),
        ("owner", "../../etc", reasons.BAD_MANTA_OBJECT),
        ("creator", "../../etc", reasons.BAD_MANTA_OBJECT),
        ("objectId", 7, reasons.BAD_MANTA_OBJECT),
        ("contentMD5", "", reasons.BAD_MANTA_OBJECT),
        ("contentMD5", "L9NrIZXTY37AYVZN9+gZ7w", reasons.BAD_MANTA_OBJECT),
        ("contentLength", "4096", reasons.BAD_CONTENT_LENGTH),
        ("contentLength", True, reasons.BAD_CONTENT_LENGTH),
        ("contentLength", -1, reasons.BAD_CONTENT_LENGTH),
        ("contentLength", None, reasons.BAD_CONTENT_LENGTH),
        ("contentLength", (1 << 50) + 1, reasons.BAD_CONTENT_LENGTH),
        ("contentLength", 1e300, reasons.BAD_CONTENT_LENGTH),
    ],
)
def test_each_fault_has_its_error(field: str, value: Any, error: Reason) -> None:
    """A record that cannot be used says why in the column operators look at."""
    with pytest.raises(UnusableRecord) as caught:
        read_object({**GOOD, field: value})
    assert error is caught.value.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.row("DEF-4", "L10")
@given(st.sampled_from(sorted(GOOD)), JSON)
def test_no_record_stops_a_job(field: str, value: Any) -> None:
    """Whatever one field holds, the answer is an object or an error of that record."""
    with suppress(UnusableRecord):
        read_object({**GOOD, field: value})


@pytest.mark.row("A7")
def test_digests_are_sixteen_bytes() -> None:
    """Other lengths and other alphabets are refused."""
    assert is_md5(GOOD["contentMD5"])
    assert not is_md5("AAAA")
    assert not is_md5(None)
