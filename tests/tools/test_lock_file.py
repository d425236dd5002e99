"""`requirements.lock` has every dependency, in a version that setup.cfg allows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def test_the_lock_file_has_every_dependency() -> None:
    """What an environment is made of is known before it is made."""
    wanted = re.findall(
        r"^    ([a-z][a-z0-9-]*)(?:\[\w+\])?>=([\d.]+)",
        (ROOT / "setup.cfg").read_text(),
        re.MULTILINE,
    )
    wanted += re.findall(r'"(setuptools)>=(\d+)"', (ROOT / "pyproject.toml").read_text())
    lines = (ROOT / "requirements.lock").read_text().splitlines()[1:]
    locked = {normal(name): found for name, _, found in (line.partition("==") for line in lines)}

    assert len(wanted) > 25
    assert [
        (name, least, locked.get(name))
        for name, least in wanted
        if version(locked.get(normal(name), "")) < version(least)
    ] == []
