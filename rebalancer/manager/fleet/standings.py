"""This module gathers how every storage node stands as a destination, for people."""

import re
from collections.abc import Sequence

import attrs

from rebalancer.domain.objects import StorageNode
from rebalancer.domain.placement import Rules, why_unused
from rebalancer.manager.fleet.ledger import FleetLedger, Standing

#: How the error of a request begins, which is no news beside a node's name.
_WHAT_WAS_ASKED = re.compile(r"^[A-Z]+ \S+: ")


@attrs.frozen
class NodeStanding:
    """A storage node as all jobs see it now."""

    standing: Standing
    #: As storinfo lists it, if it does.
    node: StorageNode | None = None
    #: Why jobs give it nothing now; None: they may.
    unused: str | None = None


def node_standings(
    ledger: FleetLedger, nodes: Sequence[StorageNode], rules: Rules
) -> list[NodeStanding]:
    """Return every node that is listed or has to do with a job, by name."""
    listed = {node.manta_storage_id: node for node in nodes}
    away = dict(ledger.health.away())

    def why(one: Standing) -> str | None:
        if one.shark in away:
            return f"does not answer: {_WHAT_WAS_ASKED.sub('', away[one.shark])}"
        if (node := listed.get(one.shark)) is None:
            return "storinfo does not list it" if listed else None
        return why_unused(node, rules, ledger.evacuated, claimed=one.claimed)

    shown = ledger.snapshot(listed)
    return [NodeStanding(one, listed.get(one.shark), why(one)) for one in shown]
