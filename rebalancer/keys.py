"""Names that nobody knows, in what comes from outside, each with the nearest one that is known.

A key that is ignored is worse than one that is refused: whoever misspells a limit gets none.
"""

import difflib
from collections.abc import Collection, Iterable


def nearest(name: str, known: Collection[str]) -> str | None:
    """The one of `known` that `name` is most likely a misspelling of; None if none is near."""
    folded = {other.lower().replace("-", "_"): other for other in known}
    found = difflib.get_close_matches(name.lower().replace("-", "_")[:100], folded, 1, 0.6)
    return folded[found[0]] if found else None


def unknown(keys: Iterable[object], known: Collection[str], where: str = "") -> list[str]:
    """What to say of each of `keys` that is not in `known`; `where` is put before its name."""
    told = []
    for key in keys:
        if key in known:
            continue
        name = str(key)
        other = nearest(name, known)
        hint = f"did you mean {other}?" if other else f"expected one of {', '.join(known)}"
        told.append(f"{where}{name[:100]}: unknown key; {hint}")
    return told
