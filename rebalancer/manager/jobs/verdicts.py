"""This module keeps the verdicts of ended jobs, whose files are read once."""

import attrs

from rebalancer.config import ManagerConfig
from rebalancer.domain.verdicts import End, Verdict
from rebalancer.errors import StoreError
from rebalancer.manager.actions.registry import ACTIONS
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import views
from rebalancer.threads import Work, run_sync

#: Verdicts that are kept.
MOST = 10_000


@attrs.frozen
class _Known:
    """A verdict that is known, by the end of its job and by a configuration."""

    end: End
    config: ManagerConfig
    verdict: Verdict


@attrs.define(eq=False)
class Verdicts:
    """This object decides verdicts, and remembers them: nothing of an ended job changes any more.

    The configuration may change, which says which shards and objects the region has.  Mutable
    state: the verdicts of jobs that were asked for.
    """

    resources: Resources
    _known: dict[str, _Known] = attrs.field(factory=dict)

    def forget(self, job_id: str) -> None:
        """Forget the verdict of a job that is removed: its id may come again, with an import."""
        self._known.pop(job_id, None)

    async def of(self, row: JobRow) -> Verdict | None:
        """Return what a job has come to; None if it has not ended, or its file cannot be read."""
        if not row.has_ended or row.is_broken or (action := ACTIONS.get(row.action)) is None:
            return None
        known, config = self._known.get(row.id), self.resources.config
        if known is not None and known.config is config:
            return known.verdict
        if known is not None:
            end = known.end
        else:
            try:
                end = await run_sync(Work.VIEWS, views.read_end, self.resources.file(row.id))
            except StoreError:
                return None
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
        made = action.verdict(row, end, config)
        self._known[row.id] = _Known(end, config, made)
        return made
