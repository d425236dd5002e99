"""This benchmark finds a shark's objects in a clone of the buckets tier, beside a filtered copy.

One row in twenty is on the shark.  The contenders run in turns:

- `floor`: PostgreSQL copies the matching rows of each vnode's table, and the client drops them;
- `ours`: the product's scan, window by window, its rows parsed and dropped.
"""

import argparse
import sys
import time
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import psycopg
import trio
from harness import parser, session
from results import Figure, Round, Row, ratios, spread

from rebalancer.peers.buckets import statements
from rebalancer.peers.buckets.database import DATABASE, BucketsDatabase
from rebalancer.peers.names import Endpoint
from rebalancer_devregion import postgres
from rebalancer_devregion.postgres import Cluster
from rebalancer_devregion.processes import find_program

SHARK = "3.stor.lab"
#: The rows of a vnode, in no order of their keys: one in twenty is on each of the first sharks.
FILL = """
    INSERT INTO {table}
    SELECT gen_random_uuid(), 'dir/' || md5(i::text),
        ('a0000000-0000-4000-8000-' || lpad((i % 50)::text, 12, '0'))::uuid,
        md5((i % 500)::text)::uuid, now(), now(), 5,
        '\\x00112233445566778899aabbccddeeff', 'text/plain', '"m-a"=>"b"',
        ARRAY['dc1:' || (i % 20) || '.stor.lab', 'dc2:' || (20 + i % 20) || '.stor.lab'],
        '{{"roles": ["a"]}}'
    FROM generate_series(1, {rows}) AS i
"""
MATCHING = f"""
    SELECT row_to_json(kept)::text FROM (
        SELECT {statements.COLUMNS} FROM {{table}} WHERE {statements.NAMED}
    ) AS kept
"""
FIGURES = {
    "wall": Figure("s", "less"),
    "CPU": Figure("s", "less"),
    "found": Figure("objects", "more"),
}


def connect(cluster: Cluster) -> psycopg.Connection[tuple[Any, ...]]:
    return cluster.connect(DATABASE)


def fill(cluster: Cluster, vnodes: int, rows: int) -> None:
    """Make the tables anew, each with its part of the rows."""
    cluster.create_buckets(range(vnodes))
    with closing(connect(cluster)) as db:
        for vnode in range(vnodes):
            table = statements.table(vnode)
            db.execute(FILL.format(table=table, rows=rows // vnodes).encode())
        db.execute("VACUUM (FREEZE, ANALYZE)")
        db.execute("CHECKPOINT")


def floor(cluster: Cluster, vnodes: int) -> int:
    found = 0
    with closing(connect(cluster)) as db, db.cursor() as cursor:
        for vnode in range(vnodes):
            matching = MATCHING.format(table=statements.table(vnode)).replace("$1", f"'{SHARK}'")
            with cursor.copy(f"COPY ({matching}) TO STDOUT".encode()) as copy:
                found += sum(1 for _ in copy)
    return found


async def ours(cluster: Cluster, width: int) -> int:
    found = 0
    shard = BucketsDatabase("clone", Endpoint(cluster.host, cluster.port))
    for part in await shard.parts():
        done = await shard.end_of(part)
        while not done.is_end:
            done, rows = await shard.window(part, done, width, SHARK)
            found += len(rows)
    shard.close()
    return found


def measured(run: partial[int]) -> Round:
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    return {
        "wall": time.perf_counter() - wall,
        "CPU": time.process_time() - cpu,
        "found": found,
    }


def goals(rows: list[Row]) -> str:
    """Return the ratio of each round: neighbours in time have the same noise."""
    walls = {row.contender: row.values("wall") for row in rows}
    return f"ours / floor: {spread(ratios(walls['ours'], walls['floor']))}"


def parse_options() -> argparse.Namespace:
    options_of = parser(__doc__, rounds=5)
    options_of.add_argument("--rows", type=int, default=3_000_000, help="of the shard")
    options_of.add_argument("--vnodes", type=int, default=64, help="tables they are spread over")
    options_of.add_argument("--width", type=int, nargs="+", default=[10_000], help="of a window")
    return options_of.parse_args()


def main() -> None:
    options = parse_options()
    if find_program("initdb") is None:
        sys.exit("PostgreSQL is not installed: there is nothing to scan")
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.running())
        made = stack.enter_context(session("buckets", FIGURES, options, {"disk": cluster.folder}))
        fill(cluster, options.vnodes, options.rows)
        for width in options.width:
            contenders = {
                "floor": partial(measured, partial(floor, cluster, options.vnodes)),
                "ours": partial(measured, partial(trio.run, ours, cluster, width)),
            }
            setting = f"{options.rows:,} rows, windows of {width:,}"
            # A turn that warms the caches is not counted.
            rows = made.measure(setting, contenders, warm_up=1)
            found = {number for row in rows for number in row.values("found")}
            assert len(found) == 1, f"they did not find the same: {found}"
            made.tell(f"{setting}: {goals(rows)}")


if __name__ == "__main__":
    main()
