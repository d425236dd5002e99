"""SIGKILL at random instants: what is under an object's name is always the whole object."""

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.process.regions import agent_alone, reach
from tests.process.test_signals import children
from tests.sources import (
    ASSIGNMENT,
    OWNER,
    Answer,
    bucket_path,
    bucket_task,
    ok,
    open_source,
    task,
    uuid,
)

pytestmark = pytest.mark.process

#: So many at least, and until one came in the middle of what was visible.
KILLS, MOST_KILLS = 3, 8
#: Of all kinds of ways to the disk: written at once, streamed, streamed for some time.
SIZES = (10, 5_000, 3 << 20)


@pytest.mark.row("CRIT-11", "IMP-4", "A5", "A10", "N24", "DEF-13")
async def test_no_kill_leaves_a_part_of_an_object(tmp_path: Path) -> None:
    """Agent and fetchers, again and again; then the assignment ends with every object whole."""
    rng = random.Random(11)
    contents: dict[str, bytes] = {}
    tasks = []
    for number in range(90):
        content, make = rng.randbytes(SIZES[number % 3]), (task, bucket_task)[number % 2]
        # Two in two have one id, an object of each tier.
        tasks.append(make(number // 2, content))
        path = bucket_path(number // 2) if number % 2 else f"{OWNER}/{uuid(number // 2)}"
        contents[path] = content
    root = tmp_path / "manta"
    seen: list[int] = []

    def check() -> None:
        found = [path for path in contents if (root / path).exists()]
        seen.append(len(found))
        for path in found:
            assert (root / path).read_bytes() == contents[path], path

    def is_halfway() -> bool:
        return any(0 < count < len(contents) for count in seen)

    def answer(_request: int, path: str) -> Answer:
        return Answer(ok(contents[path[1:]]))

    async with open_source(answer) as source, httpx.AsyncClient() as client:
        alone = agent_alone(tmp_path, f"127.0.0.1:{source.port}")
        try:
            while len(seen) < KILLS or not (is_halfway() or len(seen) == MOST_KILLS):
                await alone.process.start()
                if not seen:
                    body = {"id": ASSIGNMENT, "tasks": tasks}
                    assert (await client.post(f"{alone.url}/assignments", json=body)).is_success
                asked = len(source.paths) + rng.randint(1, 25)
                with trio.fail_after(20):
                    while len(source.paths) < asked:  # noqa: ASYNC110
                        await trio.sleep(0.001)
                await trio.sleep(rng.uniform(0, 0.03))
                for pid in (alone.process.pid, *children(alone.process.pid)):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                alone.process.kill()
                check()
            await alone.process.start()
            await reach(client, alone, ASSIGNMENT, len(contents))
        finally:
            alone.process.kill()
    check()

    assert seen[-1] == len(contents)
    assert is_halfway()
