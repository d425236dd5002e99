"""This module says what a kind of job is to the manager: what may be asked of it, and its work.

The manager lists, schedules, pauses and shows jobs without knowing what they do; whatever depends
on that is a member of the job's action.  `rebalancer.actions` has the parameters of each.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from rebalancer.config import ManagerConfig
from rebalancer.domain.objects import Shark
from rebalancer.domain.verdicts import End, Verdict
from rebalancer.manager.store.records import Finding, ScanPosition, StatusCounts

if TYPE_CHECKING:
    from rebalancer.manager.jobs.assembly import Resources
    from rebalancer.manager.jobs.rows import JobRow
    from rebalancer.manager.jobs.running import RunningJob

#: Returns the row of a job by its id, None if there is no such job.
Known = Callable[[str], "JobRow | None"]


@attrs.frozen
class Plan:
    """A plan has the objects and bytes that a job would move, by destination."""

    status: StatusCounts
    #: Objects and bytes by the destination that they would be given to.
    destinations: Mapping[Shark, tuple[int, int]]
    warnings: list[Finding]
    #: Why not all has been looked at.
    failures: list[str]
    #: Bucket objects and their bytes by status, which are in `status` too.
    buckets: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)


@attrs.frozen
class PlanLook:
    """A look at a dry run under way: what was found so far, and how far the search is."""

    status: StatusCounts
    scans: Sequence[ScanPosition]
    #: The shards that are scanned; none where objects are listed.
    shards: Collection[int]
    #: Those of them that were scanned to their end, or given up.
    ended: Collection[int]


class JobAction(Protocol):
    """A kind of job.  `params` are those that are kept of a request."""

    def params(self, given: Any, config: ManagerConfig) -> dict[str, Any]:
        """Return what is kept of the parameters `given` in a request."""

    async def check(self, params: Mapping[str, Any], resources: "Resources", known: Known) -> None:
        """Check what can be known before a job, or its dry run, has its turn.

        Raises:
          RequestError: there can be no such job, and why.
        """

    async def look_up(self, params: Mapping[str, Any], config: ManagerConfig) -> Sequence[Finding]:
        """Look up what a new job works on; what cannot be asked now is a finding.

        Raises:
          BadRequest: there is no such thing.
        """

    def used_jobs(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the ids of the jobs whose files are read, each with a verb: what for."""

    async def retry(self, row: "JobRow", known: Known, resources: "Resources") -> dict[str, Any]:
        """Return the parameters of a job that retries `row`, which has ended.

        Raises:
          BadRequest: something of the earlier jobs is missing that cannot be found anew.
          Unavailable, Damaged: the file of `row` is needed, and cannot be read.
        """

    def verdict(self, row: "JobRow", end: End, config: ManagerConfig) -> Verdict:
        """Return what the ended job `row` has come to, by the `end` that its file has.

        `config` says which objects of the region jobs do not look at.
        """

    async def plan(
        self, resources: "Resources", params: dict[str, Any], note: Callable[[PlanLook], None]
    ) -> Plan:
        """Tell what a job would do; asked only of an action that declares a dry run.

        A look at its search goes to `note` every second.

        Raises:
          BadRequest: it would fail at once, and why.
          Unavailable: a peer does not answer.
        """

    async def run(self, running: "RunningJob") -> None:
        """Do the work of a job from wherever an earlier run left it, to its end.

        To be cancelled is to be paused, or killed.  Once `running.cancelled` is set, nothing more
        is begun.

        Raises:
          Exception: the job failed; where it is transient, the job is run once more.
        """
