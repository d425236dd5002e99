"""Each target takes its kept inputs, and some thousand more that are made of them.

The inputs are the same in every run.  `tools/fuzz` looks for others, led by coverage; what it finds
is kept in `corpus`, by the name of its target.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
#: Inputs made of the kept ones: a second or two for each target.
ROUNDS = {
    "agent_file_bytes": 300,
    "agent_file_cells": 300,
    "job_file_bytes": 60,
    "job_file_cells": 60,
}
DEFAULT_ROUNDS = 3000


def kept(name: str) -> list[bytes]:
    found = sorted((CORPUS / name).glob("*"))
    return [*TARGETS[name][1], *(path.read_bytes() for path in found)]


def mutations(inputs: list[bytes], rounds: int, seed: str) -> Iterator[bytes]:
    rng = random.Random(seed)
    odd = [
        b"\0",
        b"\xff",
        b'"',
        b"\\ud800",
        b"1e999",
        b"[" * 300,
        b"-1",
        b"99999999999999999999",
        b"null",
    ]
    for _ in range(rounds):
        data = bytearray(rng.choice(inputs))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(data))
            match rng.randrange(5):
                case 0:
                    data[at : at + 1] = rng.randbytes(1)
                case 1:
                    del data[at : at + rng.randint(1, 8)]
                case 2:
                    data[at:at] = rng.choice(odd)
                case 3:
                    other = rng.choice(inputs)
                    begin = rng.randint(0, len(other))
                    data[at:at] = other[begin : begin + rng.randint(1, 40)]
                case _:
                    data[at:at] = data[at : at + rng.randint(1, 40)]
        yield bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_raises_what_nobody_expects(name: str) -> None:
    """What is kept, and what is made of it, is read or refused by a documented error."""
    target, inputs = TARGETS[name][0], kept(name)
    for data in inputs:
        target(data)
    for data in mutations(inputs, ROUNDS.get(name, DEFAULT_ROUNDS), name):
        try:
            target(data)
        except BaseException as exc:
            exc.add_note(f"the input was {data!r}")
            raise
