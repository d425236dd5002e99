"""This module judges how the peers answer that a configuration names.  Pure."""

from collections.abc import Iterator, Sequence

import attrs

from rebalancer.doctor.findings import Finding, ok, skipped, warning
from rebalancer.doctor.judge.system import SKEW_S, apart

#: Peers that a finding names one by one; of more it gives the number.
NAMED = 3


@attrs.frozen
class Answer:
    """A peer's answer: after how many seconds it came, or why there is none."""

    peer: str
    took_s: float | None
    trouble: str = ""
    #: How far the peer's clock is ahead of this machine's, if it has said what time it is.
    ahead_s: float | None = None


def peers(seen: Sequence[Answer], kind: str, do: str) -> Iterator[Finding]:
    """Judge the answers of peers of one kind; a peer that is away now may come back."""
    if not seen:
        yield skipped(f"no {kind} is configured")
        return
    bad = [one for one in seen if one.took_s is None]
    for one in bad[:NAMED]:
        yield warning(f"{one.peer}: {one.trouble}", "an answer; the program waits for it", do)
    if len(bad) > NAMED:
        others = ", ".join(one.peer for one in bad[NAMED : 3 * NAMED])
        more = ", ..." if len(bad) > 3 * NAMED else ""
        yield warning(
            f"{len(bad) - NAMED} more of {len(seen)} do not answer: {others}{more}",
            "answers of all",
            do,
        )
    times = [one.took_s for one in seen if one.took_s is not None]
    if times:
        slowest = max(times) * 1000
        who = seen[0].peer if len(seen) == 1 else f"{len(times)} of {len(seen)}"
        yield ok(f"{who} answered, within {slowest:.0f} ms")
    yield from _clocks(seen)


def _clocks(seen: Sequence[Answer]) -> Iterator[Finding]:
    """Judge how far peers' clocks are from this machine's, less the time that an answer took."""
    known = [(one, one.ahead_s) for one in seen if one.ahead_s is not None]
    wrong = [(one, ahead) for one, ahead in known if abs(ahead) - (one.took_s or 0.0) > SKEW_S]
    for one, ahead in wrong[:NAMED]:
        more = f"; so are {len(wrong) - 1} more" if len(wrong) > NAMED else ""
        yield warning(
            f"the clock of {one.peer} is {apart(ahead)} this machine's{more}",
            f"{SKEW_S:g} s at most: the age of a heartbeat is the difference of both",
            "start NTP on both; date -u shows which is right",
        )
    if known and not wrong:
        clocks = "1 clock there agrees" if len(known) == 1 else f"{len(known)} clocks there agree"
        yield ok(f"{clocks} with this machine's")
