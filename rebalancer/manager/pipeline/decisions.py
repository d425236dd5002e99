"""This module says what an action decides for the pipeline, which moves its objects.  Pure."""

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
        """Return the shark to be emptied."""

    def read(self, *, shard: int, key: str, etag: str, text: str) -> FoundRecord | None:
        """Return the record as the store keeps it, or None if the job has no business with it."""

    def read_upload(self, shard: int, key: str, text: str) -> Remaining | None:
        """Return the upload in the record of a directory, if the job will find its object left."""

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
        """Return what the record, as it is now, asks for."""

    def rewrite(self, record: Mapping[str, Any], destination: Shark) -> dict[str, Any]:
        """Return the record with the new copy in place of the old one."""

    def splice(self, text: str, destination: Shark) -> str | None:
        """Return a record's text rewritten likewise; None: the text must be parsed for that."""
