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
from tests.sources import ASSIGNMENT, OWNER, Answer, ok, open_source, task

pytestmark = pytest.mark.process

#: So many at least, and until one came in the middle of what was visible.
KILLS, MOST_KILLS = 3, 8
#: Of all kinds of ways to the disk: written at once, streamed, streamed for some time.
SIZES = (10, 5_000, 3 << 20)


@pytest.mark.row("CRIT-11", "IMP-4", "A5", "A10", "N24", "DEF-13")
async def test_no_kill_leaves_a_part_of_an_object(tmp_path: Path) -> None:
    """Agent and fetchers, again and again; then the assignment ends with every object whole."""
    rng = random.Random(11)
    contents = [rng.randbytes(SIZES[number % 3]) for number in range(90)]
    folder = tmp_path / "manta" / OWNER
    seen: list[int] = []

    def check() -> None:
        found = sorted(os.listdir(folder)) if folder.exists() else []
        seen.append(len(found))
        for name in found:
            assert (folder / name).read_bytes() == contents[int(name[-6:])], name

    def is_halfway() -> bool:
        return any(0 < count < len(contents) for count in seen)

    def answer(_request: int, path: str) -> Answer:
        return Answer(ok(contents[int(path[-6:])]))

    async with open_source(answer) as source, httpx.AsyncClient() as client:
        alone = agent_alone(tmp_path, f"127.0.0.1:{source.port}")
        try:
            while len(seen) < KILLS or not (is_halfway() or len(seen) == MOST_KILLS):
                await alone.process.start()
                if not seen:
                    body = {"id": ASSIGNMENT, "tasks": [task(n, c) for n, c in enumerate(contents)]}
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
