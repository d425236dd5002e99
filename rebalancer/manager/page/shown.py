"""This module makes of the API's bodies what the templates show.  Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import attrs

from rebalancer import units
from rebalancer.actions import DECLARED, FALLBACK
from rebalancer.api.jobs import (
    Destination,
    JobShown,
    Rate,
    ReasonCount,
    Round,
    Scan,
    Summary,
    Verdict,
)
from rebalancer.api.requests import Control
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.states import (
    JOB,
    JobEvent,
    JobState,
    ObjectStatus,
    words_for_people,
)
from rebalancer.domain.verdicts import NOTHING_LEFT
from rebalancer.errors import BadRequest
from rebalancer.manager.http.requests import (
    SETTINGS,
    ObjectsQuery,
    Range,
    Setting,
    check_range,
    read_change,
)
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.progress import phase, scan_name, scanned_share, seconds_between, settled

#: Jobs of one list.
MOST_JOBS = 20
#: As many rows of a table are sent again and again; the API has the others.
MOST_ROWS = 50
#: When, in seconds since the epoch; how many objects were settled, and how many bytes moved.
Sample = tuple[float, int, int]
#: Statuses in the order in which a bar shows them, each with its name for people.
STATUSES = {
    **{s: s.value for s in (ObjectStatus.COMPLETE, ObjectStatus.SKIPPED, ObjectStatus.ERROR)},
    ObjectStatus.POST_PROCESSING: "copied, record not updated yet",
    ObjectStatus.ASSIGNED: "being copied",
    ObjectStatus.UNPROCESSED: "without a destination yet",
}
#: What the form of a setting is called, and what it says beside its field.
LIMITS = {
    "max_metadata_update_threads": ("Metadata updates at a time", "over all shards"),
    "bandwidth_bytes_per_s": ("Bandwidth of each destination", "bytes a second: 20M, 1.5G, none"),
    "max_sharks": ("Destinations at a time", ""),
    "max_tasks_per_assignment": ("Objects in an assignment", "from the next one on"),
}


@attrs.frozen
class Part:
    """A part of a bar: so many objects of a status; place and width are shares of the bar."""

    status: str
    label: str
    objects: int
    start: float
    width: float


@attrs.frozen(kw_only=True)
class JobLine:
    """A line shows how a job stands."""

    id: str
    action: str
    subject: str
    #: The name of the storage node that the job empties, if it does.
    node: str | None
    #: The state, for people, and how it is marked.
    words: str
    mark: str
    phase: str
    settled: int
    known: int
    skipped: int
    errors: int
    #: The share of all objects that have come to their end, as far as it can be told.
    share: float
    parts: Sequence[Part]
    objects_per_s: float
    bytes_per_s: float
    left_s: float | None
    bytes_complete: int
    bytes_total: int
    created: str
    started: str | None
    finished: str | None
    took_s: float | None
    error: str | None
    #: What an ended job has come to, and whether nothing is left to do.
    verdict: Verdict | None
    is_settled: bool

    @property
    def is_running(self) -> bool:
        """Tell whether the job moves on."""
        return self.mark == "going"

    @property
    def url(self) -> str:
        """Return where the job's own page is."""
        return f"/page/jobs/{self.id}"


def job_line(row: JobRow, shown: JobShown, minute: Rate | None, eta_s: float | None) -> JobLine:
    """Return how a job stands; `minute` is its rate of the last minute, if it runs."""
    declared = DECLARED.get(row.action, FALLBACK)
    results = shown.results
    done, known = settled(results)
    scans = shown.scans or ()
    words = words_for_people(shown.state, shown.wish)
    return JobLine(
        id=row.id,
        action=row.action,
        subject=declared.subject(shown.config),
        node=row.node,
        words=words,
        mark=_mark(row.state, shown.error),
        phase=_phase(row.state, scans),
        settled=done,
        known=known,
        skipped=results.skipped,
        errors=results.error,
        share=_share(row.state, done, known, scanned_share(scans, 0)),
        parts=tuple(_parts({s: getattr(results, s) for s in STATUSES})),
        objects_per_s=0.0 if minute is None else minute.objects_per_s,
        bytes_per_s=0.0 if minute is None else minute.bytes_per_s,
        left_s=None if minute is None else eta_s,
        bytes_complete=shown.bytes.complete,
        bytes_total=shown.bytes.total,
        created=shown.created,
        started=shown.started,
        finished=shown.finished,
        took_s=seconds_between(shown.started, shown.finished),
        error=shown.error,
        verdict=shown.verdict,
        is_settled=shown.verdict is not None and shown.verdict.verdict in NOTHING_LEFT,
    )


def _mark(state: JobState | None, error: str | None) -> str:
    match state:
        case JobState.COMPLETE:
            return "bad" if error else "done"
        case JobState.FAILED | None:
            return "bad"
        case JobState.RUNNING:
            return "going"
    return "idle"


def _share(state: JobState | None, done: int, known: int, scanned: float) -> float:
    if state is JobState.COMPLETE:
        return 1.0
    # What has not been scanned yet is taken to hold as many objects as what has been.
    return done / known * min(scanned, 1.0) if known else 0.0


def _parts(objects: Mapping[ObjectStatus, int]) -> Iterable[Part]:
    total, start = sum(objects.values()), 0.0
    for status, label in STATUSES.items():
        if objects[status]:
            width = objects[status] / total
            yield Part(status, label, objects[status], start, width)
            start += width


def _phase(state: JobState | None, scans: Sequence[Scan]) -> str:
    """Return what a running job is at; nothing of another one."""
    if state is not JobState.RUNNING or not scans:
        return ""
    name, share = phase(scans)
    return name if share is None else f"{name}: {share:.0%} scanned"


@attrs.frozen(kw_only=True)
class JobList:
    """A list of jobs, newest first, from the one with the number `at` on."""

    at: int
    total: int

    @property
    def newer(self) -> int | None:
        """Return where the list of newer jobs begins, None if there are none."""
        return max(self.at - MOST_JOBS, 0) if self.at else None

    @property
    def older(self) -> int | None:
        """Return where the list of older jobs begins, None if there are none."""
        return self.at + MOST_JOBS if self.at + MOST_JOBS < self.total else None

    def of(self, rows: Sequence[JobRow]) -> Sequence[JobRow]:
        """Return the rows of this list of all `rows`, which are oldest first."""
        return rows[::-1][self.at : self.at + MOST_JOBS]


# --- one job -----------------------------------------------------------------------------------


@attrs.frozen
class Reason:
    """Objects of one status and reason, and where they are listed."""

    status: str
    label: str
    reason: str
    objects: int
    bytes: int
    url: str | None


@attrs.frozen
class Place:
    """A destination, what is under way there, and how full it is."""

    of: Destination
    under_way: int
    #: Of its node; None if storinfo does not list it now.
    node: StorageNode | None

    @property
    def avoided_s(self) -> float:
        """Return for how long other destinations are preferred to this one."""
        return 0.0 if self.of.now is None else self.of.now.avoided_for_s


@attrs.frozen
class ScanLine:
    """A scan of a shard, and how much of it is done."""

    of: Scan
    name: str
    share: float


@attrs.frozen
class Limit:
    """A limit of a running job that an operator can change."""

    action: str
    name: str
    label: str
    hint: str
    value: int | None
    is_changed: bool
    range: Range


@attrs.frozen(kw_only=True)
class JobPage:
    """The page of one job shows these values."""

    line: JobLine
    shown: JobShown
    summary: Summary
    controls: Sequence[str]
    reasons: Sequence[Reason]
    destinations: Sequence[Place]
    more_destinations: int
    scans: Sequence[ScanLine]
    more_scans: int
    rounds: Sequence[Round]
    #: None: they cannot be changed.
    limits: Sequence[Limit] | None
    has_ended: bool


def job_page(
    row: JobRow,
    shown: JobShown,
    summary: Summary,
    *,
    nodes: Iterable[StorageNode] = (),
    limits: Mapping[str, int | None] | None = None,
) -> JobPage:
    """Return what the page of a job shows; `limits` are those in force, if the job runs."""
    by_name = {node.manta_storage_id: node for node in nodes}
    places = sorted(
        (_place(one, by_name.get(one.shark)) for one in summary.destinations),
        key=lambda place: (-place.under_way, place.of.shark),
    )
    scans = sorted(map(_scan_line, summary.scans), key=lambda s: (-s.of.round, s.share, s.of.shard))
    return JobPage(
        line=job_line(row, shown, summary.rates.minute, summary.eta_s),
        shown=shown,
        summary=summary,
        controls=controls(row),
        reasons=sorted((_reason(row.id, one) for one in summary.counts), key=_by_status),
        destinations=places[:MOST_ROWS],
        more_destinations=len(places[MOST_ROWS:]),
        scans=scans[:MOST_ROWS],
        more_scans=len(scans[MOST_ROWS:]),
        rounds=summary.rounds,
        has_ended=row.has_ended,
        limits=None if limits is None else _limits(limits, summary.tuning),
    )


@attrs.frozen
class ObjectFilter:
    """A filter of a job's objects: what is chosen, and what there is to choose."""

    status: str
    reason: str
    statuses: Mapping[str, str]
    reasons: Sequence[str]


def object_filter(query: ObjectsQuery, counts: Iterable[ReasonCount]) -> ObjectFilter:
    """Return what objects can be filtered by, of a job with these counts."""
    reasons = {one.reason for one in counts if one.reason}
    return ObjectFilter(
        query.status or "",
        query.reason or "",
        {str(status): label for status, label in STATUSES.items()},
        sorted(reasons | ({query.reason} if query.reason else set())),
    )


def objects_url(job_id: str, query: ObjectsQuery, after: int = 0) -> str:
    """Return where objects of a job are listed by a query, from rows after `after`."""
    wanted = {"status": query.status, "reason": query.reason, "after": after}
    return f"/page/jobs/{job_id}/objects?{urlencode({k: v for k, v in wanted.items() if v})}"


def controls(row: JobRow) -> list[str]:
    """Return what an operator can have a job do now."""
    if row.state is None or row.is_broken:
        return []
    events = JOB[row.state]
    is_cancelled = row.state in (JobState.CANCELLING, JobState.DRAINING)
    possible = {
        "pause": JobEvent.PAUSED in events and row.state is not JobState.PAUSING,
        "resume": JobEvent.RESUMED in events,
        "cancel": JobEvent.CANCELLED in events and not is_cancelled,
    }
    return [name for name, is_possible in possible.items() if is_possible]


@attrs.frozen
class Change:
    """A change of a job that an operator is asked to confirm."""

    question: str
    effect: str
    answer: str


_CONTROLS = {
    "pause": Change(
        "Pause this job?",
        "It begins nothing more.  Agents finish what they have; records of that are updated after"
        " the job is resumed.",
        "Pause the job",
    ),
    "resume": Change(
        "Resume this job?", "It goes on where it was, as soon as it has its turn.", "Resume the job"
    ),
    "cancel": Change(
        "Cancel this job?",
        "It ends early, for good.  Agents finish what they have, and the rest is skipped; a retry"
        " job can take that up.",
        "Cancel the job",
    ),
}
#: What is said of a change that was made, by the action that made it.
DONE = {
    "pause": "The job is paused.",
    "resume": "The job goes on when it has its turn.",
    "cancel": "The job is cancelled: what agents have is finished.",
    **dict.fromkeys(SETTINGS, "The limit is changed."),
}


def change_asked(wanted: Control | Setting) -> Change:
    """Return the question whether a job is to be changed so."""
    if isinstance(wanted, Control):
        return _CONTROLS[wanted]
    label, _ = LIMITS[wanted.name]
    is_size = wanted.name == "bandwidth_bytes_per_s"
    if wanted.value is None:
        value = "what the agents are configured to"
    else:
        value = f"{units.size(wanted.value)} a second" if is_size else f"{wanted.value:,}"
    return Change(
        f"Change a limit of this job to {value}?",
        f"{label}: {value}.  It is in force at once, for this job only, and outweighs the"
        " configuration for as long as the job lives.",
        "Change the limit",
    )


def read_asked(action: str, value: str) -> Control | Setting:
    """Return the change that a form asks for.

    Raises:
      Unprocessable, BadRequest: names what cannot be used.
    """
    body: dict[str, Any] = {"action": action}
    if action in SETTINGS:
        try:
            body["params"] = units.read_rate(value.strip())
        except ValueError as exc:
            raise BadRequest(str(exc)) from None
    wanted = read_change(body)
    if isinstance(wanted, Setting):
        check_range(wanted)
    return wanted


def _place(one: Destination, node: StorageNode | None) -> Place:
    return Place(one, max(one.tasks - one.copied - one.failed, 0), node)


def _scan_line(scan: Scan) -> ScanLine:
    return ScanLine(scan, scan_name(scan.round), scan.position / scan.until if scan.until else 1.0)


def _reason(job_id: str, one: ReasonCount) -> Reason:
    names = {str(status): label for status, label in STATUSES.items()}
    url = None
    if one.status in names:
        query = ObjectsQuery(ObjectStatus(one.status), one.reason or None, 0, 0)
        url = objects_url(job_id, query)
    label = names.get(one.status, "objects with several records")
    return Reason(one.status, label, one.reason, one.objects, one.bytes, url)


def _by_status(one: Reason) -> tuple[int, int]:
    order = [*map(str, STATUSES), one.status]
    return order.index(one.status), -one.objects


def _limits(in_force: Mapping[str, int | None], tuning: Mapping[str, Any]) -> list[Limit]:
    by_name = {one.name: (action, one) for action, one in SETTINGS.items()}
    return [
        Limit(
            by_name[name][0],
            name,
            label,
            hint,
            in_force[name],
            tuning.get(name) is not None,
            by_name[name][1],
        )
        for name, (label, hint) in LIMITS.items()
    ]
