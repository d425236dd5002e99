"""This module keeps the verdicts of ended jobs, each decided once, by what the job's file says."""

import attrs

from rebalancer.domain.verdicts import Verdict
from rebalancer.errors import StoreError
from rebalancer.manager.actions.registry import ACTIONS
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import views
from rebalancer.threads import Work, run_sync

#: Verdicts that are kept.
MOST = 10_000


@attrs.define(eq=False)
class Verdicts:
    """This object decides verdicts, and remembers them: nothing of an ended job changes any more.

    Mutable state: the verdicts of jobs that were asked for.
    """

    resources: Resources
    _known: dict[str, Verdict] = attrs.field(factory=dict)

    async def of(self, row: JobRow) -> Verdict | None:
        """Return what a job has come to; None if it has not ended, or its file cannot be read."""
        if not row.has_ended or row.is_broken or (action := ACTIONS.get(row.action)) is None:
            return None
        if (known := self._known.get(row.id)) is not None:
            return known
        try:
            end = await run_sync(Work.VIEWS, views.read_end, self.resources.file(row.id))
        except StoreError:
            return None
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        made = self._known[row.id] = action.verdict(row, end, self.resources.config)
        return made
