"""The lock files have every dependency, in a version that setup.cfg allows."""

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


def test_the_archive_is_built_of_the_versions_that_are_tested() -> None:
    """`build.lock` has what a running program needs, each version by the hashes of its files."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()[1:]
    tested = {normal(name): found for name, _, found in (line.partition("==") for line in lines)}
    text = (ROOT / "build.lock").read_text()
    built = dict(re.findall(r"^([a-z][a-z0-9-]*)==(\S+)", text, re.MULTILINE))
    install = (ROOT / "setup.cfg").read_text().partition("install_requires")[2].partition("\n\n")[0]
    wanted = set(re.findall(r"^    ([a-z][a-z0-9-]*)", install, re.MULTILINE))

    assert wanted <= built.keys()
    # The rest is for other platforms.
    assert {name: found for name, found in built.items() if tested.get(name, found) != found} == {}
    assert built.keys() - tested.keys() <= {"tzdata"}
    assert len(re.findall(r"^\S+==[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(built)
