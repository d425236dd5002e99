"""Rows of bucket objects are read as records, with the laws that the first tier's have."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import copies, reasons, sharks
from rebalancer.domain.objects import Shark, UnusableRecord
from rebalancer.domain.records import (
    copy_path,
    id_of,
    is_bucket_row,
    is_mentioned,
    read_object,
    read_sharks,
    shares_copies,
)
from rebalancer.domain.sharks import Judgement

OWNER = "a0000000-0000-4000-8000-000000000001"
BUCKET = "3e6ae36a-f099-4448-8606-b2e92e3549ba"
ID = "b0000009-0000-4000-8000-000000000000"
#: MD5 of the text `obj1`.
HASH = "24f682f769992022dba3cf73550b7da0"
OLD, NEW = "1.stor.lab", Shark("dc3", "3.stor.lab")


def row(**changes: Any) -> dict[str, Any]:
    """A row of `manta_bucket_object`, as a shard's client returns it."""
    return {
        "id": ID,
        "name": "obj1",
        "owner": OWNER,
        "bucket_id": BUCKET,
        "content_length": 5,
        "content_md5": "XUFAKrxLKna5cZ2REBfFkg==",
        "headers": {"m-a": "b", "null-one": None},
        "sharks": ["dc1:1.stor.lab", "dc2:2.stor.lab"],
        "properties": None,
        **changes,
    }


def test_an_object_is_known_by_the_name_of_its_copies() -> None:
    """Its id could be that of an object of the first tier, whose copies lie elsewhere."""
    obj = read_object(row())

    assert obj.object_id == id_of(row()) == copies.name_of(ID, BUCKET, HASH)
    assert (obj.account, obj.size) == (OWNER, 5)
    assert obj.sharks == (Shark("dc1", OLD), Shark("dc2", "2.stor.lab"))
    path = f"/manta/v2/{OWNER}/{BUCKET}/{ID[:2]}/{ID},{HASH}"
    assert copy_path(obj.account, obj.object_id) == path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sharks": None}, reasons.MISSING_SHARKS),
        ({"sharks": ["1.stor.lab"]}, reasons.MISSING_SHARKS),
        ({"sharks": ["dc:../x"]}, reasons.MISSING_SHARKS),
        ({"sharks": [{"datacenter": "d", "manta_storage_id": OLD}]}, reasons.MISSING_SHARKS),
        ({"content_md5": "x" * 32}, reasons.BAD_MANTA_OBJECT),
        ({"id": ID.upper()}, reasons.BAD_MANTA_OBJECT),
        ({"owner": "../.."}, reasons.BAD_MANTA_OBJECT),
        ({"bucket_id": "x"}, reasons.BAD_MANTA_OBJECT),
        ({"content_length": -1}, reasons.BAD_CONTENT_LENGTH),
    ],
)
def test_a_row_that_cannot_be_moved_says_why(changes: dict[str, Any], reason: Any) -> None:
    """A person has to look at it."""
    with pytest.raises(UnusableRecord) as caught:
        read_object(row(**changes))
    assert caught.value.reason == reason


def test_what_follows_a_second_colon_is_nobodys_business() -> None:
    """The tier's server takes the first two parts, so that is where the copy is looked for."""
    assert read_sharks(row(sharks=["dc1:1.stor.lab:8080"])) == (Shark("dc1", OLD),)


def test_texts_are_no_sharks_of_the_first_tier() -> None:
    """There, entries are objects, and anything else is for a person."""
    with pytest.raises(UnusableRecord):
        read_sharks({"objectId": ID, "bucket_id": BUCKET, "sharks": ["dc1:1.stor.lab"]})


@given(st.permutations(["dc1:1.stor.lab", "dc2:2.stor.lab", "dc:4.stor.lab"]))
def test_one_shark_is_exchanged_and_all_else_stays(names: list[str]) -> None:
    """As in the first tier: the place in the list, the number of copies."""
    before = row(sharks=names)

    after = sharks.rewrite(before, OLD, NEW)

    wanted = ["dc3:3.stor.lab" if name == "dc1:1.stor.lab" else name for name in names]
    assert after == {**before, "sharks": wanted}
    assert sharks.splice(json.dumps(before), OLD, NEW) is None


@pytest.mark.parametrize(
    ("now", "judgement"),
    [
        (row(), Judgement.REWRITE),
        (row(sharks=["dc3:3.stor.lab"]), Judgement.ALREADY_MOVED),
        (row(sharks=["dc2:2.stor.lab"]), Judgement.MOVED_ELSEWHERE),
        (row(id=OWNER), Judgement.OVERWRITTEN),
        (None, Judgement.DELETED),
    ],
)
def test_a_row_that_changed_is_judged_as_any_record(
    now: dict[str, Any] | None, judgement: Judgement
) -> None:
    """By its id and its sharks."""
    known = id_of(row())
    assert known is not None
    assert sharks.judge(now, known, OLD, NEW.manta_storage_id) is judgement


def test_only_an_owner_s_own_row_shares_its_copies() -> None:
    """The same row may be met in two shards; the same ids of another owner are other files."""
    one = json.dumps(row())

    assert shares_copies(one, json.dumps(row(headers={})))
    assert not shares_copies(one, json.dumps(row(owner=ID)))
    assert shares_copies("", one)
    link = {"objectId": ID, "owner": OWNER}
    assert shares_copies(json.dumps(link), json.dumps({**link, "owner": ID}))


@pytest.mark.parametrize("form", ["1.stor.lab", "dc:1.stor.lab", "dc:1.stor.lab:80"])
def test_a_node_is_mentioned_by_whole_names(form: str) -> None:
    """Which saves parsing records that are about other nodes."""
    assert is_mentioned(OLD, json.dumps({"sharks": [form]}))
    other = form.replace(OLD, f"1{OLD}")
    assert not is_mentioned(OLD, json.dumps({"sharks": [other]}))


def test_the_two_kinds_of_records_are_told_apart() -> None:
    """By what every row has and no record of the first tier."""
    assert is_bucket_row(row())
    assert not is_bucket_row({"objectId": ID})
