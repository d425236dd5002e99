"""The network of a region under faults leads every connection through a link."""

from rebalancer_devregion.chaos.links import Link
from rebalancer_devregion.layout import (
    AGENT_PORT,
    MORAY_PORT,
    SOURCE_PORT,
    STORINFO_PORT,
    Layout,
)

#: A link's address ends in the number of the address behind it plus this.
_BEYOND = {"agent": 60, "source": 60, "moray": 20, "storinfo": 1}


def make_links(layout: Layout, late_s: float) -> dict[str, Link]:
    """Make a link before every server of a region, by the names that faults use.

    Agents and Morays answer `late_s` seconds late.
    """
    links = []
    for number, node in enumerate(layout.nodes, 1):
        for kind, port in (("agent", AGENT_PORT), ("source", SOURCE_PORT)):
            host = _beyond(node.address, kind)
            late = late_s if kind == "agent" else 0.0
            name = f"{kind}-{number}"
            links.append(Link(name, host, port, node.address, port, late_s=late))
    for number in layout.shards:
        address = layout.moray_address(number)
        host = _beyond(address, "moray")
        name, port = f"moray-{number}", MORAY_PORT
        links.append(Link(name, host, port, address, port, framed=True, late_s=late_s))
    address = layout.storinfo_address
    host = _beyond(address, "storinfo")
    links.append(Link("storinfo", host, STORINFO_PORT, address, STORINFO_PORT))
    return {link.name: link for link in links}


def hosts(layout: Layout) -> dict[str, str]:
    """Make the `hosts` table of the programs, by which they connect to links."""
    table = {node.manta_storage_id: _beyond(node.address, "agent") for node in layout.nodes}
    for number in layout.shards:
        host = _beyond(layout.moray_address(number), "moray")
        table[layout.moray_host(number)] = f"{host}:{MORAY_PORT}"
    host = _beyond(layout.storinfo_address, "storinfo")
    table[f"storinfo.{layout.domain}"] = f"{host}:{STORINFO_PORT}"
    return table


def _beyond(address: str, kind: str) -> str:
    network, _, last = address.rpartition(".")
    return f"{network}.{int(last) + _BEYOND[kind]}"
