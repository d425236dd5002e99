"""This module puts destinations into the order in which they are tried.

A region has a thousand nodes and a job fifty million objects, so the order is made once for many
objects, and for each set of datacenters that an object must stay out of.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import attrs

from rebalancer.domain.objects import StorageNode


# Not frozen, because that takes three times as long to make, and there is one for each object.
@attrs.define
class Outlook:
    """An outlook says what a node can do for the next object, with `room` in bytes."""

    room: int
    #: The node has all the assignments it may have.
    is_busy: bool = False
    #: The node failed lately.
    is_avoided: bool = False
    #: The node does not answer: nothing can be given to it now.
    is_away: bool = False


@attrs.frozen
class Candidates:
    """The nodes that may be destinations, as they stood at one moment.  Made by `rank`."""

    #: In the order in which they are tried.
    nodes: tuple[StorageNode, ...]
    #: Bytes; none of them had room for more.
    most_room: int
    _datacenters: frozenset[str]
    #: The results of `outside`.
    _views: dict[frozenset[str], Sequence[StorageNode]] = attrs.field(factory=dict)

    def only(self, test: Callable[[StorageNode], bool]) -> "Candidates":
        """Return those of the nodes, in their order, that pass a test."""
        return Candidates(tuple(filter(test, self.nodes)), self.most_room, self._datacenters)

    def outside(self, datacenters: Collection[str]) -> Sequence[StorageNode]:
        """Return those of the nodes, in their order, that are in none of `datacenters`."""
        # Datacenters that only records name would make views without end.
        known = self._datacenters.intersection(datacenters)
        view = self._views.get(known)
        if view is None:
            view = tuple(node for node in self.nodes if node.datacenter not in known)
            self._views[known] = view
        return view


def rank(nodes: Iterable[StorageNode], look: Callable[[StorageNode], Outlook]) -> Candidates:
    """Rank the nodes: first those that can work at once, are sound, and have most room."""
    seen = [(node, look(node)) for node in nodes]
    seen.sort(
        key=lambda pair: (
            pair[1].is_away,
            pair[1].is_busy,
            pair[1].is_avoided,
            -pair[1].room,
            pair[0].manta_storage_id,
        )
    )
    return Candidates(
        tuple(node for node, _ in seen),
        max((outlook.room for _, outlook in seen), default=0),
        frozenset(node.datacenter for node, _ in seen),
    )
