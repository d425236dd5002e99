"""Names and paths of copies in both tiers: none leads elsewhere."""

import os.path
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import copies
from rebalancer.domain.copies import is_copy, name_of, parts_of, path_of
from rebalancer.domain.objects import is_loose_uuid

ID = "5f1c3a2e-9d7b-4c6a-8e0f-1a2b3c4d5e6f"
OWNER = "930896af-bf8c-48d4-885c-6573a94b1853"
BUCKET = "b0c1d2e3-0000-4000-8000-000000000001"
HASH = "d41d8cd98f00b204e9800998ecf8427e"


def test_an_object_of_the_directory_tier_lies_in_the_folder_of_its_account() -> None:
    """Its ids are taken as they are, in any case."""
    name = name_of(ID.upper(), None, None)
    assert is_copy(OWNER.upper(), name)
    assert parts_of(name) == (ID.upper(), None, None)
    assert path_of(OWNER.upper(), name) == f"{OWNER.upper()}/{ID.upper()}"


def test_a_bucket_object_lies_where_manta_puts_it() -> None:
    """By mako's rule, as the front end writes it."""
    name = name_of(ID, BUCKET, HASH)
    assert is_copy(OWNER, name)
    assert parts_of(name) == (ID, BUCKET, HASH)
    assert path_of(OWNER, name) == f"v2/{OWNER}/{BUCKET}/5f/{ID},{HASH}"


@pytest.mark.parametrize("part", range(4))
def test_the_paths_of_bucket_objects_are_in_lower_case(part: int) -> None:
    """PostgreSQL writes ids so: a copy under another name would be one that no record names."""
    parts = [OWNER, ID, BUCKET, HASH]
    parts[part] = parts[part].upper()
    owner, object_id, bucket_id, name_hash = parts
    assert not is_copy(owner, name_of(object_id, bucket_id, name_hash))


TEXTS = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60).map(os.fsdecode),
    st.sampled_from(["..", ".", "", "/", "\0", f"{ID}\n", f"../{ID}", f"{ID}/", f"{ID},{HASH}"]),
    st.sampled_from([ID, OWNER, BUCKET, HASH]),
    st.builds(
        lambda text, at, odd: text[:at] + odd + text[at + len(odd) :],
        st.sampled_from([ID, OWNER, BUCKET, HASH]),
        st.integers(0, 36),
        st.text(min_size=1, max_size=3),
    ),
)


@given(TEXTS, TEXTS, st.none() | TEXTS, st.none() | TEXTS)
def test_no_parts_make_a_path_that_leads_elsewhere(
    owner: str, object_id: str, bucket_id: str | None, name_hash: str | None
) -> None:
    """They are refused, or each is one step of the path, of digits and hyphens only."""
    name = name_of(object_id, bucket_id, name_hash)
    if not is_copy(owner, name):
        return
    path = path_of(owner, name)
    steps = PurePosixPath(path).parts
    assert "/".join(steps) == path == os.path.normpath(path)
    if bucket_id is None and "/" not in object_id:
        assert steps == (owner, object_id)
        assert all(map(is_loose_uuid, steps))
    else:
        object_id, *of_bucket = parts_of(name)
        assert steps == ("v2", owner, of_bucket[0], object_id[:2], f"{object_id},{of_bucket[1]}")
        assert set("".join(steps[1:])) <= set("0123456789abcdef-,")


@pytest.mark.parametrize("value", [None, 5, 1.5, b"x", ID.encode(), [], {}])
def test_what_is_no_text_names_nothing(value: object) -> None:
    """A state file may have anything in its columns."""
    assert not is_copy(value, ID)
    assert not is_copy(OWNER, value)
    assert not copies.is_lower_uuid(value)
    assert not copies.is_name_hash(value)
