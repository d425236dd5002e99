"""A check of an audit says whether one invariant of the project holds, and what broke it."""

import attrs

#: Offenders shown of each invariant.
SHOWN = 5

TITLES = {
    1: "a new copy is named only where it lies whole and verified",
    2: "no record names fewer shards, no object has fewer good copies",
    3: "no object lies in fewer datacenters, none twice on a shark",
    4: "only the evacuated shark's entry of a record changed",
    5: "records that were not moved are untouched, and never counted as moved",
    6: "every object has one status, the expected one; counters equal rows",
    7: "nothing is left half done",
    8: "no temporary files, no forgotten assignments",
    9: "agents wrote nothing but objects that they were given",
    10: "no data is gone; copies that no record names are on record",
    11: "what names the evacuated shark is listed with its reason, and nothing else is",
}
#: The invariants of the buckets tier; temporary files are those of both tiers.
BUCKET_TITLES = {number: title for number, title in TITLES.items() if number != 8} | {
    12: "no row came to be deleted but by a user",
    13: "no header and no property of a user's was lost",
}


@attrs.define
class Check:
    """A check is one invariant.  Mutable state: how much was checked, and what broke it."""

    number: int
    title: str
    checked: int = 0
    violations: int = 0
    offenders: list[str] = attrs.field(factory=list)

    @property
    def ok(self) -> bool:
        """Tell whether it holds, on something."""
        return not self.violations and self.checked > 0

    def that(self, holds: bool, offender: str) -> None:
        """Count one more thing that was checked, and keep `text` unless it `holds`."""
        self.checked += 1
        if not holds:
            self.violations += 1
            if len(self.offenders) < SHOWN:
                self.offenders.append(offender)


@attrs.frozen
class Audit:
    """An audit has the result of each check."""

    checks: tuple[Check, ...]
    #: Those of the buckets tier, if the region has one.
    buckets: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether all hold."""
        return all(check.ok for check in (*self.checks, *self.buckets))
