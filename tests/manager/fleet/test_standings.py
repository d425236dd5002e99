"""How each storage node stands, and why one is not used."""

import attrs
import pytest
import trio

from rebalancer.domain.objects import StorageNode
from rebalancer.domain.placement import MIB, Rules, why_unused
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.fleet.standings import node_standings

NODE = StorageNode("2.stor", "dc1", available_mb=5000, percent_used=50)


@pytest.mark.parametrize(
    ("rules", "excluded", "claimed", "words"),
    [
        (Rules(), [], 0, None),
        (Rules(), ["2.stor"], 0, "a job empties it"),
        (Rules(blacklist_datacenters=frozenset({"dc1"})), [], 0, "blacklist_datacenters"),
        (Rules(min_avail_mb=6000), [], 0, "min_avail_mb (6,000)"),
        (Rules(max_fill_percentage=50), [], 0, "full: max_fill_percentage is 50"),
        (Rules(), [], 5000 * MIB, "all its room is promised"),
    ],
)
def test_a_node_that_gets_nothing_has_its_cause(
    rules: Rules, excluded: list[str], claimed: int, words: str | None
) -> None:
    """The key of the configuration is named, where one is the cause."""
    why = why_unused(NODE, rules, excluded, claimed=claimed)
    assert why is None if words is None else why is not None and words in why


async def test_listed_nodes_and_those_of_jobs_are_shown(autojump_clock: trio.abc.Clock) -> None:
    """One that is away says so; one that failed lately is avoided, which is another thing."""
    ledger = FleetLedger()
    ledger.evacuated = {"1.stor"}
    ledger.health.set_away("3.stor", "GET 3.stor/limits: connection refused")
    ledger.health.failed("2.stor")
    ledger.entry("9.stor")
    nodes = [attrs.evolve(NODE, manta_storage_id=f"{number}.stor") for number in (1, 2, 3)]
    shown = {one.standing.shark: one for one in node_standings(ledger, nodes, Rules())}

    assert {name: one.unused for name, one in shown.items()} == {
        "1.stor": "a job empties it",
        "2.stor": None,
        "3.stor": "does not answer: connection refused",
        "9.stor": "storinfo does not list it",
    }
    assert shown["2.stor"].standing.avoided_for_s > 0
    assert (shown["2.stor"].node, shown["9.stor"].node) == (nodes[1], None)
    assert [one.unused for one in node_standings(FleetLedger(), [], Rules())] == []
