"""This module decides for evacuations: every object with a copy on a shark gets it elsewhere."""

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import attrs

from rebalancer import jsontext
from rebalancer.actions.evacuate import EVACUATE
from rebalancer.domain import placement, reasons, sharks
from rebalancer.domain.candidates import Candidates, Outlook
from rebalancer.domain.objects import MantaObject, Shark, StorageNode, UnusableRecord
from rebalancer.domain.placement import Placement, Rules
from rebalancer.domain.reasons import UPLOAD_IN_PROGRESS, Reason
from rebalancer.domain.records import id_of, parse_record, read_object, read_sharks
from rebalancer.domain.sharks import Judgement
from rebalancer.domain.tiers import Tier, tier_of
from rebalancer.manager.store.records import FoundRecord, Remaining, unknown_id


@attrs.frozen
class Evacuate:
    """An evacuation empties `origin`."""

    action: ClassVar[str] = EVACUATE.name
    origin: Shark
    exclude_key_prefixes: tuple[str, ...] = ()
    #: Whether bucket objects are counted only.
    leaves_buckets: bool = False

    def read(
        self, *, shard: int, key: str, etag: str, text: str, in_upload: bool = False
    ) -> FoundRecord | None:
        """Return the record as the store keeps it, or None if no copy of it is on `origin`."""
        record: Mapping[str, Any] = {}
        try:
            record = parse_record(text)
            copies = read_sharks(record)
            names = [entry.manta_storage_id for entry in copies]
            if self.origin.manta_storage_id not in names:
                return None
            obj = read_object(record, copies)
            if names.count(self.origin.manta_storage_id) > 1:
                raise UnusableRecord(
                    reasons.DUPLICATE_SHARK, f"{self.origin.manta_storage_id} is named twice"
                )
        except UnusableRecord as exc:
            # Without a list of sharks there is no telling whether the object lies here; the
            # record mentions this one, so a person should look.
            object_id = id_of(record) or unknown_id(shard, key)
            return FoundRecord(
                object_id, key, shard, etag, text, reason=exc.reason, detail=str(exc)
            )
        reason = None
        if key.startswith(self.exclude_key_prefixes):
            reason = reasons.EXCLUDED
        elif in_upload:
            reason = reasons.ACTIVE_UPLOAD
        elif self.leaves_buckets and tier_of(shard) is Tier.BUCKETS:
            reason = reasons.BUCKETS_UPDATE_OFF
        return FoundRecord(obj.object_id, key, shard, etag, text, obj.size, obj, reason)

    def read_upload(self, shard: int, key: str, text: str) -> Remaining | None:
        """Return the upload that a record is about, if it may end on `origin`.

        The text holds the name, so an upload may end there whose list of nodes cannot be read, or
        of which nothing can.
        """
        try:
            record = jsontext.loads(text)
        except (ValueError, RecursionError):
            return Remaining(shard, key, "", UPLOAD_IN_PROGRESS.word)
        if tier_of(shard) is Tier.BUCKETS:  # whose client has found the node in the headers
            return Remaining(shard, key, key.rpartition("/")[2], UPLOAD_IN_PROGRESS.word)
        upload = record.get("upload") if isinstance(record, dict) else None
        if not isinstance(upload, dict) or "sharks" not in upload:
            return None
        with suppress(UnusableRecord):
            names = [shark.manta_storage_id for shark in read_sharks(upload)]
            if self.origin.manta_storage_id not in names:
                return None
        return Remaining(shard, key, str(upload.get("id", "")), UPLOAD_IN_PROGRESS.word)

    def choose(
        self,
        obj: MantaObject,
        candidates: Candidates,
        rules: Rules,
        look: Callable[[StorageNode], Outlook],
        rng: random.Random,
    ) -> Placement | Reason | None:
        """Return where `obj` goes, or why nowhere; None if all its destinations are busy."""
        return placement.choose(obj, self.origin, candidates, rules, look, rng)

    def judge(
        self, record: Mapping[str, Any] | None, object_id: str, destination: Shark
    ) -> Judgement:
        """Return what has to be done about the record as it is now."""
        return sharks.judge(
            record, object_id, self.origin.manta_storage_id, destination.manta_storage_id
        )

    def rewrite(self, record: Mapping[str, Any], destination: Shark) -> dict[str, Any]:
        """Return the record with the entry of `origin` naming the destination."""
        return sharks.rewrite(record, self.origin.manta_storage_id, destination)

    def splice(self, text: str, destination: Shark) -> str | None:
        """Do what `rewrite` does to a record's text; return None if the text must be parsed."""
        return sharks.splice(text, self.origin.manta_storage_id, destination)
