"""The families of metrics: what the page lists of each program, and what a scrape has."""

from collections.abc import Mapping
from pathlib import Path

import attrs
from prometheus_client.parser import text_string_to_metric_families

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"


PROGRAMS = ("manager", "agent")
#: Names of the deployed programs, on which dashboards depend: fixed, though not as Prometheus
#: wishes names to be.
DEPLOYED = frozenset(
    {
        "request_count",
        "object_count",
        "error_count",
        "skip_count",
        "bytes_count",
        "assignment_time",
        "md_thread_gauge",
    }
)
#: The origins of names that the page has.
ORIGINS = ("deployed", "rewrite", "ours")


@attrs.define
class Family:
    """One family; its name is the one that queries use, but for the suffixes of a histogram."""

    name: str
    type: str
    labels: frozenset[str]
    text: str
    #: Whether any sample was not 0.
    has_moved: bool = attrs.field(default=False, eq=False)


def read(*texts: str) -> dict[str, Family]:
    """The families of several scrapes of one program, taken together."""
    found: dict[str, Family] = {}
    for text in texts:
        for one in text_string_to_metric_families(text):
            if one.name.endswith("_created"):
                continue
            name = one.name + ("_total" if one.type == "counter" else "")
            labels = frozenset(label for sample in one.samples for label in sample.labels) - {"le"}
            made = found.setdefault(name, Family(name, one.type, labels, one.documentation))
            made.labels |= labels
            made.has_moved |= any(sample.value for sample in one.samples)
    return found


def documented(program: str) -> Mapping[str, Family]:
    """The rows of the page about a program."""
    _, _, section = PAGE.read_text().partition(f"\n## The {program}\n")
    found = {}
    for line in section.partition("\n## ")[0].splitlines():
        if line.startswith("| `"):
            name, kind, origin, labels, text = (cell.strip() for cell in line.strip("|").split("|"))
            name = name.strip("`")
            assert origin in ORIGINS
            assert (origin == "deployed") == (name in DEPLOYED)
            found[name] = Family(name, kind, frozenset(labels.replace("`", "").split()), text)
    return found
