"""What is outside of a job and away: the job waits, says for what, and goes on by itself."""

import errno
import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer import threads
from rebalancer.config import read_token
from rebalancer.errors import (
    ConfigError,
    JobFailed,
    PeerError,
    PeerRefused,
    PeerUnreachable,
    StoreError,
)
from rebalancer.manager.actions.evacuate import origin
from rebalancer.manager.jobs import assembly, running
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.listings import ObjectsFile
from rebalancer.manager.store.records import Listed
from rebalancer.peers.moray.client import MorayClient
from rebalancer.retry import retry_while_transient
from rebalancer.threads import THREADS, Work
from rebalancer.transient import is_transient
from rebalancer.waits import Waits
from tests.manager.http.test_api import Rig, open_rig
from tests.manager.jobs.test_control import SMALL, ask, control
from tests.manager.world import make_world, record
from tests.test_transient import caused, sqlite_error

# --- what waiting helps ----------------------------------------------------------------------


async def test_a_patient_question_is_shown_while_it_waits(autojump_clock: object) -> None:
    """From the first failure to the answer, with the last error; pauses are bounded."""
    waits, asked = Waits(), list[float]()

    async def answer() -> str:
        await trio.lowlevel.checkpoint()
        asked.append(trio.current_time())
        if len(asked) < 100:
            raise PeerUnreachable(f"try {len(asked)}")
        return "here"

    async def look() -> None:
        await trio.sleep(600)
        (cause,) = waits.causes
        assert cause.subject == "the thing"
        assert cause.detail == f"try {len(asked)}"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        assert await retry_while_transient(answer, waits=waits, subject="the thing") == "here"
    assert waits.causes == []
    assert max(b - a for a, b in pairwise(asked)) <= 15


async def test_a_patient_question_that_is_cancelled_is_not_shown_any_more(
    autojump_clock: object,
) -> None:
    """Neither is one whose answer is final."""
    waits = Waits()

    async def away() -> None:
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable("away")

    with trio.move_on_after(100):
        await retry_while_transient(away, waits=waits, subject="the thing")
    assert waits.causes == []

    async def refused() -> None:
        await trio.lowlevel.checkpoint()
        raise PeerRefused("no")

    with pytest.raises(PeerRefused):
        await retry_while_transient(refused, waits=waits, subject="the thing")
    assert waits.causes == []


# --- a whole manager -------------------------------------------------------------------------


async def shown(rig: Rig, job_id: str, subject: str) -> dict[str, Any]:
    """What the job says of its wait for `subject`, once it does."""
    with trio.fail_after(30):
        while True:
            view = await rig.get(job_id)
            for one in view["waiting"]:
                if one["for"] == subject:
                    summary = (await ask(rig, "GET", f"/jobs/{job_id}/summary"))[1]
                    assert [told["for"] for told in summary["waiting"]].count(subject) == 1
                    assert view["state"] == "Running"
                    found: dict[str, Any] = one
                    return found
            await trio.sleep(0.02)


async def goes_on(rig: Rig, job_id: str, subject: str) -> None:
    """Return once the job does not wait for `subject` any more, and runs."""
    with trio.fail_after(60):
        while True:
            view = await rig.get(job_id)
            assert view["state"] in ("Setup", "Running")
            if view["results"]["Total"] and subject not in [one["for"] for one in view["waiting"]]:
                return
            await trio.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short: these tests run by the clock on the wall."""
    quickly = partial(retry_while_transient, first_s=0.02, longest_s=0.05)
    monkeypatch.setattr(assembly, "retry_while_transient", quickly)
    monkeypatch.setattr(origin, "retry_while_transient", quickly)
    monkeypatch.setattr(running, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(running, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(running, "SOUND_S", 0.3)


@pytest.mark.usefixtures("quick")
async def test_a_job_waits_for_the_shard_that_knows_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it can begin; the shard comes back, and the job begins."""
    is_away = True
    real = MorayClient.find_objects

    async def find(self: MorayClient, *args: Any) -> Any:
        if is_away:
            raise PeerUnreachable("1.moray.lab: connection refused")
        return await real(self, *args)

    monkeypatch.setattr(MorayClient, "find_objects", find)
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        cause = await shown(rig, job_id, "shard 1")
        assert cause["detail"] == "1.moray.lab: connection refused"
        assert cause["since"].endswith("Z")
        is_away = False
        await goes_on(rig, job_id, "shard 1")


@pytest.mark.usefixtures("quick")
async def test_a_job_that_waits_before_it_begins_is_cancelled_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing had begun, so nothing has to end."""

    async def find(*_args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable("1.moray.lab: connection refused")

    monkeypatch.setattr(MorayClient, "find_objects", find)
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        await shown(rig, job_id, "shard 1")
        assert (await control(rig, job_id, "cancel"))[0] == 200
        view = await rig.reach(job_id, "Stopped")
    assert (view["wish"], view["waiting"]) == ("cancel", [])


@pytest.mark.usefixtures("quick")
async def test_a_job_that_waits_before_it_begins_can_be_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And waits again once it is resumed."""

    async def find(*_args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable("1.moray.lab: connection refused")

    monkeypatch.setattr(MorayClient, "find_objects", find)
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        await shown(rig, job_id, "shard 1")
        assert (await control(rig, job_id, "pause"))[0] == 200
        assert (await rig.get(job_id))["waiting"] == []
        assert (await control(rig, job_id, "resume"))[0] == 200
        await shown(rig, job_id, "shard 1")


@pytest.mark.usefixtures("quick")
async def test_a_job_waits_for_storinfo_when_it_is_resumed(tmp_path: Path) -> None:
    """No answer is not the answer that there are no nodes."""
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        fleet = rig.jobs.resources.node_list
        await goes_on(rig, job_id, "storinfo")
        await control(rig, job_id, "pause")
        known, fleet._nodes, asked = fleet._nodes, (), fleet._ask

        async def away() -> Any:
            await trio.lowlevel.checkpoint()
            raise PeerUnreachable("storinfo.lab: no answer in 10 s")

        fleet._ask = away
        await control(rig, job_id, "resume")
        cause = await shown(rig, job_id, "storinfo")
        assert cause["detail"] == "storinfo.lab: no answer in 10 s"
        fleet._ask = asked
        await goes_on(rig, job_id, "storinfo")
        assert fleet.nodes == known


@pytest.mark.usefixtures("quick")
async def test_a_job_waits_for_the_agents_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is being replaced, or that no file is left to read."""
    real, is_away = read_token, True

    def read(path: str, named_by: str) -> str | None:
        if is_away:
            raise ConfigError("agent_token_file: /etc/token: Too many open files")
        return real(path, named_by)

    monkeypatch.setattr(assembly, "read_token", read)
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        await shown(rig, job_id, "the agents' token")
        is_away = False
        await goes_on(rig, job_id, "the agents' token")


BREAKS: dict[str, Callable[[], Exception]] = {
    "files": lambda: OSError(errno.EMFILE, "Too many open files"),
    "disk": lambda: caused(StoreError("job.sqlite: full"), sqlite_error(13)),
    "peers": lambda: PeerUnreachable("2.moray.lab: gone"),
    "threads": lambda: RuntimeError("can't start new thread"),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", BREAKS)
async def test_whatever_passes_and_breaks_a_job_lets_it_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """From wherever it comes: as after a restart, with the cause shown until it has run a while."""
    real, times = flow.run, 0

    async def breaks(job: Job) -> None:
        nonlocal times
        times += 1
        if times < 4:
            raise ExceptionGroup("of a stage", [BREAKS[name]()])
        await real(job)

    monkeypatch.setattr(flow, "run", breaks)
    async with open_rig(tmp_path, objects=9, options=SMALL) as rig:
        job_id = await rig.create()
        cause = await shown(rig, job_id, running.MACHINE)
        assert cause["detail"] == str(BREAKS[name]())
        await goes_on(rig, job_id, running.MACHINE)
    assert times == 4


@pytest.mark.parametrize(
    "error", [PeerRefused("relation manta does not exist"), JobFailed("a cause"), ValueError("bug")]
)
async def test_what_waiting_cannot_mend_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """At once, by its name."""

    async def breaks(_job: Job) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(flow, "run", breaks)
    async with open_rig(tmp_path, objects=3) as rig:
        view = await rig.reach(await rig.create(), "Failed")
    assert str(error) in view["error"]
    assert view["waiting"] == []


# --- threads -----------------------------------------------------------------------------------


async def test_slow_clones_and_names_do_not_hold_up_a_status(tmp_path: Path) -> None:
    """Every thread for them is taken; the store's and the views' are not."""
    async with open_rig(tmp_path, objects=3) as rig, trio.open_nursery() as nursery:
        job_id = await rig.create()
        await rig.reach(job_id, "Running")
        default = trio.to_thread.current_default_thread_limiter()
        taken = [threads.limiter(work) for work in Work if work not in (Work.STORE, Work.VIEWS)]
        for limiter in (*taken, default):  # as tasks that never come to their end
            for _ in range(int(limiter.total_tokens)):
                await limiter.acquire_on_behalf_of(object())
        with trio.fail_after(30):
            assert (await rig.get(job_id))["state"] == "Running"
            assert (await ask(rig, "GET", f"/jobs/{job_id}/summary"))[0] == 200
            assert (await ask(rig, "GET", f"/jobs/{job_id}/objects"))[0] == 200
            assert (await ask(rig, "GET", "/jobs"))[0] == 200
            assert (await control(rig, job_id, "pause"))[0] == 200
        nursery.cancel_scope.cancel()
    assert THREADS[Work.CLONES] >= 250  # what the configuration allows


def test_a_peer_error_may_pass_unless_it_is_an_answer() -> None:
    """So that a new kind of error is waited for, not final."""
    assert is_transient(PeerError("?"))


async def test_a_list_that_no_file_is_left_for_is_waited_for(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Once there is one, the job goes on behind what it had read."""
    world = make_world(tmp_path / "w", [record(number) for number in range(1, 7)])
    listed = [json.dumps({"key": f"/account/stor/{number}"}) for number in range(1, 5)]
    (tmp_path / "list").write_text("\n".join(listed))
    failing = [True]

    @attrs.frozen
    class Scarce(ObjectsFile):
        def page(self, part: str, after: int) -> tuple[int, list[Listed]]:
            if failing[0]:
                raise JobFailed("list: too many") from OSError(errno.EMFILE, "too many")
            return super().page(part, after)

    world.listing = Scarce(tmp_path / "list")
    async with world.job() as job, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, job)
        await trio.sleep(3600)
        (cause,) = job.waits.causes
        assert (cause.subject, cause.detail) == ("the list of objects", "list: too many")
        failing[0] = False
    assert len(world.agents.copied_whole) == 4
    world.close()
