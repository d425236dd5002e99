"""This module knows the kinds of bucket objects in a region, and how each must end."""

import enum
from collections.abc import Mapping

from rebalancer_devregion.expectations import COMPLETE, ObjectEnd


class BucketKind(enum.StrEnum):
    """A kind says what is odd about a bucket object, if anything."""

    ORDINARY = "ordinary"
    SLASHES = "slashes"
    UNICODE = "unicode"
    LONG_NAME = "long_name"
    EXACT_NUMBERS = "exact_numbers"
    NULL_HEADER = "null_header"
    NULL_HEADERS = "null_headers"
    NULL_PROPERTIES = "null_properties"
    SECOND_COLON = "second_colon"
    NO_BUCKET_ROW = "no_bucket_row"
    SAME_ID = "same_id"  # as an object of the directory tier, which lies on the node too
    SINGLE_COPY = "single_copy"
    ZERO_BYTE_WITH_SHARKS = "zero_byte_with_sharks"
    OLD_PART = "old_part"  # of an upload that is over
    OLD_PART_WITHOUT_FILES = "old_part_without_files"
    PART = "part"  # of an upload that goes on
    OTHER_DIGEST = "other_digest"  # than the files have
    ODD_DIGEST = "odd_digest"  # of other than 16 bytes
    TWICE_ON_EVACUATED = "twice_on_evacuated"
    NO_COLON = "no_colon"
    UPLOAD = "upload"  # whose record names the node in its headers
    NULL_SHARKS = "null_sharks"
    ZERO_BYTE = "zero_byte"
    CORS = "cors"
    ELSEWHERE = "elsewhere"


#: None: the job has no business with such a row.
EXPECTED: Mapping[BucketKind, ObjectEnd | None] = {
    **dict.fromkeys(BucketKind, COMPLETE),
    BucketKind.OLD_PART_WITHOUT_FILES: ObjectEnd("skipped", "{http_status_code:404}"),
    BucketKind.PART: ObjectEnd("skipped", "active_upload"),
    BucketKind.OTHER_DIGEST: ObjectEnd("skipped", "md5_mismatch"),
    BucketKind.ODD_DIGEST: ObjectEnd("error", "bad_manta_object"),
    BucketKind.TWICE_ON_EVACUATED: ObjectEnd("error", "duplicate_shark"),
    BucketKind.NO_COLON: ObjectEnd("error", "missing_sharks"),
    BucketKind.UPLOAD: None,
    BucketKind.NULL_SHARKS: None,
    BucketKind.ZERO_BYTE: None,
    BucketKind.CORS: None,
    BucketKind.ELSEWHERE: None,
}
#: The ends of those that a server cannot update: its handler dies of such a row.
BY_SERVER: Mapping[BucketKind, ObjectEnd] = {
    BucketKind.NULL_HEADERS: ObjectEnd("error", "metadata_update_failed")
}
