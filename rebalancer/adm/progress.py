"""This module says how far a job is, in words and figures, going by its views.  Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from rebalancer import units
from rebalancer.actions import DECLARED, FALLBACK
from rebalancer.adm import exits
from rebalancer.adm.printing import printable
from rebalancer.domain.states import words_for_people
from rebalancer.domain.verdicts import NOTHING_LEFT, Word
from rebalancer.rates import Rates, eta_s


def subject(view: Mapping[str, Any]) -> str:
    """Return what a job is about: the node that it empties, or what else its action says."""
    config = view["config"]
    declared = DECLARED.get(str(config.get("action", "")).lower(), FALLBACK)
    return declared.subject(config)


def state_words(view: Mapping[str, Any]) -> str:
    """Return a job's state with what an operator has asked for."""
    return words_for_people(str(view["state"]), view.get("wish"))


def how_it_ended(job_id: str, view: Mapping[str, Any]) -> str:
    """Say what a job that goes no further has left to do, and what can be done; else nothing."""
    words, verdict = state_words(view), view.get("verdict")
    match words:
        case "complete" if verdict is not None:
            is_done = verdict["verdict"] in NOTHING_LEFT
            return "" if is_done else f"job {job_id} is complete, but {verdict['line']}"
        case "complete":  # another manager, or the file of the job is damaged
            return f"job {job_id}: {view['error']}" if view.get("error") else ""
        case "paused":
            return f"job {job_id} is paused: job resume lets it go on"
        case "cancelled":
            return f"job {job_id} was cancelled: job retry takes up what it left"
        case "failed":
            return f"job {job_id} failed: {view.get('error', 'no cause given')}"
    return f"job {job_id} is {words}"


def exit_code(view: Mapping[str, Any]) -> int:
    """Return the exit code that tells how a job that goes no further has ended."""
    word: Any = (view.get("verdict") or {}).get("verdict")
    if state_words(view) != "complete" or (word is None and view.get("error")):
        return exits.REFUSED
    return {Word.NOT_EMPTY: exits.NOT_EMPTY, Word.PARTIAL: exits.UNKNOWN}.get(word, exits.DONE)


def verdict_lines(view: Mapping[str, Any]) -> list[str]:
    """Return the verdict of an ended job, and a line for each command that acts on what is left."""
    if (verdict := view.get("verdict")) is None:
        return []
    causes = [
        f"  {one['cause']}: {one['advice']}" + (f": {one['command']}" if one["command"] else "")
        for one in verdict["causes"]
    ]
    return [printable(line) for line in (verdict["line"], *causes)]


def notes(view: Mapping[str, Any]) -> list[str]:
    """List what to know of a job besides its counts: its end, warnings, what remains."""
    lines = []
    if error := view.get("error"):
        lines.append(f"failed: {error}")
    lines += [f"warning: {one['check']}: {one['detail']}" for one in view.get("warnings", ())]
    lines += waits(view)
    if (rounds := view.get("rounds")) and (remaining := rounds[-1]["remaining"]):
        lines.append(f"{remaining:,} records still name the shark: job report lists them")
    return [*map(printable, lines), *verdict_lines(view)]


def waits(view: Mapping[str, Any]) -> list[str]:
    """List what a job waits for, a line each, with times as the manager tells them (UTC)."""
    return [
        f"waits for {one['for']}{_since(one)}: {one['detail']}" for one in view.get("waiting", ())
    ]


def _since(wait: Mapping[str, Any]) -> str:
    return "" if wait["since"] is None else f" since {wait['since']}"


def settled(view: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many objects have come to their end, and how many are known."""
    results = view["results"]
    done = results["Complete"] + results["Skipped"] + results["Error"]
    return done, results["Total"] - results["Duplicates"]


@attrs.frozen
class Glance:
    """A glance says how far a job is."""

    #: What the job is at.
    phase: str
    #: How much of the shards this phase has looked at, from 0 to 1; None where it does not scan.
    scanned: float | None
    done: int
    known: int
    objects_per_s: float
    bytes_per_s: float
    left_s: float | None

    @property
    def line(self) -> str:
        """Return all of it, on a line."""
        left = "unknown" if self.left_s is None else units.duration(self.left_s)
        scanned = "" if self.scanned is None else f": {self.scanned:.0%} scanned"
        return (
            f"{self.phase}{scanned}   {self.done:,}/{self.known:,} objects settled"
            f"   {self.objects_per_s:,.0f} objects/s   {units.size(self.bytes_per_s)}/s"
            f"   time left: {left}"
        )


def glance(view: Mapping[str, Any], summary: Mapping[str, Any] | None, seen: Rates) -> Glance:
    """Return how far a job is.

    Rates and the time that is left are the manager's own where it tells them, else what was
    `seen` of the job here.
    """
    done, known = settled(view)
    told = ((summary or {}).get("rates") or {}).get("minute")
    if summary is not None and told and told["objects_per_s"]:
        per_s, size_per_s, left_s = told["objects_per_s"], told["bytes_per_s"], summary["eta_s"]
    else:
        per_s, size_per_s = seen.per_s()
        # One that tells nothing of scans may still find more: then it is the least it can take.
        scans = view.get("scans")
        scanned = 1.0 if scans is None else _share(scans, 0)
        left_s = eta_s(settled=done, known=known, scanned=scanned, per_s=per_s)
    return Glance(*_phase(view), done, known, per_s, size_per_s, left_s)


def _phase(view: Mapping[str, Any]) -> tuple[str, float | None]:
    words, scans = state_words(view), view.get("scans")
    if words != "running" or not scans:
        return words, None
    # Only the last round moves.
    last = max(scan.get("round", 0) for scan in scans)
    share = _share(scans, last)
    if last:
        return f"final scan {last}", share
    return ("discovery", share) if share < 1 else ("all objects found", None)


def _share(scans: Sequence[Mapping[str, Any]], number: int) -> float:
    """Return how much of the shards has been looked at in a round, from 0 to 1."""
    its = [scan for scan in scans if scan.get("round", 0) == number]
    until = sum(scan["until"] for scan in its)
    return float(sum(scan["position"] for scan in its) / until) if until else 0.0
