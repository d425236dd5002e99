"""Limits: how much flows, how many tasks are worked on, both changed while the agent works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from rebalancer.agent.transfer.bandwidth import (
    BURST_S,
    LEAST_BYTES,
    Allowance,
    Bucket,
    receive_at_once,
)
from tests.agent.scripted import Rig, open_rig
from tests.sources import Answer, ok, task

CONTENT = bytes(range(256)) * 400


@given(
    rate=st.integers(1, 1 << 34),
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 1 << 20)), max_size=60),
)
def test_a_bucket_never_gives_more_than_flowed_in(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    """And nothing of what it holds is lost, up to what it can hold."""
    bucket, now, taken = Bucket(rate), 0.0, 0
    bucket.limit(rate, now)
    for pause, wanted in steps:
        now += pause
        wanted = min(wanted, receive_at_once(rate))
        if bucket.take(wanted, now):
            taken += wanted
        else:
            now += bucket.wait_s(wanted, now) * (1 + 1e-6) + 1e-6
            assert bucket.take(wanted, now)
            taken += wanted
    assert taken <= rate * now * (1 + 1e-6) + 1
    most = max(LEAST_BYTES, rate * BURST_S)
    now += 10 + most / rate
    assert bucket.wait_s(int(most), now) == 0
    assert bucket.wait_s(int(most) + 2, now) > 0


@pytest.mark.parametrize("rate", [20_000, 1_000_000, 300_000_000])
async def test_transfers_share_one_limit(rate: int, autojump_clock: MockClock) -> None:
    """Sixteen of them, some slow, over two fetchers: within 5 % of the limit over ten seconds."""
    bucket, flowed = Bucket(rate), 0
    bucket.limit(rate, trio.current_time())
    wants, waiting = trio.open_memory_channel[Allowance](100)

    async def grant() -> None:
        async for allowance in waiting:
            await trio.sleep(bucket.wait_s(allowance.at_once, trio.current_time()) + 1e-6)
            assert bucket.take(allowance.at_once, trio.current_time())
            allowance.granted(allowance.at_once)

    async def transfer(allowance: Allowance, number: int) -> None:
        nonlocal flowed
        while True:
            await allowance.wait()
            most = min(64 << 10, allowance.at_once)
            allowance.spend(most)
            await trio.sleep(number * 0.01)
            got = max(1, most // (1 + number % 3))
            flowed += got
            allowance.spend(got - most)

    def made() -> Allowance:
        allowance = Allowance(lambda: wants.send_nowait(allowance))
        allowance.limit(True, receive_at_once(rate))
        return allowance

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grant)
        for allowance in (made(), made()):
            for number in range(8):
                nursery.start_soon(transfer, allowance, number)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert flowed <= rate * 10 * 1.05
    if rate <= 1_000_000:  # more than that, transfers that sleep so much cannot take
        assert flowed >= rate * 10 * 0.95


def answer(_request: int, _path: str) -> Answer:
    return Answer(ok(CONTENT))


async def test_a_limit_holds_what_is_under_way_and_its_end_lets_it_go(tmp_path: Path) -> None:
    """100 KiB at 4 KiB a second would take 25 s; without the limit they are there at once."""
    async with open_rig(tmp_path, answer, bandwidth_bytes_per_s=4096) as rig:
        await rig.post([task(1, CONTENT)])
        with trio.fail_after(10):
            while not rig.source.paths:  # noqa: ASYNC110
                await trio.sleep(0.01)
        held = await rig.stats()
        reply = await rig.client.put("/limits", json={"bandwidth_bytes_per_s": None})
        assert held["complete"] == 0
        assert await reply.get_json() == {
            "bandwidth_bytes_per_s": None,
            "workers_per_assignment": 1,
        }
        assert await rig.finish() == []
        assert rig.path(1).read_bytes() == CONTENT


async def test_the_configured_limit_is_put_in_force_again(tmp_path: Path) -> None:
    """Whatever was put in its place; the other limit stays."""
    async with open_rig(tmp_path, answer, bandwidth_bytes_per_s=4096) as rig:
        await rig.client.put(
            "/limits", json={"bandwidth_bytes_per_s": 1, "workers_per_assignment": 7}
        )
        reply = await rig.client.delete("/limits/bandwidth_bytes_per_s")

        limits = {"bandwidth_bytes_per_s": 4096, "workers_per_assignment": 7}
        assert await reply.get_json() == limits
        assert await (await rig.client.get("/limits")).get_json() == limits


def silent_first(count: int) -> Callable[[int, str], Answer]:
    return lambda request, _path: Answer(b"", hang=True) if request < count else answer(0, "")


async def under_way(rig: Rig, count: int) -> None:
    with trio.fail_after(10):
        while len(rig.source.paths) < count:  # noqa: ASYNC110
            await trio.sleep(0.01)
    await trio.sleep(0.05)
    assert len(rig.source.paths) == count


@pytest.mark.row("TEST-AGENT-9")
async def test_running_assignments_are_widened_and_narrowed(tmp_path: Path) -> None:
    """More tasks begin at once; of too many none is cut off, but no others follow them."""
    async with open_rig(tmp_path, silent_first(5), idle_timeout=1.0) as rig:
        await rig.post([task(number, CONTENT) for number in range(20)])
        await under_way(rig, 1)
        await rig.client.put("/limits", json={"workers_per_assignment": 5})
        await under_way(rig, 5)
        metrics = rig.agent.metrics.registry
        assert metrics.get_sample_value("rebalancer_agent_running_tasks") == 5
        await rig.client.put("/limits", json={"workers_per_assignment": 2})
        failed = await rig.finish()

    assert len(failed) == 5
    assert rig.source.most_at_once == 5 + 2  # the source has not noticed the end of the first


@pytest.mark.row("CRIT-8")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected an object with one or more of"),
        ({}, "expected an object with one or more of"),
        ({"bandwith": 5}, "expected an object with one or more of"),
        ({"bandwidth_bytes_per_s": 0}, "bandwidth_bytes_per_s: expected a whole number of 1"),
        ({"bandwidth_bytes_per_s": "5"}, "bandwidth_bytes_per_s: expected a whole number of 1"),
        ({"workers_per_assignment": True}, "workers_per_assignment: expected a whole number from"),
        ({"workers_per_assignment": None}, "workers_per_assignment: expected a whole number from"),
        ({"workers_per_assignment": 257}, "from 1 to 256"),
    ],
)
async def test_bad_limits_change_nothing(tmp_path: Path, body: Any, message: str) -> None:
    """400, and what was in force stays."""
    async with open_rig(tmp_path, answer, bandwidth_bytes_per_s=5000) as rig:
        reply = await rig.client.put("/limits", json=body)

        assert reply.status_code == 400
        assert message in (await reply.get_json())["message"]
        assert await (await rig.client.get("/limits")).get_json() == {
            "bandwidth_bytes_per_s": 5000,
            "workers_per_assignment": 1,
        }
