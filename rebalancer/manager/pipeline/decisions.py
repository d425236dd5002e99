"""This module names the decisions that the pipeline leaves to an action.  Pure."""

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rebalancer.domain.candidates import Candidates, Outlook
from rebalancer.domain.objects import MantaObject, Shark, StorageNode
from rebalancer.domain.placement import Placement, Rules
from rebalancer.domain.reasons import Reason
from rebalancer.domain.sharks import Judgement
from rebalancer.manager.store.records import FoundRecord, Remaining


class MoveDecisions(Protocol):
    """The pipeline leaves these decisions to the action whose objects it moves."""

    @property
    def action(self) -> str:
        """Return the name of the action, by which metrics count its objects."""

    @property
    def origin(self) -> Shark:
        """Return the shark of the evacuated node."""

    def read(
        self, *, shard: int, key: str, etag: str, text: str, in_upload: bool = False
    ) -> FoundRecord | None:
        """Return the record as the store keeps it, or None if the job has no business with it.

        `in_upload`: its object is a part of an upload that goes on.
        """

    def read_upload(self, shard: int, key: str, text: str) -> Remaining | None:
        """Return the upload that a record is about, if it may end on `origin`."""

    def choose(
        self,
        obj: MantaObject,
        candidates: Candidates,
        rules: Rules,
        look: Callable[[StorageNode], Outlook],
        rng: random.Random,
    ) -> Placement | Reason | None:
        """Return where `obj` goes, or why nowhere; None if all its destinations are busy."""

    def judge(
        self, record: Mapping[str, Any] | None, object_id: str, destination: Shark
    ) -> Judgement:
        """Return what has to be done about the record as it is now."""

    def rewrite(self, record: Mapping[str, Any], destination: Shark) -> dict[str, Any]:
        """Return the record with the new copy in place of the old one."""

    def splice(self, text: str, destination: Shark) -> str | None:
        """Do what `rewrite` does to a record's text; return None if the text must be parsed."""
