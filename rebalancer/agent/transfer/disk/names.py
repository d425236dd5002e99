"""This module makes temporary names, and knows those that an agent may have left."""

import re
import uuid

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
#: A name of ours ends in its run and a number; one of the deployed agent in the id of a thread.
TEMPORARY = re.compile(rf"{_UUID}\.{_UUID}\.(?:([0-9a-f]{{32}})|[0-9]{{1,20}}|ThreadId\([0-9]+\))")


def new_run() -> str:
    """Make a name that no other run has."""
    return uuid.uuid4().hex[:16]


def temporary_name(owner: str, object_id: str, run: str, serial: int) -> str:
    """Return the temporary name of a try: two assignments must not share a file.

    A bucket object has one like any other, which agents that know no buckets remove too.
    """
    return f"{owner}.{object_id}.{run}{serial:016x}"
