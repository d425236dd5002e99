"""The region's front end, at its worst, writes to the evacuated node behind a job's back.

It puts whole records back as it had read them, without a look at what it replaces; objects whose
upload had begun before the node became read-only are committed late; and uploads stay open that
were given the node when they began.
"""

import random
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import attrs
import trio

from rebalancer.errors import PeerRefused
from rebalancer.peers.metadata import Record
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.peers.moray.errors import MorayError
from rebalancer_devregion.contents import md5, object_bytes, write_file
from rebalancer_devregion.layout import Layout, Node
from rebalancer_devregion.writer import BUCKET, Change, Changed, Journal, Victim, stale_victims

#: A record that the job has not rewritten in so many seconds will not be.
PATIENCE_S = 60.0
#: Late objects of each shard, and seconds between them.
LATE, LATE_EVERY_S = 4, 0.1
_LOOK_S = 0.01


async def leak(layout: Layout, patience_s: float = PATIENCE_S) -> None:
    """Put some records back, commit some late objects, leave an upload open in each shard.

    Not to be cancelled, like `change_objects`; it can go on at the same time.

    Raises:
      PeerError: a shard did not answer, or the job did not move what it should.
    """
    names = {number: layout.moray_host(number) for number in layout.shards}
    victims = stale_victims(layout)
    with closing(Journal(layout.journal_file)) as journal:
        async with (
            open_moray(names, layout.hosts, connections=2) as shards,
            trio.open_nursery() as nursery,
        ):
            front_end = _FrontEnd(
                layout, shards, journal, random.Random(layout.seed + 1), patience_s
            )
            template = victims[0].value
            for number in layout.shards:
                await front_end.open_upload(number, template)
            # Discovery has read the first records when one of them was moved: what comes
            # after that, only a final scan can find.
            moved = trio.Event()
            for victim in victims:
                nursery.start_soon(front_end.put_back, victim, moved)
            await moved.wait()
            for _ in range(LATE):
                for number in layout.shards:
                    await front_end.commit_late(number, template)
                await trio.sleep(LATE_EVERY_S)


@attrs.frozen
class _FrontEnd:
    """A front end has what it needs to do its work."""

    layout: Layout
    shards: Mapping[int, MorayClient]
    journal: Journal
    rng: random.Random
    patience_s: float

    async def put_back(self, victim: Victim, moved: trio.Event) -> None:
        """Change an object's headers, with its record as it was read before the job came to it."""
        value = {**victim.value, "headers": {"m-stale": str(self.rng.random())}}
        try:
            with trio.fail_after(self.patience_s):
                while (await self._read(victim)).value == victim.value:  # noqa: ASYNC110
                    await trio.sleep(_LOOK_S)
        except trio.TooSlowError as exc:
            raise PeerRefused(f"{victim.key} was not moved in {self.patience_s} s") from exc
        moved.set()
        etag = None
        while etag is None:
            replaced = await self._read(victim)
            etag = await self._put_over(victim, value, replaced.etag)
        self._note(victim.shard, victim.key, Change.STALE, value, etag, replaced.value)

    async def _read(self, victim: Victim) -> Record:
        record = await self.shards[victim.shard].get_object(BUCKET, victim.key)
        if record is None:
            raise PeerRefused(f"{victim.key} is gone, and no user deleted it")
        return record

    async def _put_over(self, victim: Victim, value: dict[str, Any], etag: str) -> str | None:
        """Put a record, and return its new etag, or None if the record changed meanwhile.

        The real front end puts without a condition; one that is renewed until it holds comes
        to the same.
        """
        try:
            return await self.shards[victim.shard].put_object(BUCKET, victim.key, value, etag)
        except MorayError as exc:
            if exc.is_conflict:
                return None
            raise

    async def commit_late(self, number: int, template: Mapping[str, Any]) -> None:
        """Write the object of an upload that was given the evacuated node when it began."""
        object_id = self._new_id()
        content = object_bytes(object_id, self.rng.randrange(1, 5000))
        nodes = self._nodes()
        for node in nodes:
            path = f"{template['creator']}/{object_id}"
            write_file(self.layout.manta_root(node.manta_storage_id) / path, content)
            self.journal.add_file(node.manta_storage_id, path, content)
        key = f"{template['dirname']}/late-{object_id}"
        value = {
            **template,
            "key": key,
            "name": f"late-{object_id}",
            "objectId": object_id,
            "etag": object_id,
            "contentLength": len(content),
            "contentMD5": md5(content),
            "sharks": _sharks(nodes),
        }
        etag = await self.shards[number].put_object(BUCKET, key, value, None)
        self._note(number, key, Change.LATE, value, etag)

    async def open_upload(self, number: int, template: Mapping[str, Any]) -> None:
        """Write the directory of an upload that was given the evacuated node, and goes on."""
        upload_id = self._new_id()
        dirname = f"/{template['owner']}/uploads/{upload_id[:1]}"
        value = {
            "dirname": dirname,
            "key": f"{dirname}/{upload_id}",
            "headers": {},
            "mtime": template["mtime"],
            "name": upload_id,
            "creator": template["creator"],
            "owner": template["owner"],
            "type": "directory",
            "vnode": template["vnode"],
            "upload": {
                "id": upload_id,
                "state": "created",
                "objectId": self._new_id(),
                "sharks": _sharks(self._nodes()),
            },
        }
        key = str(value["key"])
        etag = await self.shards[number].put_object(BUCKET, key, value, None)
        self._note(number, key, Change.OPEN, value, etag)

    def _note(
        self,
        shard: int,
        key: str,
        kind: Change,
        value: dict[str, Any],
        etag: str,
        replaced: Mapping[str, Any] | None = None,
    ) -> None:
        object_id = value.get("objectId", "")
        self.journal.add(Changed(shard, key, kind, object_id, dict(replaced or {}), value, etag))

    def _new_id(self) -> str:
        return f"{self.rng.getrandbits(32):08x}-0000-4000-9000-{self.rng.getrandbits(48):012x}"

    def _nodes(self) -> list[Node]:
        """Return the evacuated node, and one in another datacenter."""
        origin = self.layout.node(self.layout.evacuated)
        others = [node for node in self.layout.nodes if node.datacenter != origin.datacenter]
        return [origin, self.rng.choice(others)]


def _sharks(nodes: list[Node]) -> list[dict[str, str]]:
    return [
        {"datacenter": node.datacenter, "manta_storage_id": node.manta_storage_id} for node in nodes
    ]
