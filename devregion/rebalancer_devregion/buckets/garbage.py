"""The region's garbage collector deletes the files of rows that have been deleted for a while.

It believes such a row as the real one does: the file of its id goes from each node that the row
names, also if a living row names it there.
"""

from contextlib import suppress

import trio

from rebalancer_devregion.buckets.tables import VNODES, connected, path_of, schema_of
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.postgres import Connection

#: A deleted row waits so many seconds; the collector looks that often.
AFTER_S, EVERY_S = 2.0, 0.5


async def collect_garbage(layout: Layout, number: int) -> None:
    """Collect the garbage of a buckets shard for ever."""
    while True:
        await trio.to_thread.run_sync(collect, layout, number)
        await trio.sleep(EVERY_S)


def collect(layout: Layout, number: int) -> None:
    """Delete the files of the rows of a shard that were deleted `AFTER_S` ago.  Blocking."""
    with connected(layout, number) as db:
        for vnode in VNODES[number]:
            for node, path in _due(db, vnode):
                with suppress(FileNotFoundError):
                    (layout.manta_root(node) / path).unlink()


def _due(db: Connection, vnode: int) -> list[tuple[str, str]]:
    """Remove the rows that are due, and return the files that they name."""
    found = []
    with db.transaction():
        rows = db.execute(
            f"DELETE FROM {schema_of(vnode)}.manta_bucket_deleted_object"
            " WHERE deleted_at < clock_timestamp() - make_interval(secs => %s)"
            " RETURNING owner::text, bucket_id::text, id::text, name, sharks".encode(),
            [AFTER_S],
        )
        for owner, bucket_id, object_id, name, sharks in rows.fetchall():
            path = path_of(owner, bucket_id, object_id, name)
            found += [(shark.split(":")[1], path) for shark in sharks or () if ":" in shark]
        with db.cursor() as cursor:
            cursor.executemany("INSERT INTO region.collected VALUES (%s, %s)", found)
    return found
