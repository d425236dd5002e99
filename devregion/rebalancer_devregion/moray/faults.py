"""Faults are troubles of a real shard that sqlite does not have, to be switched on by name.

Messages, names and contexts are those that a real server gave.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import trio

from rebalancer_devregion.moray.errors import MorayError, not_unique, query_timeout

#: A request waits for a database connection as long as this.
CLAIM_S = 5.0


def deadlock() -> MorayError:
    """Make the fault of two transactions that lock the same records in different orders."""
    return MorayError("error", "deadlock detected")


def backend_killed() -> MorayError:
    """Make the fault of a database connection that an administrator, or a takeover, ended."""
    return MorayError("error", "terminating connection due to administrator command")


def database_down() -> MorayError:
    """Make the fault of a database that went away under connections that seem good."""
    text = "Postgres client failed: Connection terminated unexpectedly"
    return MorayError("VError", text)


def connection_refused() -> MorayError:
    """Make the fault of a database that takes no connection."""
    return MorayError("Error", "connect ECONNREFUSED 127.0.0.1:5432")


def overloaded() -> MorayError:
    """Make the fault of a pool whose every connection is taken, and stays so."""
    return MorayError(
        "NoDatabasePeersError",
        "unable to acquire backend connection due to service being overloaded",
        {"name": "OverloadedError", "message": "maximum moray queue length reached"},
    )


def first_put_race(key: str) -> MorayError:
    """Make the fault of another client that put the same new record first."""
    return not_unique("_key", key)


@attrs.define
class _Plan:
    error: MorayError
    method: str | None
    after_rows: int | None
    times: int


@attrs.define(eq=False)
class Faults:
    """Faults say what goes wrong with the requests to come.

    Mutable state: the plans not used up, the records that somebody has locked, and the database
    connections in use if their number is limited.
    """

    _plans: list[_Plan] = attrs.field(factory=list)
    _locked: dict[tuple[str, str], trio.Event] = attrs.field(factory=dict)
    _pool: trio.Semaphore | None = None
    _claim_s: float = CLAIM_S

    def fail(
        self,
        error: MorayError,
        *,
        method: str | None = None,
        after_rows: int | None = None,
        times: int = 1,
    ) -> None:
        """Answer the next `times` requests, or those of `method`, with an error.

        Nothing is done for them, unless `after_rows`: then they run, so many of their rows go
        out, the rest is lost, and the error follows.
        """
        self._plans.append(_Plan(error, method, after_rows, times))

    def lock(self, bucket: str, key: str) -> None:
        """Hold a record, as another transaction does, until `release`."""
        self._locked[bucket, key] = trio.Event()

    def release(self, bucket: str, key: str) -> None:
        """Let go of a record."""
        self._locked.pop((bucket, key)).set()

    def limit_pool(self, connections: int, *, claim_s: float = CLAIM_S) -> None:
        """Have so many database connections from now on; a real server has 15 or 16.

        A request holds one from its start to its answer's last row.
        """
        self._pool, self._claim_s = trio.Semaphore(connections), claim_s

    def before(self, method: str) -> None:
        """Have the faults of a request that is about to run.

        Raises:
          MorayError: a planned one.
        """
        self._use(method, None)

    def after(self, method: str, rows: list[Any]) -> None:
        """Have the faults of a request that has made its rows.

        Raises:
          MorayError: a planned one, with the rows that go out before it.
        """
        self._use(method, rows)

    def _use(self, method: str, rows: list[Any] | None) -> None:
        for plan in self._plans:
            if plan.method in (None, method) and (plan.after_rows is None) == (rows is None):
                plan.times -= 1
                if not plan.times:
                    self._plans.remove(plan)
                sent = rows[: plan.after_rows] if rows is not None else ()
                raise plan.error.after(sent)

    async def claim(self) -> trio.Semaphore | None:
        """Take a database connection; the caller releases what is returned.

        Raises:
          MorayError: NoDatabasePeersError.
        """
        pool = self._pool
        if pool is not None:
            with trio.move_on_after(self._claim_s) as scope:
                await pool.acquire()
            if scope.cancelled_caught:
                raise overloaded()
        return pool

    async def unlocked(self, method: str, args: list[Any]) -> None:
        """Wait until nobody else holds a record that a request writes.

        Raises:
          MorayError: QueryTimeoutError, if the request bounds the wait.
        """
        for bucket, key in _written(method, args):
            if (held := self._locked.get((bucket, key))) is not None:
                await _wait(held, bucket, args[-1])


def _written(method: str, args: list[Any]) -> list[tuple[str, str]]:
    if method in ("putObject", "delObject"):
        return [(args[0], args[1])]
    if method == "batch":
        return [(one["bucket"], one["key"]) for one in args[0] if "key" in one]
    return []


async def _wait(held: trio.Event, bucket: str, options: Mapping[str, Any]) -> None:
    timeout_ms = options.get("timeout") or None
    with trio.move_on_after(float("inf") if timeout_ms is None else timeout_ms / 1000) as scope:
        await held.wait()
    if scope.cancelled_caught:
        request_id = options.get("req_id")
        raise query_timeout(
            f"SELECT *, '{request_id}' AS req_id FROM {bucket} WHERE _key=$1 FOR UPDATE"
        )
