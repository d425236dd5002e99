"""The order of destinations."""

from rebalancer.domain.candidates import Outlook, rank
from rebalancer.domain.objects import StorageNode

OUTLOOKS = {
    "a": Outlook(10),
    "b": Outlook(30),
    "c": Outlook(99, is_avoided=True),
    "d": Outlook(99, is_busy=True),
    "e": Outlook(20),
    "f": Outlook(20),
}
NODES = [StorageNode(name, f"dc{i % 2}", 1, 1) for i, name in enumerate(OUTLOOKS)]


def test_sound_and_idle_ones_with_most_room_come_first() -> None:
    """Busy ones last, because they fit nobody now; equals by name."""
    ranked = rank(NODES, lambda node: OUTLOOKS[node.manta_storage_id])
    assert "".join(node.manta_storage_id for node in ranked.nodes) == "befacd"
    assert ranked.most_room == 99


def test_views_keep_the_order_and_do_not_pile_up() -> None:
    """Names of datacenters that no node has make no view of their own."""
    ranked = rank(NODES, lambda node: OUTLOOKS[node.manta_storage_id])
    view = ranked.outside({"dc0"})
    assert "".join(node.manta_storage_id for node in view) == "bfd"
    assert all(ranked.outside({"dc0", f"unheard of {n}"}) is view for n in range(9))
    assert ranked.outside({"dc0", "dc1"}) == ()
