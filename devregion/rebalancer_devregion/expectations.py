"""This module knows the kinds of objects in a region, and how each must end in an evacuation."""

import enum
from collections.abc import Mapping

import attrs


class Kind(enum.StrEnum):
    """A kind says what is odd about an object, if anything."""

    ORDINARY = "ordinary"
    NON_ASCII_KEY = "non_ascii_key"
    QUOTED_KEY = "quoted_key"
    EXTRA_FIELDS = "extra_fields"
    THREE_COPIES = "three_copies"
    NO_CREATOR = "no_creator"
    CREATOR_DIFFERS = "creator_differs"
    SINGLE_COPY = "single_copy"
    SAME_DATACENTER = "same_datacenter"
    PRESENT_AT_DESTINATION = "present_at_destination"
    WRONG_AT_DESTINATION = "wrong_at_destination"
    SNAPLINK = "snaplink"
    DUPLICATE_ACROSS_SHARDS = "duplicate_across_shards"
    SINGLE_COPY_MISSING = "single_copy_missing"
    ZERO_BYTE_WITH_SHARKS = "zero_byte_with_sharks"
    MISSING_ON_SOURCE = "missing_on_source"
    CORRUPT_ON_SOURCE = "corrupt_on_source"
    SHORT_ON_SOURCE = "short_on_source"
    GONE_SHARK = "gone_shark"
    TWICE_ON_EVACUATED = "twice_on_evacuated"
    MISSING_SHARKS = "missing_sharks"
    MALFORMED_SHARKS = "malformed_sharks"
    MISSING_MD5 = "missing_md5"
    CONTENT_LENGTH_STRING = "content_length_string"
    ZERO_BYTE = "zero_byte"
    NO_SHARKS_FIELD = "no_sharks_field"
    NAMED_LIKE_SHARK = "named_like_shark"
    DIRECTORY = "directory"
    ELSEWHERE = "elsewhere"


@attrs.frozen
class ObjectEnd:
    """An end is the status and the reason of an object's row."""

    status: str
    reason: str = ""


COMPLETE = ObjectEnd("complete")

#: None: the job has no business with such an object.
EXPECTED: Mapping[Kind, ObjectEnd | None] = {
    Kind.ORDINARY: COMPLETE,
    Kind.NON_ASCII_KEY: COMPLETE,
    Kind.QUOTED_KEY: COMPLETE,
    Kind.EXTRA_FIELDS: COMPLETE,
    Kind.THREE_COPIES: COMPLETE,
    Kind.NO_CREATOR: COMPLETE,
    Kind.CREATOR_DIFFERS: COMPLETE,
    Kind.SINGLE_COPY: COMPLETE,
    Kind.SAME_DATACENTER: COMPLETE,
    Kind.PRESENT_AT_DESTINATION: COMPLETE,
    Kind.WRONG_AT_DESTINATION: COMPLETE,
    Kind.SNAPLINK: COMPLETE,
    Kind.DUPLICATE_ACROSS_SHARDS: COMPLETE,
    Kind.SINGLE_COPY_MISSING: ObjectEnd("skipped", "source_is_evac_shark"),
    Kind.ZERO_BYTE_WITH_SHARKS: ObjectEnd("skipped", "{http_status_code:404}"),
    # Their other copy is no good, so the evacuated node's is read in the end.
    Kind.MISSING_ON_SOURCE: COMPLETE,
    Kind.CORRUPT_ON_SOURCE: COMPLETE,
    Kind.SHORT_ON_SOURCE: COMPLETE,
    Kind.GONE_SHARK: COMPLETE,
    Kind.TWICE_ON_EVACUATED: ObjectEnd("error", "duplicate_shark"),
    Kind.MISSING_SHARKS: ObjectEnd("error", "missing_sharks"),
    Kind.MALFORMED_SHARKS: ObjectEnd("error", "missing_sharks"),
    Kind.MISSING_MD5: ObjectEnd("error", "bad_manta_object"),
    Kind.CONTENT_LENGTH_STRING: ObjectEnd("error", "bad_content_length"),
    Kind.ZERO_BYTE: None,
    Kind.NO_SHARKS_FIELD: None,
    Kind.NAMED_LIKE_SHARK: None,
    Kind.DIRECTORY: None,
    Kind.ELSEWHERE: None,
}

#: Why an object that no source has may be skipped where sources are disturbed as well: its last
#: try may have met a source that did not answer.
NOWHERE = frozenset(
    ("{http_status_code:404}", "source_is_evac_shark", "source_other_error", "network_error")
)


def accepts(wanted: ObjectEnd | None, found: ObjectEnd | None, *, disturbed: bool) -> bool:
    """Tell whether an object that should end as `wanted` may be `found` so.

    `disturbed`: sources did not always answer.
    """
    if not disturbed or wanted is None or found is None or wanted.status != "skipped":
        return found == wanted
    return found.status == wanted.status and {found.reason, wanted.reason} <= NOWHERE
