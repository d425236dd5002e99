"""This module enforces what an operator may change meanwhile: bandwidth, and tasks at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from rebalancer.agent.transfer.bandwidth import Bucket, receive_at_once
from rebalancer.agent.transfer.handle import FetcherHandle
from rebalancer.agent.transfer.messages import Limit
from rebalancer.config import AgentServer, AgentSource
from rebalancer.errors import BadRequest

MAX_WIDTH = 256


@attrs.frozen
class LimitValues:
    """The limits of bytes a second of all transfers (None: no limit), and of tasks at a time."""

    bandwidth_bytes_per_s: int | None
    workers_per_assignment: int

    def changed(self, body: Any) -> "LimitValues":
        """Return these limits with what the body of PUT /limits names; the rest stays.

        Raises:
          BadRequest: says which field cannot be used.
        """
        names = [field.name for field in attrs.fields(LimitValues)]
        if not isinstance(body, Mapping) or not body or not set(body) <= set(names):
            raise BadRequest(f"expected an object with one or more of {', '.join(names)}")
        for name, value in body.items():
            most = MAX_WIDTH if name == "workers_per_assignment" else None
            is_none = value is None and most is None
            if not is_none and (type(value) is not int or not 1 <= value <= (most or value)):
                or_null = "" if most else ", or null for no limit"
                limits = f"from 1 to {most}" if most else "of 1 or more"
                raise BadRequest(f"{name}: expected a whole number {limits}{or_null}")
        return attrs.evolve(self, **body)


@attrs.define(eq=False)
class Limits:
    """This object has the limits in force, and enforces them.

    Mutable state: the limits; the bucket of bytes; an event for each want and each change.
    """

    fetchers: Sequence[FetcherHandle]
    values: LimitValues
    configured: LimitValues = attrs.field(
        default=attrs.Factory(lambda self: self.values, takes_self=True)
    )
    _bucket: Bucket = attrs.field(init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        """Begin with the configured limits."""
        self._bucket = Bucket(self.values.bandwidth_bytes_per_s)
        for fetcher in self.fetchers:
            fetcher.limit, fetcher.on_want = self._limit, self._wake

    @property
    def _limit(self) -> Limit:
        rate = self.values.bandwidth_bytes_per_s
        return Limit(rate is not None, receive_at_once(rate))

    def width(self) -> int:
        """Return how many tasks of an assignment are worked on at a time."""
        return self.values.workers_per_assignment

    async def change(self, values: LimitValues) -> None:
        """Put other limits in force, also for what is under way."""
        old, self.values = self.values, values
        if values.bandwidth_bytes_per_s != old.bandwidth_bytes_per_s:
            self._bucket.limit(values.bandwidth_bytes_per_s, trio.current_time())
            for fetcher in self.fetchers:
                await fetcher.change_limit(self._limit)
        for fetcher in self.fetchers:
            await fetcher.widen(values.workers_per_assignment)
        self._wake()

    async def run(self) -> None:
        """Grant fetchers what they want, in turn, for ever."""
        while True:
            pause = await self._grant()
            with trio.move_on_after(pause):
                await self._changed.wait()
            self._changed = trio.Event()

    async def _grant(self) -> float:
        """Grant what can be granted; return the seconds until there is more."""
        wanting = sorted((f for f in self.fetchers if f.wanted), key=lambda f: f.wanted_at)
        for fetcher in wanting:
            wanted, now = fetcher.wanted, trio.current_time()
            if not self._bucket.take(wanted, now):
                return self._bucket.wait_s(wanted, now)
            await fetcher.grant(wanted)
        return float("inf")

    def _wake(self) -> None:
        self._changed.set()


def configured(server: AgentServer, source: AgentSource) -> LimitValues:
    """Return the limits of a configuration, where no limit of bandwidth is 0."""
    return LimitValues(source.bandwidth_bytes_per_s or None, server.workers_per_assignment)
