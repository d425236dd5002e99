"""This module tells what a final scan makes of a record that names the evacuated shark."""

from rebalancer.domain.reasons import EXCLUDED
from rebalancer.domain.states import ObjectStatus

#: Why an upload's directory, or a record that no round is left for, stays as it is.
UPLOAD_IN_PROGRESS = "upload_in_progress"
FOUND_TOO_LATE = "found_too_late"

#: Reasons that say that the record does not name the shark any more.
GONE = frozenset({"deleted", "overwritten", "moved_elsewhere"})


def is_news(status: str, reason: str | None, *, is_unchanged: bool) -> bool:
    """Tell whether a record that names the shark asks for another turn, given what became of it.

    `is_unchanged`: it is as the job knew it.  That says nothing of a record that was rewritten:
    whoever put it back may have put back the very same text.
    """
    match status:
        case ObjectStatus.COMPLETE:
            return True
        case ObjectStatus.SKIPPED | ObjectStatus.ERROR:
            return reason in GONE or (reason != EXCLUDED and not is_unchanged)
    return False  # it is having its turn
