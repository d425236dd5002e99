"""This module has the objects of a simulated region, each made of its number, and their fate.

Nothing of an object is kept but what was done with it: six bytes.
"""

from array import array
from collections import Counter

import attrs

from rebalancer.peers.moray.crc import record_etag

DOMAIN = "scale.lab"
DATACENTERS = ("dc1", "dc2", "dc3")
OWNER = "0a1b2c3d-0000-4000-8000-000000000001"
MD5 = "L9NrIZXTY37AYVZN9+gZ7w=="
#: The number of the first evacuated node; those that take objects begin at 1.
FIRST_ORIGIN = 9001
#: The largest number of one byte: what was done oftener was done so often.
MANY = 255

_MASK = (1 << 64) - 1
_NOTE = "x" * 200


def _mixed(number: int) -> int:
    """Return a number that looks random, another one for each of the 2^64 there are."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def _unmixed(mixed: int) -> int:
    """Return the number of which `_mixed` has made `mixed`."""
    mixed ^= (mixed >> 31) ^ (mixed >> 62)
    mixed = (mixed * pow(0x94D049BB133111EB, -1, 1 << 64)) & _MASK
    mixed ^= (mixed >> 27) ^ (mixed >> 54)
    mixed = (mixed * pow(0xBF58476D1CE4E5B9, -1, 1 << 64)) & _MASK
    return mixed ^ (mixed >> 30) ^ (mixed >> 60)


def object_id(number: int) -> str:
    """Return the id of an object, which tells its number to those who know how."""
    # Neither half is 0, and the second one looks random too.
    text = f"{_mixed(number + 1):016x}{_mixed(~number & _MASK):016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def number_of(known: str) -> int:
    """Return the number of the object that has an id: any number, if there is no such object."""
    return _unmixed(int(known[:8] + known[9:13] + known[14:18], 16)) - 1


@attrs.frozen
class Node:
    """This is a storage node of the simulated region."""

    name: str
    datacenter: str
    #: Seconds that its agent takes to answer a request.
    answer_s: float = 0.0


@attrs.frozen
class Shape:
    """A shape says how large a region is; a shard has `stride` ids for each object to be moved."""

    nodes: int
    shards: int
    objects: int
    jobs: int = 1
    slow: int = 0
    slow_s: float = 0.0
    stride: int = 50


class Objects:
    """This keeps what has become of all objects of a region.

    Object `n` is in shard `n % shards + 1`, in its slot `n // shards`; the jobs share the slots in
    turn.  Mutable state: for each object the node that has a copy of it, the node that its record
    names, and how often it was given to an agent and its record was written; and what was done
    that should not be.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.origins = [
            Node(f"{FIRST_ORIGIN + job}.stor.{DOMAIN}", DATACENTERS[0]) for job in range(shape.jobs)
        ]
        self.nodes = [
            Node(
                f"{index + 1}.stor.{DOMAIN}",
                DATACENTERS[index % 3],
                # Spread among the others, and over the datacenters.
                shape.slow_s if self._is_slow(index) else 0.0,
            )
            for index in range(shape.nodes)
        ]
        self.index_of = {node.name: index for index, node in enumerate(self.nodes)}
        self._holders = [
            index for index, node in enumerate(self.nodes) if node.datacenter != DATACENTERS[0]
        ]
        # 0 is none, `index + 1` a node.
        self.copied_to = array("H", bytes(2 * shape.objects))
        self.named = array("H", bytes(2 * shape.objects))
        self.given = bytearray(shape.objects)
        self.written = bytearray(shape.objects)
        self.moved_to = [0] * shape.nodes
        self.offences: Counter[str] = Counter()

    def _is_slow(self, index: int) -> bool:
        slow, nodes = self.shape.slow, self.shape.nodes
        return (index + 1) * slow // nodes > index * slow // nodes

    # --- what an object is -----------------------------------------------------------------

    def slots_of(self, shard: int) -> int:
        """Return how many objects a shard has."""
        return (self.shape.objects - shard) // self.shape.shards + 1

    def number(self, shard: int, slot: int) -> int:
        """Return the number of the object in a slot of a shard."""
        return slot * self.shape.shards + shard - 1

    def job_of(self, number: int) -> int:
        """Return which job moves an object."""
        return number // self.shape.shards % self.shape.jobs

    def key(self, number: int) -> str:
        """Return the key of an object's record."""
        return f"/{OWNER}/stor/logs/muskie/2026/{number % 28 + 1:02}/{number:09}.log"

    def holder(self, number: int) -> Node:
        """Return the node that has the object's other copy."""
        return self.nodes[self._holders[_mixed(number) % len(self._holders)]]

    def record(self, number: int, node: Node) -> str:
        """Return the text of an object's record, about as long as a real one, naming `node` first.

        The second one that it names is the holder of the other copy.
        """
        known, key, other = object_id(number), self.key(number), self.holder(number)
        folder, _, name = key.rpartition("/")
        return (
            f'{{"dirname":"{folder}","key":"{key}","headers":{{"m-note":"{_NOTE}"}},'
            f'"mtime":{1700000000000 + number},"name":"{name}","creator":"{OWNER}",'
            f'"owner":"{OWNER}","roles":[],"type":"object","contentLength":{1000 + number % 9000},'
            f'"contentMD5":"{MD5}","contentType":"text/plain","etag":"{known}",'
            f'"objectId":"{known}","sharks":['
            f'{{"datacenter":"{node.datacenter}","manta_storage_id":"{node.name}"}},'
            f'{{"datacenter":"{other.datacenter}","manta_storage_id":"{other.name}"}}],'
            f'"vnode":{number % 4096}}}'
        )

    def current(self, number: int) -> str:
        """Return the text of an object's record as it is now."""
        return self.record(number, self._first(number))

    def _first(self, number: int) -> Node:
        named = self.named[number]
        return self.nodes[named - 1] if named else self.origins[self.job_of(number)]

    # --- what is done with it ----------------------------------------------------------------

    def offend(self, what: str) -> None:
        """Count something that should not be done."""
        self.offences[what] += 1

    def give(self, node: int, known: str, owner: str, md5: str, source: str) -> int | None:
        """Give an object to the agent of a node; its number, unless the task is no good."""
        number = number_of(known)
        if not 0 <= number < self.shape.objects or object_id(number) != known:
            self.offend("a task of an object that there is not")
            return None
        if (owner, md5) != (OWNER, MD5):
            self.offend("a task with another owner or digest")
        if source not in (self.holder(number).name, self._first(number).name):
            self.offend("a task with a source that has no copy")
        self.given[number] = min(self.given[number] + 1, MANY)
        self.copied_to[number] = node + 1
        return number

    def write(self, number: int, name: str) -> None:
        """Let a record name the node `name` in place of the evacuated one."""
        node, other = self.index_of[name], self.holder(number)
        if self.named[number]:
            self.offend("a record written that had been moved")
        if self.copied_to[number] != node + 1:
            self.offend("a record that names a node without a copy")
        datacenter = self.nodes[node].datacenter
        if name == other.name or datacenter == other.datacenter:
            self.offend("a record with both copies in one place")
        self.named[number] = node + 1
        self.written[number] = min(self.written[number] + 1, MANY)
        self.moved_to[node] += 1

    # --- what became of all --------------------------------------------------------------------

    @property
    def moved(self) -> int:
        """Return how many objects have been moved."""
        return sum(self.moved_to)

    @property
    def moved_to_slow(self) -> int:
        """Return how many of them were moved to nodes whose agents are slow."""
        return sum(
            count for node, count in zip(self.nodes, self.moved_to, strict=True) if node.answer_s
        )

    def audit(self) -> dict[str, int]:
        """Count what is not as it must be once all jobs are done: nothing."""
        wrong = Counter(self.offences)
        wrong["objects not moved"] = self.named.count(0)
        wrong["records not written exactly once"] = self.shape.objects - self.written.count(1)
        wrong["objects not given exactly once"] = self.shape.objects - self.given.count(1)
        if self.named != self.copied_to:
            pairs = zip(self.named, self.copied_to, strict=True)
            wrong["records that name another node than the last copy's"] = sum(
                named != copied for named, copied in pairs
            )
        return {what: count for what, count in sorted(wrong.items()) if count}


def etag(text: str) -> str:
    """Return the etag of a record."""
    return record_etag(text)
