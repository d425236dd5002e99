"""This module reads the records of objects, of either metadata tier.

A record of the directory tier is a value of bucket `manta`.  A record of the buckets tier is a row
of `manta_bucket_object` as a JSON object, with the raw texts `<datacenter>:<storage id>` as sharks.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rebalancer.domain import copies, reasons
from rebalancer.domain.bucket_objects import shark_text, split_shark
from rebalancer.domain.objects import (
    MantaObject,
    Shark,
    UnusableRecord,
    is_loose_uuid,
    is_md5,
    is_storage_id,
)
from rebalancer.jsontext import loads_exactly

#: A pebibyte, which no storage node has: so sqlite can add up the sizes of all objects of a job.
MOST_BYTES = 1 << 50


def is_bucket_row(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is a row of the buckets tier."""
    return "bucket_id" in record and "objectId" not in record


def id_of(record: Mapping[str, Any]) -> str | None:
    """Return the id under which a job knows the object of a record; None if the record has none.

    It is the name of the object's copies, so that it tells a bucket object from an object of the
    directory tier that has the same id.
    """
    if not is_bucket_row(record):
        known = record.get("objectId")
        return known if is_loose_uuid(known) else None
    object_id, bucket_id, name = record.get("id"), record.get("bucket_id"), record.get("name")
    if not (copies.is_lower_uuid(object_id) and copies.is_lower_uuid(bucket_id)):
        return None
    if not isinstance(name, str):
        return None
    digest = hashlib.md5(name.encode(errors="surrogatepass"), usedforsecurity=False)
    return copies.name_of(object_id, bucket_id, digest.hexdigest())


def shares_copies(text: str, other: str) -> bool:
    """Tell whether two records of one id are of the same copies, so that one move does for both.

    Links are such records.  A bucket object has one record, which may be met in two shards while
    its vnode moves; another owner's object is in other files.  A record whose text
    cannot be read, because it is gone, is taken for a link.
    """
    try:
        first, second = parse_record(text), parse_record(other)
    except UnusableRecord:
        return True
    return not is_bucket_row(second) or first.get("owner") == second.get("owner")


def is_mentioned(node: str, text: str) -> bool:
    """Tell whether the text of a record has a storage node as a string, or in a bucket's shark."""
    return any(form in text for form in (f'"{node}"', f':{node}"', f":{node}:"))


def account_of(record: Mapping[str, Any]) -> Any:
    """Return the account under which the copies of a record's object lie on the storage nodes.

    A link to an object of another account has that one as `creator`; old records have no creator.
    The account is as the record has it, None if there is neither.
    """
    return record.get("creator") or record.get("owner")


def copy_path(account: str, object_id: str) -> str:
    """Return the path on its storage node of a copy of an object, whose id is as by `id_of`."""
    return f"/manta/{copies.path_of(account, object_id)}"


def parse_record(text: str) -> dict[str, Any]:
    """Parse the text of a record.

    Raises:
      UnusableRecord: `bad_moray_object`, it is no JSON object, or none that can be written anew.
    """
    try:
        record = loads_exactly(text)
    except (ValueError, RecursionError) as exc:
        raise UnusableRecord(reasons.BAD_MORAY_OBJECT, str(exc)) from exc
    if not isinstance(record, dict):
        raise UnusableRecord(reasons.BAD_MORAY_OBJECT, "the record is no object")
    return record


def read_sharks(record: Mapping[str, Any]) -> tuple[Shark, ...]:
    """Return the copies a record names.

    Raises:
      UnusableRecord: `missing_sharks`, when there is no list of them or an entry is malformed.
    """
    entries = record.get("sharks")
    if not isinstance(entries, list):
        raise UnusableRecord(reasons.MISSING_SHARKS, "sharks is not a list")
    return tuple(map(_read_text if is_bucket_row(record) else _read_shark, entries))


def upload_sharks(record: Mapping[str, Any]) -> tuple[Shark, ...]:
    """Return the storage nodes that an upload in progress was given, by its directory's record.

    The parts and at last the object go there, even if these nodes take no other writes.
    """
    upload = record.get("upload")
    try:
        return read_sharks(upload) if isinstance(upload, dict) else ()
    except UnusableRecord:
        return ()


def _read_shark(entry: object) -> Shark:
    if isinstance(entry, dict):
        datacenter, name = entry.get("datacenter"), entry.get("manta_storage_id")
        if isinstance(datacenter, str) and isinstance(name, str):
            shark = _known_shark(datacenter, name)
            if shark is not None:
                return shark
    raise UnusableRecord(reasons.MISSING_SHARKS, "an entry of sharks is malformed")


def _read_text(entry: object) -> Shark:
    """Read a shark of a bucket object as its server does, which drops all behind a second colon."""
    if isinstance(entry, str) and (parts := split_shark(entry)) is not None:
        shark = _known_shark(*parts)
        if shark is not None:
            return shark
    raise UnusableRecord(reasons.MISSING_SHARKS, "an entry of sharks is malformed")


def rename_shark(entry: Any, new: Shark) -> Any:
    """Return an entry of a record's sharks that names `new` in place of another node."""
    if isinstance(entry, str):
        return shark_text(new.datacenter, new.manta_storage_id)
    return {**entry, "datacenter": new.datacenter, "manta_storage_id": new.manta_storage_id}


@lru_cache(4096)
def _known_shark(datacenter: str, name: str) -> Shark | None:
    """Return the storage node, if `name` can be one's.  Records share a thousand of them."""
    return Shark(datacenter, name) if is_storage_id(name) else None


def read_object(record: Mapping[str, Any], sharks: tuple[Shark, ...] | None = None) -> MantaObject:
    """Return the essentials of a record; `sharks` is what `read_sharks` has returned of it.

    Raises:
      UnusableRecord: a field that an evacuation needs is missing or of another kind.
    """
    sharks = read_sharks(record) if sharks is None else sharks
    if is_bucket_row(record):
        return _read_bucket_object(record, sharks)
    if not isinstance(record.get("key"), str):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "key is missing or no string")
    object_id, owner, md5 = record.get("objectId"), record.get("owner"), record.get("contentMD5")
    if not is_loose_uuid(object_id):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "objectId is missing or no UUID")
    if not is_loose_uuid(owner):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "owner is missing or no UUID")
    account = account_of(record)
    if account != owner and not is_loose_uuid(account):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "creator is no UUID")
    if not is_md5(md5):
        raise UnusableRecord(
            reasons.BAD_MANTA_OBJECT, "contentMD5 is missing or no base64 of 16 bytes"
        )
    return MantaObject(object_id, account, md5, read_size(record.get("contentLength")), sharks)


def _read_bucket_object(record: Mapping[str, Any], sharks: tuple[Shark, ...]) -> MantaObject:
    object_id, owner, md5 = id_of(record), record.get("owner"), record.get("content_md5")
    if object_id is None:
        raise UnusableRecord(
            reasons.BAD_MANTA_OBJECT, "id or bucket_id is no UUID in lower case, or name no text"
        )
    if not copies.is_lower_uuid(owner):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "owner is missing or no UUID in lower case")
    if not is_md5(md5):
        # Some rows have the digest in another form, but none of those that have a copy.
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "content_md5 is no digest of 16 bytes")
    return MantaObject(object_id, owner, md5, read_size(record.get("content_length")), sharks)


def read_size(value: object) -> int:
    """Return the size of an object, by `contentLength` of its record.

    Raises:
      UnusableRecord: `bad_content_length`.
    """
    # JSON from JavaScript has one kind of number; bool is an int to Python only.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= MOST_BYTES:
        raise UnusableRecord(reasons.BAD_CONTENT_LENGTH, "contentLength is missing or no size")
    return value
