"""This module shows any text on any terminal, so that it gives no orders there.

Services print their errors so too, and need no more of the operator's command.
"""

import io
import sys


def printable(text: str) -> str:
    """Return a text on one line, without what a terminal would take for orders.

    Users choose names, so these may have anything in them.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """Make text `printable`, but keep its lines apart."""
    return "\n".join(map(printable, text.split("\n")))


def take_any_text() -> None:
    """Let no character that standard output or error cannot encode end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
