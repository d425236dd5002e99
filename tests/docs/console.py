"""A page's `console` blocks: commands behind `$`, each with the lines that it prints.

What is shown is compared loosely: each line must be printed, in this order, with any numbers and
blanks; `...` stands for anything.  A command ends with `# exits N` unless it exits 0.  An id that
a page shows stands, in later commands too, for the one that was printed in its place.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from textwrap import dedent

import attrs

BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
EXITS = re.compile(r"\s+# exits (\d+)$")
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: What may differ from run to run: ids, numbers, blanks, and lines of a table.
LOOSE = {
    UUID: f"({UUID})",
    r"\.\.\.": ".*",
    r"\d[\d,.:]*": r"\d[\d,.:]*",
    "[─━═╸╺ ]*[─━═╸╺][─━═╸╺ ]*": r"[^\w]*",
    r"\s+": r"\s+",
}


@attrs.frozen
class Command:
    """What is typed, how it exits, and what the page shows of its output."""

    text: str
    code: int
    shown: tuple[str, ...]


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of all blocks of a page, in order."""
    for _, block in BLOCK.findall(page.read_text()):
        # A line that ends with a backslash goes on in the next.
        text = dedent(block).replace("\\\n", "")
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            text, *shown = part.rstrip("\n").split("\n")
            exits = EXITS.search(text)
            lines = tuple(line for line in shown if line.strip() not in ("", "..."))
            yield Command(EXITS.sub("", text), int(exits[1]) if exits else 0, lines)


def pattern(shown: str, known: Collection[str] = ()) -> re.Pattern[str]:
    """Return what a printed line must match; its groups are ids that are not `known`."""

    def loose(found: re.Match[str]) -> str:
        kind = next(one for one in LOOSE if re.fullmatch(one, found[0]))
        return re.escape(found[0]) if found[0] in known else LOOSE[kind]

    pieces = re.finditer(f"(?P<loose>{'|'.join(LOOSE)})|.", shown.strip())
    return re.compile("".join(loose(p) if p["loose"] else re.escape(p[0]) for p in pieces))


@attrs.define
class Ids:
    """The ids that pages show, with those that were printed in their place."""

    known: dict[str, str] = attrs.field(factory=dict)

    def put(self, text: str) -> str:
        """Return a text of a page with the ids that there are, also where they are cut."""
        for shown, printed in self.known.items():
            for length in (36, 8, 4):
                text = re.sub(rf"\b{shown[:length]}\b", printed[:length], text)
        return text

    def compare(self, shown: Sequence[str], printed: Sequence[str]) -> str:
        """Return the first line that was not printed, or nothing; remember the ids."""
        rest = iter(printed)
        for line in shown:
            wanted = pattern(self.put(line), self.known.values())
            match = next(filter(None, map(wanted.search, rest)), None)
            if match is None:
                return line
            new = [shown for shown in re.findall(UUID, line) if shown not in self.known]
            self.known.update(zip(new, match.groups(), strict=True))
        return ""
