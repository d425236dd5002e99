"""This module makes the objects that agents and their peers pull, and looks at what they pulled."""

import hashlib
import os
import uuid
from pathlib import Path

import attrs

OWNER = "0a1b2c3d-0000-4000-8000-000000000001"


@attrs.frozen
class Object:
    """An object is a file whose name is a UUID."""

    name: str
    size: int
    md5: bytes


@attrs.frozen
class Set:
    """A set has objects that lie below `root`/OWNER."""

    name: str
    root: Path
    objects: tuple[Object, ...]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.objects)


def make_set(name: str, folder: Path, count: int, size: int) -> Set:
    """Write so many different objects of one size, and return them."""
    root = folder / name
    (root / OWNER).mkdir(parents=True)
    block = os.urandom(min(size, 16 << 20))
    objects = []
    for number in range(count):
        made = Object(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {number}")), size, b"")
        digest = hashlib.md5(usedforsecurity=False)
        head = made.name.encode()
        with (root / OWNER / made.name).open("wb") as file:
            left = size
            while left:
                piece = (head + block)[: min(left, len(block))]
                file.write(piece)
                digest.update(piece)
                left -= len(piece)
        objects.append(attrs.evolve(made, md5=digest.digest()))
    return Set(name, root, tuple(objects))


def check(dataset: Set, folder: Path) -> None:
    """Fail unless every object is there and as long as it should be, and nothing else is.

    Their contents were checked by who pulled them.
    """
    for one in dataset.objects:
        assert (folder / one.name).stat().st_size == one.size, f"{folder / one.name} is not whole"
    assert len(list(folder.iterdir())) == len(dataset.objects)
