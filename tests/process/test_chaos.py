"""Whole runs of the harness of faults: a few seeds each time, and one that must be noticed."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio

from rebalancer_devregion.chaos.run import Result, run
from rebalancer_devregion.chaos.schedule import Schedule, make_schedule
from rebalancer_devregion.layout import Layout

pytestmark = pytest.mark.process

#: Kills alone and together, stops, cuts, pauses, users: seeds whose faults are many kinds.
SEEDS = (4, 6, 11)


def named_copy(layout: Layout) -> Path | None:
    """A file that an agent has made and a record names, if there is one.  Blocking."""
    with closing(sqlite3.connect(layout.before_file)) as before:
        old = dict(before.execute("SELECT key, value FROM records WHERE kind = 'ordinary'"))
    for number in layout.shards:
        with closing(sqlite3.connect(layout.shard_file(number))) as live:
            for key, text in live.execute("SELECT _key, _value FROM manta"):
                if key in old and (now := json.loads(text)) != json.loads(old[key]):
                    known = [s["manta_storage_id"] for s in json.loads(old[key])["sharks"]]
                    names = [s["manta_storage_id"] for s in now["sharks"]]
                    (new,) = [name for name in names if name not in known]
                    return layout.manta_root(new) / f"{now['creator']}/{now['objectId']}"
    return None


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_fault_breaks_an_invariant(seed: int, tmp_path: Path) -> None:
    """The job is complete, the audit holds, and so did everything meanwhile."""
    result = await run(make_schedule(seed, disks=False), tmp_path / "region")
    assert result.violations == []
    assert result.end == "Complete"
    assert result.records > 200
    assert result.looks > 0
    assert result.faults


async def test_a_broken_invariant_is_noticed(tmp_path: Path) -> None:
    """A copy that is removed while its record names it is seen, meanwhile and afterwards."""
    removed = trio.Event()

    async def remove_a_copy(layout: Layout) -> None:
        """As soon as an agent has made one; the monitor has time to see its record."""
        while True:
            await trio.sleep(0.1)
            path = await trio.to_thread.run_sync(named_copy, layout)
            if path is not None:
                await trio.sleep(1.0)
                path.unlink()
                removed.set()
                return

    quiet: Schedule = attrs.evolve(make_schedule(1), users=False, faults=(), late_s=0.05)
    result: Result = await run(quiet, tmp_path / "region", meddle=remove_a_copy)
    assert removed.is_set()
    assert not result.ok
    kinds = {text.partition(":")[0] for text in result.violations}
    assert kinds & {"copies stay", "new copies"}
    assert "audit" in kinds
