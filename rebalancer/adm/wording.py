"""This module words what the manager refuses as its command does: by options, not by fields."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rebalancer.actions.declaration import Declaration, parameters_of
from rebalancer.adm.client import AdmError

#: What commands change, by the field of the API.
LIMITS: Mapping[str, str] = {
    "max_metadata_update_threads": "metadata updates",
    "max_sharks": "destinations",
    "max_tasks_per_assignment": "objects of an assignment",
    "bandwidth_bytes_per_s": "bandwidth",
}


def options_of(declared: Declaration) -> Mapping[str, str]:
    """Return the options of the command that makes a job of an action, by their fields."""
    return {
        name: known.option.flags[-1]
        for name, (_, known) in parameters_of(declared.params).items()
        if known.option is not None
    }


def in_words_of(text: str, names: Mapping[str, str]) -> str:
    """Return a message of the manager with each field called as `names` has it."""
    fields = "|".join(map(re.escape, names))
    # Without a prefix, words such as `job` are words.
    with_prefix = rf"\bparams\.({fields})\b"
    text = re.sub(with_prefix, lambda match: names[match[1]], text)
    if text.startswith("Cannot set "):
        text = re.sub(rf"\b({fields})\b", lambda match: names[match[1]], text)
    if text.startswith("params: "):
        bare = rf"\b({fields})\b"
        text = re.sub(bare, lambda match: names[match[1]], text.removeprefix("params: "))
    return text


@contextmanager
def worded(names: Mapping[str, str]) -> Iterator[None]:
    """Give errors of the manager in this context these names of fields.

    Raises:
      AdmError: it refused.
    """
    try:
        yield
    except AdmError as exc:
        raise AdmError(in_words_of(str(exc), names), exc.status, exc.exit_code) from exc
