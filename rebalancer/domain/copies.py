"""This module names the copies of objects on a storage node, and says where those of a name lie.

An object of the directory tier lies in `<account>/<object id>`, a bucket object in
`v2/<account>/<bucket id>/<first two digits of its id>/<object id>,<MD5 of the object's name>`.  The
*name of a copy* tells it from all others of its account: it is the object id, of a bucket object
`<bucket id>/<object id>,<MD5>`.  Pure.
"""

import re
from typing import TypeGuard

from rebalancer.domain.objects import is_loose_uuid

#: The pattern of a UUID in lower case, as PostgreSQL writes each.
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_LOWER_UUID = re.compile(UUID)
_HASH = re.compile("[0-9a-f]{32}")
_OF_BUCKET_OBJECT = re.compile(f"{UUID}/{UUID},[0-9a-f]{{32}}")


def is_lower_uuid(text: object) -> TypeGuard[str]:
    """Tell whether `text` is a UUID as the paths of bucket objects have it.

    PostgreSQL writes each in lower case, so one of another case would lead where nobody looks.
    """
    return isinstance(text, str) and _LOWER_UUID.fullmatch(text) is not None


def is_name_hash(text: object) -> TypeGuard[str]:
    """Tell whether `text` is the MD5 of an object's name as the paths of bucket objects have it."""
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def name_of(object_id: str, bucket_id: str | None, name_hash: str | None) -> str:
    """Return the name of a copy; an object of the directory tier has neither bucket nor hash."""
    return object_id if bucket_id is None else f"{bucket_id}/{object_id},{name_hash}"


def is_of_bucket(name: str) -> bool:
    """Tell whether a name that `name_of` made is that of a copy of a bucket object."""
    return "/" in name


def parts_of(name: str) -> tuple[str, str | None, str | None]:
    """Return the object id, bucket id and MD5 of the object's name that `name_of` was given."""
    bucket_id, _, file = name.rpartition("/")
    if not bucket_id:
        return name, None, None
    object_id, _, name_hash = file.partition(",")
    return object_id, bucket_id, name_hash


def is_copy(account: object, name: object) -> bool:
    """Tell whether an account and a name can be a copy's, so that they make a path."""
    if is_loose_uuid(name):
        return is_loose_uuid(account)
    is_named = isinstance(name, str) and _OF_BUCKET_OBJECT.fullmatch(name) is not None
    return is_named and is_lower_uuid(account)


def folder_of(account: str, name: str) -> str:
    """Return the folder of a copy below the root of objects."""
    bucket_id, _, file = name.rpartition("/")
    return f"v2/{account}/{bucket_id}/{file[:2]}" if bucket_id else account


def file_of(name: str) -> str:
    """Return the file of a copy in its folder."""
    return name.rpartition("/")[2]


def path_of(account: str, name: str) -> str:
    """Return the path of a copy below the root of objects, also that of its URL."""
    return f"{folder_of(account, name)}/{file_of(name)}"
