"""What an action says of a job of its own, so that the sweep of crashes can run over it.

`tests/manager/actions/<name>/sweep.py` has it as `SWEEP`.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs

from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers.protocols import MorayShard


@attrs.frozen
class Turn:
    """What a job finds that is to crash once, and what must hold when it has ended after all."""

    resources: Resources
    moray: Mapping[int, MorayShard]
    #: Looks at the job's file and at the world; is given why the job failed, None if it did not.
    check: Callable[[JobStore, str | None], Awaitable[None]]


@attrs.frozen
class Sweep:
    """A job of the action, and a region for each turn of it."""

    #: The parameters of the request.
    given: Any
    opened: Callable[[Path], AbstractAsyncContextManager[Turn]]
    #: The number of crashes below which the sweep has not been where it should.
    least: int
    #: Whether time may jump, which it must not while real sockets are waited for.
    is_mocked: bool
