"""Writing records of a shard, whatever it answers, on virtual time."""

import json
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.objects import Shark
from rebalancer.errors import PeerMalformed, PeerRefused, PeerUnreachable
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.pipeline.stages.update_batches import (
    CONFLICTS,
    MAX_BATCH_BYTES,
    MAX_BATCH_RECORDS,
    chunks,
)
from rebalancer.manager.pipeline.stages.update_records import RecordUpdater
from rebalancer.manager.store.records import WRITTEN, Update
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.errors import MorayError, read_error
from rebalancer_devregion.moray.errors import MorayError as ServerError
from rebalancer_devregion.moray.store import ShardStore
from tests.manager.world import ORIGIN, make_world, object_id, record
from tests.peers.fakes import StoredShard

DESTINATION = Shark("dc1", "9.stor.lab")
HOUR_S = 3600.0
Answer = Callable[[str, Sequence[str]], Awaitable[None]]
T = TypeVar("T")


async def willing(_method: str, _keys: Sequence[str]) -> None:
    await trio.sleep(0.01)


class Shard(StoredShard):
    """A shard that is interfered with.

    Mutable state: what was called on which keys; what is done before and after each call, which
    may raise.
    """

    def __init__(self, store: ShardStore) -> None:
        super().__init__(store)
        self.before: Answer = willing
        self.after: Answer = willing
        self.calls = list[str]()

    async def call(self, method: str, keys: Sequence[str], effect: Callable[[], T]) -> T:
        self.calls.append(f"{method} {' '.join(keys)}")
        await self.before(method, keys)
        try:
            result = effect()
        except ServerError as exc:
            raise read_error(exc.payload) from exc
        await self.after(method, keys)
        return result


@attrs.frozen
class Rig:
    shard: Shard
    updates: list[Update]
    update_limiter: UpdateLimiter
    updater: RecordUpdater

    async def run(self) -> list[str]:
        """The calls it took."""
        await self.updater.update(self.updates)
        return self.shard.calls

    def results(self) -> str:
        """One word an update."""
        return " ".join(self.result(update) for update in self.updates)

    def result(self, update: Update) -> str:
        found = update.result
        assert found is not None
        try:
            text = json.dumps(self.shard.store.get("manta", update.key))
        except ServerError:
            text = ""
        assert (found is WRITTEN) == (DESTINATION.manta_storage_id in text)
        return "written" if found is WRITTEN else str(found.reason)

    def change(self, key: str, **fields: Any) -> None:
        """What a user does meanwhile."""
        value = self.shard.store.get("manta", key)["value"]
        self.shard.store.put("manta", key, {**value, **fields})


@attrs.define
class Rigs:
    """Makes them, with so many records called a, b, c."""

    folder: Path
    made: list[ShardStore] = attrs.field(factory=list)

    def __call__(self, count: int, *, batched: bool = True) -> Rig:
        store = ShardStore(self.folder / f"{len(self.made)}.sqlite")
        self.made.append(store)
        updates = []
        for number in range(count):
            key = chr(ord("a") + number)
            value = record(number + 1, key=key)
            etag = store.put("manta", key, value)
            updates.append(stored(number, key, etag, json.dumps(value)))
        shard = Shard(store)
        update_limiter = UpdateLimiter(32, HOUR_S)
        updater = RecordUpdater(1, shard, Evacuate(ORIGIN), update_limiter, batched)
        return Rig(shard, updates, update_limiter, updater)


def anew(update: Update) -> Update:
    """The update of the same record, not begun."""
    return attrs.evolve(
        update, is_stale=False, was_read=False, value=None, conflicts=0, result=None
    )


def stored(number: int, key: str, etag: str, text: str) -> Update:
    return Update(number, object_id(number + 1), key, 1, etag, text, DESTINATION)


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Rigs]:
    made = Rigs(tmp_path)
    yield made
    for store in made.made:
        store.close()


def server_error(name: str, message: str = "m") -> MorayError:
    return read_error({"name": name, "message": message})


def at(calls: set[int], error: Exception) -> Answer:
    """Raise `error` at these calls, counted from 1."""
    count = 0

    async def answer(_method: str, _keys: Sequence[str]) -> None:
        nonlocal count
        count += 1
        await trio.lowlevel.checkpoint()
        if count in calls:
            raise error

    return answer


def always(error: Exception, *, key: str = "") -> Answer:
    """Raise `error`, if the key is among those concerned."""

    async def answer(_method: str, keys: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        if not key or key in keys:
            raise error

    return answer


# --- batches ---------------------------------------------------------------------------------


@pytest.mark.row("N30")
async def test_a_batch_that_goes_well_is_one_call(rigs: Rigs, autojump_clock: object) -> None:
    """Nothing is read, nothing written twice."""
    rig = rigs(4)
    assert await rig.run() == ["batch a b c d"]
    assert rig.results() == "written written written written"


async def test_without_batches_each_record_is_a_put(rigs: Rigs, autojump_clock: object) -> None:
    """As configured."""
    rig = rigs(3, batched=False)
    assert await rig.run() == ["put a", "put b", "put c"]
    assert rig.results() == "written written written"


@pytest.mark.row("CRIT-2")
async def test_the_rest_of_a_batch_with_a_conflict_stays_a_batch(
    rigs: Rigs, autojump_clock: object
) -> None:
    """The record that a user changed is read, merged and written by itself."""
    rig = rigs(5)
    rig.change("c", colour="blue")
    assert await rig.run() == ["batch a b c d e", "batch a b d e", "get c", "put c"]
    assert rig.results() == "written written written written written"
    assert rig.shard.store.get("manta", "c")["value"]["colour"] == "blue"


async def test_records_that_grew_are_not_one_message_again(
    rigs: Rigs, autojump_clock: object
) -> None:
    """What is read anew can be longer than what was discovered, and a batch has its bound."""
    rig = rigs(5)
    for key in "abcde":
        rig.change(key, note="x" * (MAX_BATCH_BYTES // 3))
    calls = await rig.run()
    assert [call for call in calls if call.startswith("batch")] == [
        "batch a b c d e",
        "batch b c d e",
        "batch c d",
    ]
    assert rig.results() == "written written written written written"


async def test_after_a_second_conflict_all_are_read(rigs: Rigs, autojump_clock: object) -> None:
    """A server tells one stale record a batch: twenty of forty would take twenty batches."""
    rig = rigs(24)
    for update in rig.updates[::2]:
        rig.change(update.key, colour="blue")
    calls = await rig.run()
    assert sum(call.startswith("batch") for call in calls) == 3
    assert sum(call.startswith("get") for call in calls) == 24
    assert sum(call.startswith("put") for call in calls) == 2
    assert rig.results() == " ".join(["written"] * 24)


@pytest.mark.row("CRIT-2")
async def test_deleted_and_overwritten_records_leave_the_batch(
    rigs: Rigs, autojump_clock: object
) -> None:
    """Neither is made anew nor written over; the others move."""
    rig = rigs(5)
    rig.shard.store.delete("manta", "b")
    rig.change("d", objectId=object_id(99))
    await rig.run()
    assert rig.results() == "written deleted written overwritten written"
    assert rig.shard.store.get("manta", "d")["value"]["objectId"] == object_id(99)


@pytest.mark.row("L7")
async def test_what_somebody_else_moved_is_not_touched(rigs: Rigs, autojump_clock: object) -> None:
    """To our destination: complete.  Elsewhere: told."""
    rig = rigs(3)
    rig.change("a", sharks=[attrs.asdict(DESTINATION)])
    rig.change("b", sharks=[attrs.asdict(Shark("dc1", "8.stor.lab"))])
    calls = await rig.run()
    assert rig.results() == "written moved_elsewhere written"
    assert not [call for call in calls if call in ("put a", "put b")]


@pytest.mark.row("CRIT-2", "DEF-1")
async def test_a_record_that_became_unusable_is_told(rigs: Rigs, autojump_clock: object) -> None:
    """Each with its own reason; the others are written."""
    rig = rigs(4)
    rig.change("a", sharks={})
    rig.change("c", sharks=[attrs.asdict(ORIGIN), attrs.asdict(ORIGIN)])
    await rig.run()
    assert rig.results() == "missing_sharks written duplicate_shark written"


@pytest.mark.row("CRIT-2")
@pytest.mark.parametrize("name", ["UniqueAttributeError", "ObjectNotFoundError"])
async def test_a_conflict_that_names_no_key_is_found_by_reading(
    name: str, rigs: Rigs, autojump_clock: object
) -> None:
    """All are read, what can be is written as a batch."""
    rig = rigs(3)
    rig.shard.store.delete("manta", "b")
    rig.shard.before = at({1}, server_error(name))
    calls = await rig.run()
    assert [calls[0], *sorted(calls[1:4]), calls[4]] == [
        "batch a b c",
        "get a",
        "get b",
        "get c",
        "batch a c",
    ]
    assert rig.results() == "written deleted written"


async def test_a_conflict_that_reading_does_not_explain_is_narrowed_down(
    rigs: Rigs, autojump_clock: object
) -> None:
    """The one record is found by halves, tried a bounded number of times, and told."""
    rig = rigs(4)
    rig.shard.before = writes_only(always(server_error("UniqueAttributeError"), key="c"))
    await rig.run()
    assert rig.results() == "written written metadata_update_failed written"
    assert rig.shard.calls.count("put c") == CONFLICTS


def writes_only(answer: Answer) -> Answer:
    async def chosen(method: str, keys: Sequence[str]) -> None:
        if method != "get":
            await answer(method, keys)
        await trio.lowlevel.checkpoint()

    return chosen


async def test_a_record_that_a_server_will_not_take_fails_alone(
    rigs: Rigs, autojump_clock: object
) -> None:
    """Found by halves; the others are written, and it is not tried again."""
    rig = rigs(8)
    rig.shard.before = always(server_error("InvalidIndexTypeError"), key="f")
    assert await rig.run() == [
        "batch a b c d e f g h",
        "batch a b c d",
        "batch e f g h",
        "batch e f",
        "put e",
        "put f",
        "batch g h",
    ]
    assert rig.results() == "written " * 5 + "metadata_update_failed written written"


async def test_what_cannot_be_sent_fails_alone(rigs: Rigs, autojump_clock: object) -> None:
    """Nothing is known to be wrong with the server then."""
    rig = rigs(2)
    rig.shard.before = always(PeerRefused("putObject: cannot be sent"), key="a")
    await rig.run()
    assert rig.results() == "metadata_update_failed written"


async def test_a_record_that_others_change_without_end_is_left_alone(
    rigs: Rigs, autojump_clock: object
) -> None:
    """Theirs is the last word; the rest is written."""
    rig = rigs(3)
    colours = iter(range(1000))

    async def paint(method: str, keys: Sequence[str]) -> None:
        await trio.sleep(0.01)
        if method != "get" and "b" in keys:
            rig.change("b", colour=next(colours))

    rig.shard.before = paint
    await rig.run()
    assert rig.results() == "written metadata_update_failed written"
    assert rig.shard.calls.count("put b") == CONFLICTS - 1


async def test_a_deadlock_is_met_with_the_same_batch(rigs: Rigs, autojump_clock: object) -> None:
    """After a pause; nobody is to blame, so nothing is taken apart."""
    rig = rigs(3)
    rig.shard.before = at({1, 2}, server_error("error", "deadlock detected"))
    assert await rig.run() == ["batch a b c"] * 3
    assert trio.current_time() >= 0.1 + 0.2
    assert rig.results() == "written written written"


# --- results that are unknown ----------------------------------------------------------------


@pytest.mark.row("DEF-12", "L17")
@pytest.mark.parametrize("error", [PeerUnreachable("lost"), PeerMalformed("batch: odd")])
async def test_an_answer_that_was_lost_is_replaced_by_reading(
    error: Exception, rigs: Rigs, autojump_clock: object
) -> None:
    """The batch was written: each record says so, and none is written again."""
    rig = rigs(3)
    rig.shard.after = at({1}, error)
    calls = await rig.run()
    assert (calls[0], sorted(calls[1:])) == ("batch a b c", ["get a", "get b", "get c"])
    assert rig.results() == "written written written"


@pytest.mark.row("CRIT-2", "DEF-12")
async def test_a_request_that_was_lost_is_sent_again(rigs: Rigs, autojump_clock: object) -> None:
    """The batch was not written: each record says so, and it is sent with their etags."""
    rig = rigs(3)
    rig.shard.before = at({1}, PeerUnreachable("lost"))
    rig.change("a", colour="blue")
    calls = await rig.run()
    assert [calls[0], sorted(calls[1:4]), *calls[4:]] == [
        "batch a b c",
        ["get a", "get b", "get c"],
        "batch a b c",
    ]
    assert rig.results() == "written written written"


async def test_reading_is_tried_again_too(rigs: Rigs, autojump_clock: object) -> None:
    """A shard that fails while records are read: only those not read yet are read again."""
    rig = rigs(6)
    rig.shard.before = at({1, 4, 5, 6, 7}, PeerUnreachable("lost"))
    calls = await rig.run()
    assert calls[-1] == "batch a b c d e f"
    assert rig.results() == " ".join(["written"] * 6)


# --- how long --------------------------------------------------------------------------------

OVERLOADED = server_error("NoDatabasePeersError")


def until(when_s: float, error: Exception) -> Answer:
    async def answer(_method: str, _keys: Sequence[str]) -> None:
        await trio.sleep(0.01)
        if trio.current_time() < when_s:
            raise error

    return answer


@pytest.mark.parametrize(
    "error",
    [
        PeerUnreachable("refused"),
        OVERLOADED,
        server_error("VError", "Postgres client failed: x"),
        server_error("Error", "connect ECONNREFUSED"),
    ],
)
async def test_a_shard_that_is_away_for_long_costs_no_object(
    error: Exception, rigs: Rigs, autojump_clock: object
) -> None:
    """Not in fifty minutes; and it is not asked more often than every five seconds in the end."""
    rig = rigs(3)
    begun = trio.current_time()
    rig.shard.before = until(begun + 3000, error)
    calls = await rig.run()
    assert rig.results() == "written written written"
    assert len(calls) < 3000 / 5 + 3 + 10


async def test_a_shard_that_is_away_for_too_long_is_given_up(
    rigs: Rigs, autojump_clock: object
) -> None:
    """After the bound; what waits for it afterwards has one try each, not another bound."""
    rig, begun = rigs(3), trio.current_time()
    rig.shard.before = always(PeerUnreachable("refused"))
    await rig.run()
    waited = trio.current_time() - begun
    assert rig.results() == " ".join(["metadata_update_failed"] * 3)
    assert HOUR_S <= waited <= HOUR_S + 11
    assert {update.result.detail for update in rig.updates if update.result} == {
        "refused; whether it was written is unknown"
    }

    again = [anew(update) for update in rig.updates]
    await rig.updater.update(again)
    assert trio.current_time() - begun == waited
    rig.shard.before = willing
    again = [anew(update) for update in rig.updates]
    await rig.updater.update(again)
    assert all(update.result is WRITTEN for update in again)


async def test_a_shard_that_refuses_is_there(rigs: Rigs, autojump_clock: object) -> None:
    """It failed once, then refused what it was asked: hours later it has its whole time again."""
    rig = rigs(2, batched=False)
    refused = server_error("InvocationError")
    rig.shard.before = at({1, 4}, PeerUnreachable("lost"))

    async def refuse(method: str, keys: Sequence[str]) -> None:
        await trio.sleep(0.01)
        if method == "put":
            raise refused

    rig.shard.after = refuse
    await rig.updater.update(rig.updates[:1])
    rig.shard.after = willing
    await trio.sleep(2 * HOUR_S)
    await rig.updater.update(rig.updates[1:])
    assert rig.updates[1].result is WRITTEN


async def test_a_record_that_only_waits_is_given_up_alone(
    rigs: Rigs, autojump_clock: object
) -> None:
    """Its row is locked for ever; that the shard does all else does not prolong its time."""
    locked, others = rigs(1), rigs(1)
    updater = attrs.evolve(others.updater, update_limiter=locked.update_limiter)
    locked.shard.before = always(server_error("QueryTimeoutError"))

    async def go_on() -> None:
        while True:
            await updater.update([anew(others.updates[0])])
            await trio.sleep(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        await locked.run()
        nursery.cancel_scope.cancel()
    assert locked.results() == "metadata_update_failed"
    assert HOUR_S <= trio.current_time() <= HOUR_S + 100


@pytest.mark.row("CRIT-2")
async def test_no_object_of_a_job_is_lost_to_an_overload(
    tmp_path: Path, autojump_clock: object
) -> None:
    """A whole job, one of whose shards is overloaded and the other down for half an hour."""
    world = make_world(tmp_path / "world", [record(number) for number in range(1, 31)])

    def refuse(name: str) -> None:
        if trio.current_time() - begun < 1800:
            raise OVERLOADED if name.startswith("1") else PeerUnreachable("refused")

    world.before_write = refuse
    begun = trio.current_time()
    assert await world.run() == {("complete", ""): 30}
    assert trio.current_time() - begun > 1800
    world.close()


@pytest.mark.row("N3")
async def test_a_job_ends_though_a_shard_stays_away(tmp_path: Path, autojump_clock: object) -> None:
    """Its objects are told as failed after one bound, not after one for every assignment."""
    world = make_world(tmp_path / "world", [record(number) for number in range(1, 61)])
    world.options = attrs.evolve(world.options, max_metadata_update_threads=1)

    def refuse(name: str) -> None:
        if name.startswith("1"):
            raise PeerUnreachable("refused")

    world.before_write = refuse
    begun = trio.current_time()
    found = await world.run()
    assert found == {("complete", ""): 30, ("error", "metadata_update_failed"): 30}
    assert trio.current_time() - begun < 1.5 * HOUR_S
    world.close()


# --- the pace --------------------------------------------------------------------------------


async def test_an_overloaded_shard_is_given_less_to_do(rigs: Rigs, autojump_clock: object) -> None:
    """A shard that can do four updates at a time: no more than some work, though 32 are allowed;
    when it can do all, they do.
    """
    rig = rigs(1)
    update_limiter, at_once, capacity, peaks = rig.update_limiter, 0, 4, list[int]()

    async def work(_method: str, _keys: Sequence[str]) -> None:
        nonlocal at_once
        at_once += 1
        peaks.append(at_once)
        try:
            too_many = at_once > capacity
            await trio.sleep(0.1)
            if too_many:
                raise OVERLOADED
        finally:
            at_once -= 1

    rig.shard.before = work

    async def one(number: int) -> None:
        try:
            value = record(number, key=f"k{number}")
            etag = rig.shard.store.put("manta", value["key"], value)
            update = stored(number - 1, value["key"], etag, json.dumps(value))
            await rig.updater.update([update])
            assert update.result is WRITTEN
        finally:
            update_limiter.release(number)

    async def run(numbers: range) -> None:
        async with trio.open_nursery() as nursery:
            for number in numbers:
                await update_limiter.acquire(number)
                nursery.start_soon(one, number)

    await run(range(1000, 1200))
    assert max(peaks) == 32
    assert max(peaks[-100:]) <= 8
    assert update_limiter.in_force <= 8
    capacity = 1000
    await run(range(2000, 3000))
    assert update_limiter.in_force == update_limiter.limit == 32


@pytest.mark.row("IMP-13", "MIN-7", "DEF-8", "L14", "N16")
async def test_the_operators_number_is_in_force_at_once(autojump_clock: object) -> None:
    """Up: who waits begins.  Down: nobody begins until enough have ended.  Overload or not."""
    update_limiter = UpdateLimiter(2, HOUR_S)
    running: set[int] = set()

    async def work(number: int, end: trio.Event) -> None:
        await update_limiter.acquire(number)
        running.add(number)
        await end.wait()
        running.discard(number)
        update_limiter.release(number)

    ends = [trio.Event() for _ in range(8)]
    async with trio.open_nursery() as nursery:
        for number, end in enumerate(ends):
            nursery.start_soon(work, number, end)
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == 2
        update_limiter.resize(5)
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == 5
        update_limiter.overloaded(trio.current_time())
        assert (update_limiter.limit, update_limiter.in_force) == (5, 2)
        update_limiter.resize(6)
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == 6
        update_limiter.resize(1)
        for number in sorted(running)[:5]:
            ends[number].set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == 1
        for end in ends:
            end.set()
    assert (update_limiter.limit, update_limiter.in_force) == (1, 1)


# --- what is written -------------------------------------------------------------------------


@given(st.lists(st.integers(1, 400_000), max_size=250), st.integers())
def test_batches_are_bounded_and_in_order_of_keys(sizes: list[int], seed: int) -> None:
    """By records and by bytes, unless one record alone is larger; none is lost."""
    texts = {f"/{number}": "é" * (size // 2) for number, size in enumerate(sizes)}
    records = [Update(0, k, k, 1, "", text, DESTINATION) for k, text in texts.items()]
    random.Random(seed).shuffle(records)
    cut = list(chunks(records))

    assert [one.key for chunk in cut for one in chunk] == sorted(texts)
    for chunk in cut:
        size = sum(len(one.text.encode()) for one in chunk)
        assert len(chunk) <= MAX_BATCH_RECORDS
        assert size <= MAX_BATCH_BYTES or len(chunk) == 1


def stringify(value: Any) -> str:
    """JSON.stringify, of numbers that JavaScript can hold."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case int() | float():
            return number_text(float(value))
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{','.join(stringify(item) for item in value)}]"
        case dict():
            items = (f"{stringify(name)}:{stringify(item)}" for name, item in value.items())
            return "{" + ",".join(items) + "}"
    raise TypeError(value)


def number_text(value: float) -> str:
    """As ECMAScript's Number::toString: whole numbers below 1e21 without an exponent, small ones
    from 1e-6 on as well, and exponents without leading zeros.
    """
    if value == 0:
        return "0"
    sign, magnitude = ("-", -value) if value < 0 else ("", value)
    mantissa, _, exponent_text = f"{magnitude!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0") if fraction != "0" else ""
    exponent = int(exponent_text or 0)
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + exponent - (len(whole + fraction) - len(digits) if whole == "0" else 0)
    digits = digits.rstrip("0") or "0"
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = f"{'+' if point > 0 else '-'}{abs(point - 1)}"
    rest = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{rest}e{power}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e-7, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (0.000001, "0.000001"),
        (123456.789, "123456.789"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (2.0**53, "9007199254740992"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (-12.5, "-12.5"),
    ],
)
def test_numbers_as_javascript_writes_them(value: float, text: str) -> None:
    """The examples of the language's standard, for the helper above."""
    assert number_text(value) == text
    assert json.loads(text, parse_int=float) == value


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)
JSON = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(TEXT.filter(lambda name: name != "sharks"), JSON, max_size=6), st.data())
def test_every_other_byte_of_a_record_comes_back(fields: dict[str, Any], data: Any) -> None:
    """From the text that JavaScript once wrote, over the wire, to the text that it writes: only
    the one entry of `sharks` is another, whatever numbers and names there are, and in what order.
    """
    other = {"manta_storage_id": "2.stor.lab", "datacenter": "dc2"}
    ours = {"extra": data.draw(JSON), "datacenter": "dc1", "manta_storage_id": "1.stor.lab"}
    names = list(fields)
    names.insert(data.draw(st.integers(0, len(names))), "sharks")
    before = {n: [other, ours] if n == "sharks" else fields[n] for n in names}
    moved = {**ours, "datacenter": "dc1", "manta_storage_id": "9.stor.lab"}
    after = {n: [other, moved] if n == "sharks" else fields[n] for n in names}

    text = stringify(before)
    value = Evacuate(ORIGIN).rewrite(json.loads(text), DESTINATION)
    sent = fast.encode(fast.Message(1, fast.Status.DATA, "putObject", ["manta", "/k", value, {}]))
    (message,) = fast.Decoder().feed(sent)

    # Parsed as JavaScript does: every number is a double.
    payload = json.loads(sent[15:], parse_int=float)
    assert stringify(payload["d"][2]) == stringify(after)
    assert message.data[2] == value
