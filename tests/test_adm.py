"""What the operator's command makes of a job's view."""

from typing import Any

from rebalancer.adm import _progress_line, notes
from rebalancer.rates import Rates


def scan(position: int, until: int, **fields: int) -> dict[str, Any]:
    return {"shard": 1, "column": "_id", "position": position, "until": until, **fields}


def test_notes_tell_what_counts_do_not() -> None:
    """Warnings, and what the last final scan listed; nothing where there is nothing."""
    rounds = [{"remaining": 7}, {"remaining": 2}]
    warnings = [{"check": "agent", "detail": "2.stor is away"}]
    assert notes({"rounds": rounds, "warnings": warnings}) == [
        "warning: agent: 2.stor is away",
        "2 records still name the shark: see table remaining",
    ]
    assert notes({"rounds": [{"remaining": 7}, {"remaining": 0}], "warnings": []}) == []
    assert notes({}) == []  # another manager's


def test_progress_is_that_of_the_last_round() -> None:
    """A final scan begins at nothing again, and says so."""
    view: dict[str, Any] = {"results": {"Total": 0, "Unprocessed": 0, "Duplicates": 0}}
    known = {name: 0 for name in ("Assigned", "Skipped", "Error", "Post Processing", "Complete")}
    view["results"] |= known
    view["scans"] = [scan(10, 10), scan(10, 30)]
    rates = Rates(10.0)
    rates.add(0.0, 0, 0)
    assert _progress_line(view, rates).startswith("50% scanned   ")
    view["scans"] += [scan(3, 12, round=1), scan(3, 12, round=1)]
    assert _progress_line(view, rates).startswith("25% scanned again (1)   ")
