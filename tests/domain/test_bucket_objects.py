"""Keys and versions of bucket objects travel as texts, and come back as they were."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.bucket_objects import (
    BucketKey,
    is_named,
    is_named_by_upload,
    read_etag,
    read_key,
    shark_text,
    split_shark,
    write_etag,
)

OWNER = "a0000000-0000-4000-8000-000000000001"
BUCKET = "b0000000-0000-4000-8000-000000000001"
NODE = "1.stor.lab"
UUIDS = st.uuids().map(str)
#: As PostgreSQL can hold them.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@given(st.integers(0, 2**96), UUIDS, UUIDS, TEXTS)
def test_any_key_comes_back(vnode: int, owner: str, bucket_id: str, name: str) -> None:
    """Whatever the name has in it: slashes, line ends, letters of any script."""
    key = BucketKey(vnode, owner, bucket_id, name)

    assert read_key(str(key)) == key


@pytest.mark.parametrize(
    "name", ["", "/", "//", "a//b/", ":", "dc:1.stor:80", "/v2/1/x", "\n", "ü/★", "%2F", "x" * 1024]
)
def test_the_name_is_all_the_rest(name: str) -> None:
    """Empty segments and what looks like another key are a part of it."""
    key = BucketKey(7, OWNER, BUCKET, name)

    assert str(key) == f"/v2/7/{OWNER}/{BUCKET}/{name}"
    assert read_key(str(key)).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"/{OWNER}/stor/a",
        f"/v2/07/{OWNER}/{BUCKET}/a",
        f"/v2/-1/{OWNER}/{BUCKET}/a",
        f"/v2/\u0667/{OWNER}/{BUCKET}/a",
        f"/v2/1/{OWNER.upper()}/{BUCKET}/a",
        f"/v2/1/{OWNER}/{BUCKET}",
        f"/v2/1/{OWNER}/..//{BUCKET}/a",
        f"v2/1/{OWNER}/{BUCKET}/a",
        # No text of PostgreSQL.
        f"/v2/1/{OWNER}/{BUCKET}/a\0",
        f"/v2/1/{OWNER}/{BUCKET}/\ud800",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    """A vnode is the number of a schema: one spelling of it only."""
    with pytest.raises(ValueError, match="is no key"):
        read_key(text)


@given(UUIDS, st.lists(TEXTS))
def test_any_version_comes_back(object_id: str, sharks: list[str]) -> None:
    """The sharks raw, so that they can be compared in the database."""
    assert read_etag(write_etag(object_id, sharks)) == (object_id, sharks)


@pytest.mark.parametrize("sharks", [None, [None], [["dc1:a"], ["dc2:b"]], [1], "dc1:a"])
def test_a_row_without_a_list_of_texts_has_a_version_but_cannot_be_updated(sharks: Any) -> None:
    """It is listed."""
    with pytest.raises(ValueError, match="is no version"):
        read_etag(write_etag(OWNER, sharks))


@pytest.mark.parametrize("text", ["", "x", "{}", "[]", "[1,[]]", '["a"]', '["a",[],1]'])
def test_what_is_no_version_is_refused(text: str) -> None:
    """As the etags of the other tier are."""
    with pytest.raises(ValueError, match="is no version|JSON|Expecting"):
        read_etag(text)


@given(st.from_regex(r"[a-z0-9_-]+", fullmatch=True), st.from_regex(r"[a-z0-9.]+", fullmatch=True))
def test_a_shark_comes_back(datacenter: str, storage_id: str) -> None:
    """From the text of a row."""
    assert split_shark(shark_text(datacenter, storage_id)) == (datacenter, storage_id)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dc1:1.stor:8080", ("dc1", "1.stor")),
        ("dc1:", ("dc1", "")),
        (":1.stor", ("", "1.stor")),
        ("1.stor", None),
        ("", None),
    ],
)
def test_a_shark_is_cut_as_a_server_cuts_it(text: str, parts: tuple[str, str] | None) -> None:
    """At its first colon, and what follows a second one is nobody's."""
    assert split_shark(text) == parts


@pytest.mark.parametrize(
    ("sharks", "named"),
    [
        (["dc1:2.stor.lab", f"dc1:{NODE}"], True),
        ([f"dc1:{NODE}:8080"], True),
        ([NODE], True),
        ([f"dc1:x:{NODE}"], True),
        ([None, f"dc1:{NODE}"], True),
        ([["dc1:2.stor.lab"], [f"dc1:{NODE}"]], True),
        ([f"dc1:1{NODE}", f"dc1:{NODE}x"], False),
        ([], False),
        (None, False),
    ],
)
def test_a_mention_of_a_node_is_a_whole_part_of_a_shark(sharks: Any, named: bool) -> None:
    """Also where the entry is malformed: a person should see it."""
    assert is_named({"sharks": sharks}, NODE) is named


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"x-preallocated-sharks": f'[{{"manta_storage_id":"{NODE}"}}]'}, True),
        ({"x-upload-record": f'{{\\"sharks\\":[\\"dc1:{NODE}\\"]}}'}, True),
        ({"x-preallocated-sharks": f'["{NODE}:8080"]'}, True),
        ({"x-preallocated-sharks": f'["1{NODE}", "{NODE}.other"]'}, False),
        ({"m-note": NODE}, False),
        ({"x-upload-record": None}, False),
        (None, False),
    ],
)
def test_an_upload_names_its_nodes_in_two_headers(headers: Any, named: bool) -> None:
    """They hold JSON as text."""
    assert is_named_by_upload({"headers": headers, "sharks": []}, NODE) is named


@pytest.mark.parametrize(
    ("name", "upload"),
    [
        (".mpu-parts/u1/1", "u1"),
        (".mpu-parts/u1", "u1"),
        (".mpu-parts/", None),
        (".mpu-parts//1", None),
        (".mpu-uploads/u1", None),
        ("a/.mpu-parts/u1/1", None),
    ],
)
def test_a_part_names_its_upload(name: str, upload: str | None) -> None:
    """By its path."""
    assert BucketKey(1, OWNER, BUCKET, name).upload == upload
