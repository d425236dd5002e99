"""This module asks storage nodes for copies of objects: the size of each, and the MD5 of some.

A storage node's web server is asked as agents ask their sources: `/<account>/<object id>` at the
configured port.  A node that does not answer is waited for, visibly, and for a bounded time.
"""

import hashlib
from collections import defaultdict
from contextlib import aclosing

import attrs
import trio

from rebalancer.domain.pace import Patience
from rebalancer.errors import PeerUnreachable
from rebalancer.manager.actions.verify.copies import (
    Copy,
    Fault,
    judge_head,
    judge_md5,
    judge_size,
    unreachable,
    unreadable,
)
from rebalancer.manager.actions.verify.rate import ByteRate
from rebalancer.peers.http import HttpClient
from rebalancer.retry import pauses
from rebalancer.waits import Waits

#: Seconds within which a HEAD must be answered; a body may take as long as bytes keep coming.
HEAD_S = 30.0
#: How often a copy is asked for whose node answers with a 5xx status, or breaks off the body.
TRIES = 4
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
#: A node that was waited for in vain is asked again so many seconds after it was last asked.  Until
#: then its copies are given up without asking, because each HEAD may take half a minute.
PROBE_S = 60.0


class _Failed(Exception):
    """A storage node gave no usable answer about a copy.

    `is_away` tells whether the node does not answer at all, so that it is waited for.
    """

    def __init__(self, detail: str, *, is_away: bool) -> None:
        super().__init__(detail)
        self.is_away = is_away


@attrs.define
class _Node:
    """A storage node.  Mutable state: since when it does not answer, and when it was last asked."""

    patience: Patience
    tried_at: float = float("-inf")
    last_failure: str = ""

    def is_given_up(self, now: float) -> bool:
        """Tell whether the node was waited for in vain, and is not to be asked again yet."""
        return self.patience.is_over(now) and now - self.tried_at < PROBE_S


@attrs.define(eq=False)
class Reader:
    """A reader compares copies with their records; the copies of one node share its patience.

    `patience_s` is how many seconds a node is waited for.  Mutable state: the nodes, by name; how
    many tasks wait for each; and the byte rate.
    """

    http: HttpClient
    port: int
    patience_s: float
    rate: ByteRate
    waits: Waits
    _nodes: dict[str, _Node] = attrs.field(factory=dict)
    _waiting: defaultdict[str, int] = attrs.field(factory=lambda: defaultdict(int))

    async def check(self, copy: Copy, *, is_sampled: bool) -> Fault | None:
        """Return what is wrong with a copy; its bytes are read and hashed if it `is_sampled`."""
        node = self._nodes.get(copy.shark)
        if node is None:
            node = self._nodes[copy.shark] = _Node(Patience(self.patience_s))
        copy_patience, tries = Patience(self.patience_s), 0
        pause = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            if node.is_given_up(trio.current_time()):
                return unreachable(copy, node.last_failure)
            try:
                node.tried_at = trio.current_time()
                fault = await self._ask(copy, is_sampled)
            except _Failed as exc:
                now = trio.current_time()
                if exc.is_away:
                    node.last_failure = str(exc)
                    node.patience.on_failure(now)
                    copy_patience.on_failure(now)
                    if node.patience.is_over(now) or copy_patience.is_over(now):
                        return unreachable(copy, str(exc))
                else:
                    node.patience.on_success()
                    if (tries := tries + 1) >= TRIES:
                        return unreadable(copy, str(exc))
                await self._rest(copy.shark, next(pause), str(exc))
            else:
                node.patience.on_success()
                return fault

    async def _rest(self, shark: str, pause_s: float, why: str) -> None:
        """Sleep before a node is asked once more; operators see the wait while any task sleeps."""
        subject = f"storage node {shark}"
        self._waiting[subject] += 1
        self.waits.begin(subject, why)
        try:
            await trio.sleep(pause_s)
        finally:
            self._waiting[subject] -= 1
            if not self._waiting[subject]:
                self.waits.end(subject)

    async def _ask(self, copy: Copy, is_sampled: bool) -> Fault | None:
        """Ask the node for a copy once, and return the fault of the copy.

        Raises:
          _Failed: the node gave no usable answer.
        """
        try:
            reply = await self.http.request(
                "HEAD", copy.shark, copy.path, port=self.port, within_s=HEAD_S
            )
        except PeerUnreachable as exc:
            raise _Failed(_why(exc, copy), is_away=True) from exc
        _check_status(reply.status)
        fault = judge_head(copy, reply.status, reply.headers)
        return fault if fault is not None or not is_sampled else await self._read(copy)

    async def _read(self, copy: Copy) -> Fault | None:
        """Read and hash the bytes of a copy, and return its fault.

        Raises:
          _Failed: the bytes do not come whole.
        """
        digest, size = hashlib.md5(usedforsecurity=False), 0
        try:
            async with self.http.stream("GET", copy.shark, copy.path, port=self.port) as answer:
                _check_status(answer.status)
                if (fault := judge_head(copy, answer.status, answer.headers)) is not None:
                    return fault
                async with aclosing(answer.pieces()) as pieces:
                    async for piece in pieces:
                        digest.update(piece)
                        size += len(piece)
                        await trio.sleep(self.rate.spend(len(piece), trio.current_time()))
        except PeerUnreachable as exc:
            raise _Failed(_why(exc, copy), is_away=not exc.was_sent) from exc
        return judge_size(copy, size) or judge_md5(copy, digest.digest())


def _why(exc: PeerUnreachable, copy: Copy) -> str:
    """Return why a node did not answer, without the path: other copies there get the same text."""
    return str(exc).rpartition(f"{copy.path}: ")[2]


def _check_status(status: int) -> None:
    """Check that a status is an answer about the copy.

    Raises:
      _Failed: the node says that it cannot answer now.
    """
    if status >= 500:
        raise _Failed(f"status {status}", is_away=False)
