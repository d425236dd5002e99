"""This module says which of the optional compiled packages an installation has.

A compiled package makes the programs quicker, and none is needed: the module that uses it has a
form in Python too.
"""

from collections.abc import Mapping
from importlib.util import find_spec

#: For each part of the programs with a compiled form: the package, and the names of both forms.
_PARTS = {
    "json": ("msgspec", "msgspec", "python"),
    "crc": ("fastcrc", "fastcrc", "python"),
    "engine": ("pycurl", "libcurl", "plain"),
    "postgres": ("psycopg_binary", "binary", "python"),
}
#: Packages of which a program may be without.
PACKAGES = frozenset(package for package, _, _ in _PARTS.values())


def describe() -> Mapping[str, str]:
    """Return `build`, native or pure, and the form that each part has.

    A part that a configuration rules out is there all the same.
    """
    forms = {
        part: compiled if find_spec(package) else plain
        for part, (package, compiled, plain) in _PARTS.items()
    }
    pure = {part: plain for part, (_, _, plain) in _PARTS.items()}
    return {"build": "pure" if forms == pure else "native", **forms}
