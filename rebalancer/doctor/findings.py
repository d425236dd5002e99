"""A finding says what a check has found, what was expected, and what to do about it.  Pure."""

import enum
from collections.abc import Collection

import attrs


class Level(enum.StrEnum):
    """A level says what a finding means for the program, the harmless first."""

    OK = "ok"
    #: The check could not be made, because of something that another finding says.
    SKIPPED = "skipped"
    #: The program starts, but something will not go as well as it should.
    WARNING = "warning"
    #: The program does not start, or cannot do its work.
    STOPS = "stops"

    @property
    def rank(self) -> int:
        """Return the place of this level in the order of all."""
        return list(Level).index(self)


@attrs.frozen
class Finding:
    """A finding is one result of a check; only a harmless one expects nothing."""

    level: Level
    found: str
    expected: str = ""
    do: str = ""

    def __attrs_post_init__(self) -> None:
        """Check that a finding of trouble says what was expected, and what to do."""
        is_trouble = self.level in (Level.WARNING, Level.STOPS)
        assert self.found
        assert bool(self.expected and self.do) is is_trouble, self

    @property
    def sentence(self) -> str:
        """Return the whole finding as one sentence, for a log."""
        rest = (f"expected {self.expected}" if self.expected else "", self.do)
        return "; ".join(filter(None, (self.found, *rest)))


def ok(found: str) -> Finding:
    """Make a finding of something that is as it should be."""
    return Finding(Level.OK, found)


def skipped(why: str) -> Finding:
    """Make a finding of a check that was not made."""
    return Finding(Level.SKIPPED, why)


def warning(found: str, expected: str, do: str) -> Finding:
    """Make a finding with which the program starts."""
    return Finding(Level.WARNING, found, expected, do)


def stops(found: str, expected: str, do: str) -> Finding:
    """Make a finding with which the program does not start, or cannot work."""
    return Finding(Level.STOPS, found, expected, do)


def exit_code(levels: Collection[Level]) -> int:
    """Return the exit code of a run with findings of these levels: 1 if any stops the program."""
    return int(Level.STOPS in levels)


def closing(program: str, levels: Collection[Level]) -> str:
    """Return the sentence that sums up findings of these levels."""
    counts = {level: sum(one is level for one in levels) for level in Level}
    stopping, warnings = counts[Level.STOPS], counts[Level.WARNING]
    if stopping:
        what = f"{stopping} finding{'s' * (stopping > 1)} would stop the {program}"
    elif warnings:
        what = f"the {program} can run"
    else:
        what = f"the {program} can run, and nothing is amiss"
    others = [f"{warnings} warning{'s' * (warnings > 1)}"] if warnings else []
    if counts[Level.SKIPPED]:
        others.append(f"{counts[Level.SKIPPED]} not looked at")
    return "; ".join([what, *others])
