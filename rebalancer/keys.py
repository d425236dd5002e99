"""This module finds unknown names in what comes from outside, and the nearest known one.

A key that is ignored is worse than one that is refused: whoever misspells a limit gets none.
"""

import difflib
from collections.abc import Collection, Iterable

#: More known names than these are not listed.
MOST_LISTED = 12


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that `name` most likely misspells; None if none is near."""
    wanted = _folded(name)
    whole = {_folded(other): other for other in known}
    # `prt` is near no whole name, but near a word of `listen_port`.
    words = {word: other for other in reversed(list(known)) for word in _folded(other).split("_")}
    for names, cutoff in ((whole, 0.6), (words, 0.75)):
        if found := difflib.get_close_matches(wanted, names, 1, cutoff):
            return names[found[0]]
    return None


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")[:100]


def unknown(keys: Iterable[object], known: Collection[str], where: str = "") -> list[str]:
    """Say of each of `keys` that it is not in `known`; `where` is put before its name."""
    faults = []
    for key in keys:
        if key in known:
            continue
        name = str(key)
        other = nearest(name, known)
        hint = f"; did you mean {other}?" if other else ""
        if not other and len(known) <= MOST_LISTED:
            hint = f"; expected one of {', '.join(known)}"
        faults.append(f"{where}{name[:100]}: unknown key{hint}")
    return faults
