"""The simulated region tells what a manager does wrong, and a small job in it comes to its end."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import Results
from simulated.objects import MD5, OWNER, Objects, Shape, number_of, object_id

SCALE = Path(__file__).parents[2] / "tools" / "bench" / "scale.py"
SHAPE = Shape(nodes=6, shards=2, objects=4)


@given(st.integers(0, 2**48))
def test_an_id_tells_the_number_of_its_object(number: int) -> None:
    """So nothing need be kept to find an object that an agent is given."""
    assert number_of(object_id(number)) == number


def move(objects: Objects, number: int, *, given: int = 1, written: int = 1) -> None:
    """Do with an object what a manager does: give it to an agent, then write its record."""
    node = next(n for n in objects.nodes if n.datacenter == "dc1")
    index, source = objects.index_of[node.name], objects.holder(number).name
    for _ in range(given):
        objects.give(index, object_id(number), OWNER, MD5, source)
    for _ in range(written):
        objects.write(number, node.name)


def test_a_job_that_moves_all_passes_the_audit() -> None:
    """Each object is given once and written once."""
    objects = Objects(SHAPE)
    for number in range(SHAPE.objects):
        move(objects, number)
    assert objects.audit() == {}
    assert objects.moved == SHAPE.objects


@pytest.mark.parametrize(
    ("given_to", "written", "wrong"),
    [
        (1, 0, "objects not moved"),
        (0, 1, "a record that names a node without a copy"),
        (2, 1, "objects not given exactly once"),
        (1, 2, "a record written that had been moved"),
    ],
)
def test_the_audit_finds_what_is_wrong_with_one_object(
    given_to: int, written: int, wrong: str
) -> None:
    """The others are as they should be."""
    objects = Objects(SHAPE)
    for number in range(1, SHAPE.objects):
        move(objects, number)
    move(objects, 0, given=given_to, written=written)
    assert wrong in objects.audit()


def test_the_audit_finds_both_copies_in_one_datacenter() -> None:
    """The datacenter that has the other copy already is closed to an object."""
    objects = Objects(SHAPE)
    other = objects.holder(0)
    near = next(n for n in objects.nodes if n.datacenter == other.datacenter and n is not other)
    objects.give(objects.index_of[near.name], object_id(0), OWNER, MD5, other.name)
    objects.write(0, near.name)
    assert "a record with both copies in one place" in objects.audit()


# Not the programs, but the simulation of a large region, needs these.
@pytest.mark.native("msgspec")
@pytest.mark.native("fastcrc")
@pytest.mark.process
def test_small_jobs_of_a_real_manager_move_every_object_once(tmp_path: Path) -> None:
    """The benchmark itself, with few objects: two jobs at once, and an agent that is slow."""
    told = tmp_path / "told.json"
    options = ["--objects", "600", "--nodes", "12", "--shards", "3", "--jobs", "2", "--no-bases"]
    slow = ["--slow-share", "0.1", "--slow-s", "0.2", "--json", str(told)]
    command = [sys.executable, str(SCALE), *options, *slow, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, *parts = Results.load(told).rows
    assert (whole.setting, whole.contender) == (
        "12 nodes, 1 of them slow, 3 shards, 2 jobs",
        "600 objects",
    )
    assert whole.values("wrong") == [0]
    assert parts[-1].contender == "100 % moved"
