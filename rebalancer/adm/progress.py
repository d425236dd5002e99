"""This module says how far a job is, in words and figures, going by its views.  Pure."""

import datetime
from collections.abc import Iterable, Mapping

import attrs

from rebalancer import units
from rebalancer.actions import DECLARED, FALLBACK
from rebalancer.adm import exits
from rebalancer.adm.printing import printable
from rebalancer.api.jobs import (
    Finding,
    JobListed,
    JobShown,
    Results,
    Summary,
    TierCounts,
    VerdictCause,
    Wait,
)
from rebalancer.domain.states import GOING, JobState, Words, job_state, words_for_people
from rebalancer.domain.tiers import Tier
from rebalancer.domain.verdicts import NOTHING_LEFT, Word
from rebalancer.progress import phase, scanned_share, seconds_between, settled
from rebalancer.rates import Rates, eta_s

#: The exit codes of the verdicts of complete jobs that leave something to do.
_CODES: Mapping[str, int] = {Word.NOT_EMPTY: exits.NOT_EMPTY, Word.PARTIAL: exits.UNKNOWN}


def subject(view: JobShown) -> str:
    """Return what a job is about: the node that it empties, or what else its action says."""
    declared = DECLARED.get(str(view.config.get("action", "")).lower(), FALLBACK)
    return declared.subject(view.config)


def state_words(view: JobShown) -> str:
    """Return a job's state with what an operator has asked for."""
    return words_for_people(view.state, view.wish)


def how_it_ended(job_id: str, view: JobShown) -> str:
    """Say what a job that goes no further has left to do, and what can be done; else nothing."""
    words, verdict = state_words(view), view.verdict
    match words:
        case "complete" if verdict is not None:
            # The verdict itself, with its counts, is printed before.
            word, is_done = verdict.verdict.replace("_", " "), verdict.verdict in NOTHING_LEFT
            return "" if is_done else f"job {job_id} is complete, but {word}"
        case "complete":  # another manager, or the file of the job is damaged
            why = view.error or "it is complete, and whether its node is empty is not known"
            return f"job {job_id}: {why}"
        case "paused":
            return f"job {job_id} is paused: job resume lets it go on"
        case "cancelled":
            return f"job {job_id} was cancelled: job retry takes up what it left"
        case "failed":
            return f"job {job_id} failed: {view.error or 'no cause given'}"
    return f"job {job_id} is {words}"


def exit_code(view: JobShown) -> int:
    """Return the exit code that tells how a job that goes no further has ended."""
    if state_words(view) != "complete" or (view.verdict is None and view.error):
        return exits.REFUSED
    word = "" if view.verdict is None else view.verdict.verdict
    return exits.DONE if word in NOTHING_LEFT else _CODES.get(word, exits.UNKNOWN)


def verdict_lines(view: JobShown) -> list[str]:
    """Return the verdict of an ended job, and a line for each command that acts on what is left."""
    if view.verdict is None:
        return []
    return [printable(view.verdict.line), *map(cause_line, view.verdict.causes)]


def cause_line(one: VerdictCause) -> str:
    """Return a line for a cause of a verdict, with the command that acts on it."""
    command = f": {one.command}" if one.command else ""
    return printable(f"  {one.cause}: {one.advice}{command}")


def notes(view: JobShown | Summary) -> list[str]:
    """List what to know of a job besides its counts: its end, warnings, what remains."""
    lines = [f"failed: {view.error}"] if view.error else []
    lines += [tier_line(one) for one in view.tiers if one.tier == Tier.BUCKETS]
    lines += [*warnings(view.warnings), *map(wait_line, view.waiting)]
    verdict = verdict_lines(view) if isinstance(view, JobShown) else []
    if not verdict and view.rounds and (remaining := view.rounds[-1].remaining):
        lines.append(f"{remaining:,} records still name the node: job report lists them")
    return [*map(printable, lines), *verdict]


def tier_line(one: TierCounts) -> str:
    """Return the counts of the objects of a tier, on a line."""
    sizes = f"{units.size(one.bytes_complete)} of {units.size(one.bytes)}"
    return f"{one.tier} tier: {one.complete:,} of {one.objects:,} objects complete, {sizes}"


def warnings(findings: Iterable[Finding]) -> list[str]:
    """List what the pre-flight warns of, a line each."""
    return [f"warning: {one.check}: {one.detail}" for one in findings]


def wait_line(wait: Wait) -> str:
    """Say what a job waits for, with the time as the manager tells it (UTC)."""
    since = "" if wait.since is None else f" since {wait.since}"
    return f"waits for {wait.subject}{since}: {wait.detail}"


def state_word(state: str, wish: str | None) -> str:
    """Return one word for a job's state, which tells a paused job from a cancelled one."""
    # A manager that says nothing of wishes does not say either which of both it means.
    known = None if (state, wish) == ("Stopped", None) else job_state(Words(state.lower(), wish))
    if known is None:
        return "queued" if state in GOING[:2] else state.lower()
    return JobState.CANCELLING if known is JobState.DRAINING else known


def has_ended(job: JobShown | JobListed) -> bool:
    """Tell whether nothing happens to a job any more, also not by an operator."""
    is_paused = state_word(job.state, job.wish) == JobState.PAUSED
    return job.state not in GOING and not is_paused


def percent(state: str, results: Results | None, scanned: float, verdict: str | None = None) -> str:
    """Return how much of a job is done; what was not scanned is taken to hold as much as the rest.

    Only a complete job is at 100 %, or a verification that looked at all, and fails by faults.
    """
    if state == "Complete":
        return "100%"
    done, known = (0, 0) if results is None else settled(results)
    if not known:
        return "-"
    most = 100 if verdict == Word.FAULTS else 99
    return f"{min(int(100 * done / known * min(scanned, 1.0)), most)}%"


def counted(results: Results, unit: str = "objects") -> str:
    """Return how many objects of a job have come to their end, and how many not well."""
    done, known = settled(results)
    text = f"{done:,} of {known:,} {unit}"
    text += f", {results.skipped:,} skipped" if results.skipped else ""
    return text + (f", {results.error:,} failed" if results.error else "")


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
    #: How much of the job is done, as `percent` returns it; and for how long it has been at work.
    percent: str = "-"
    elapsed_s: float | None = None
    has_ended: bool = False

    @property
    def begun(self) -> str:
        """Return how much is done, and for how long the job has been at work, on a line."""
        elapsed = "" if self.elapsed_s is None else f"   {units.duration(self.elapsed_s)}"
        return f"{self.percent}{elapsed}"

    @property
    def what(self) -> str:
        """Return what the job is at, and how much of that was scanned."""
        return self.phase + ("" if self.scanned is None else f": {self.scanned:.0%} scanned")

    @property
    def line(self) -> str:
        """Return all of it, on a line."""
        settled = f"{self.what}   {self.done:,}/{self.known:,} objects settled"
        if self.has_ended:
            return settled
        left = "unknown" if self.left_s is None else units.duration(self.left_s)
        return (
            f"{settled}   {self.objects_per_s:,.0f} objects/s"
            f"   {units.size(self.bytes_per_s)}/s   time left: {left}"
        )


def glance(
    view: JobShown, summary: Summary | None, seen: Rates, now: datetime.datetime | None = None
) -> Glance:
    """Return how far a job is, `now`.

    Rates and the time that is left are the manager's own where it tells them, else what was
    `seen` of the job here.
    """
    done, known = settled(view.results)
    # One that says nothing of scans may still find more: then it is the least it can take.
    share = 1.0 if view.scans is None else scanned_share(view.scans, 0)
    minute = None if summary is None else summary.rates.minute
    if summary is not None and minute is not None and minute.objects_per_s:
        per_s, size_per_s, left_s = minute.objects_per_s, minute.bytes_per_s, summary.eta_s
    else:
        per_s, size_per_s = seen.per_s()
        left_s = eta_s(settled=done, known=known, scanned=share, per_s=per_s)
    word = None if view.verdict is None else view.verdict.verdict
    return Glance(
        *_phase(view),
        done,
        known,
        per_s,
        size_per_s,
        left_s,
        percent(view.state, view.results, share, word),
        None if now is None else seconds_between(view.started, view.finished, now),
        has_ended(view),
    )


def _phase(view: JobShown) -> tuple[str, float | None]:
    words = state_words(view)
    if words != "running" or not view.scans:
        return words, None
    return phase(view.scans)
