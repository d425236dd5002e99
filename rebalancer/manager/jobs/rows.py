"""This module reads rows of the list of jobs, and notes of them in the jobs' files.  Pure."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import attrs

from rebalancer.actions import DECLARED, FALLBACK
from rebalancer.domain.states import ENDED, WISH_WORDS, JobState, Words, job_state, words_of


@attrs.frozen
class JobRow:
    """A row is one job; `state` is None if only another version knows what `words` mean."""

    id: str
    action: str
    state: JobState | None
    params: dict[str, Any]
    created: str
    started: str | None
    finished: str | None
    error: str | None
    #: The state as it is recorded, for the API.
    words: Words = attrs.field(
        default=attrs.Factory(lambda row: words_of(row.state), takes_self=True)
    )
    #: Whether its row makes no sense: then the job is shown, and can only be removed.
    is_broken: bool = False

    @property
    def node(self) -> str | None:
        """Return the name of the storage node that no two jobs may be about, if there is one."""
        return DECLARED[self.action].node(self.params) if self.action in DECLARED else None

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing happens to the job any more.

        A job in a state that only another version knows has not ended.
        """
        return self.is_broken or self.state in ENDED

    @property
    def state_shown(self) -> str:
        """Return the state as the API spells it."""
        word = self.words.state
        return word[:1].upper() + word[1:]


def read_row(row: Mapping[str, Any]) -> JobRow:
    """Read a row; of a row that makes no sense, read as much as can be shown."""
    try:
        return read_whole_row(row)
    except (ValueError, TypeError, RecursionError) as exc:
        job_id, action, state = (str(row[name]) for name in ("id", "action", "state"))
        text = f"this row of the list of jobs cannot be used: {exc}"
        params = DECLARED.get(action, FALLBACK).params_about("")
        words = Words(state, None)
        return JobRow(job_id, action, None, params, "", None, None, text, words, is_broken=True)


def read_whole_row(row: Mapping[str, Any]) -> JobRow:
    """Read a row that makes sense.

    Raises:
      ValueError, TypeError, KeyError, RecursionError: it makes no sense.
    """
    params = json.loads(row["params"])
    declared = DECLARED.get(row["action"])
    needed = None if declared is None else declared.node_parameter
    if not isinstance(params, dict) or not (needed is None or isinstance(params.get(needed), str)):
        raise TypeError("params is no object that names a shark")
    for name in ("id", "action", "state", "created"):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} is no text")
    for name in ("started", "finished", "error"):
        if not isinstance(row[name], str | None):
            raise TypeError(f"{name} is no text")
    if PurePath(row["id"]).name != row["id"]:
        raise ValueError("its id can name no file")
    words = Words(row["state"], row["wish"])
    if words.wish not in (None, *WISH_WORDS):
        raise ValueError(f"{words.wish!r} is no wish")
    return JobRow(
        row["id"],
        row["action"],
        job_state(words),
        params,
        row["created"],
        row["started"],
        row["finished"],
        row["error"],
        words,
    )
