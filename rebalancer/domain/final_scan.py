"""This module decides what a final scan does with a record that names the evacuated shark."""

from rebalancer.domain.reasons import Reason
from rebalancer.domain.states import ObjectStatus


def is_news(status: str, reason: Reason | None, *, is_unchanged: bool) -> bool:
    """Tell whether a record that names the shark asks for another turn, given what became of it.

    `is_unchanged`: the record is as the job knew it.  That says nothing once the job has updated
    it: whoever put it back may have put back the very same text.
    """
    match status:
        case ObjectStatus.COMPLETE:
            return True
        case ObjectStatus.SKIPPED | ObjectStatus.ERROR:
            is_gone = reason is not None and reason.is_gone
            is_wish = reason is not None and reason.is_wish
            return is_gone or not (is_wish or is_unchanged)
    return False  # it is having its turn
