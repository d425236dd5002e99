"""A layout says where everything of a region is: its folder, its addresses, its description.

    <folder>/region.json             this description
    <folder>/shards/<n>.sqlite       the records of Moray shard n
    <folder>/nodes/<name>/manta/     the object root of a storage node
    <folder>/nodes/<name>/state/     the state of its agent
    <folder>/buckets/<n>/            the PostgreSQL of buckets shard n, if there are any
    <folder>/before.sqlite           every record and expectation as seeded, for the audit
    <folder>/writer.sqlite           what users changed while a job ran, for the audit
    <folder>/etc/, log/, manager/    configurations, logs, the manager's data_dir

Every part has a loopback address of its own in one 127.x.y.0/24, so all storage nodes use the
same ports, several regions can run side by side, and a part that is started again is found at
the place it had.
"""

import json
import random
import socket
from pathlib import Path

import attrs

from rebalancer.converter import structure

SOURCE_PORT = 8080  # the storage nodes' HTTP server: 80 would need privileges
AGENT_PORT = 7878
METRICS_PORT = 8878
MORAY_PORT = 2020
POSTGRES_PORT = 5432
MDAPI_PORT = 2030
STORINFO_PORT = 8081
MANAGER_PORT = 8880

_FIRST_NODE, _FIRST_SHARD, _FIRST_BUCKETS, _STORINFO, _MANAGER = 11, 201, 231, 240, 250


@attrs.frozen
class Node:
    """A node is one storage node; its sizes are in MiB, as its heartbeat reports them."""

    manta_storage_id: str
    datacenter: str
    address: str
    available_mb: int = 100_000
    percent_used: int = 40


@attrs.frozen
class Layout:
    """A layout is one region, and the folder it lies in."""

    folder: Path
    domain: str
    subnet: str  # its first three numbers
    seed: int
    nodes: tuple[Node, ...]
    shards: tuple[int, ...]
    #: The node to evacuate: read-only, so storinfo does not list it.
    evacuated: str
    #: Whether each shard has a PostgreSQL clone, frozen as it was when the servers started.
    clones: bool = False
    #: The shards of the buckets tier, by their numbers in it.
    buckets: tuple[int, ...] = ()

    def node(self, name: str) -> Node:
        """Return the storage node called `name`."""
        return next(node for node in self.nodes if node.manta_storage_id == name)

    def manta_root(self, name: str) -> Path:
        """Return the folder of a node's accounts."""
        return self.folder / "nodes" / name / "manta"

    def agent_state(self, name: str) -> Path:
        """Return the folder of a node's agent."""
        return self.folder / "nodes" / name / "state"

    def shard_file(self, number: int) -> Path:
        """Return the records of one shard."""
        return self.folder / "shards" / f"{number}.sqlite"

    @property
    def before_file(self) -> Path:
        """Return the records and expectations as they were seeded."""
        return self.folder / "before.sqlite"

    @property
    def journal_file(self) -> Path:
        """Return the file of what users changed meanwhile."""
        return self.folder / "writer.sqlite"

    def clone_host(self, number: int) -> str:
        """Return the name of a shard's PostgreSQL clone."""
        return f"{number}.rebalancer-postgres.{self.domain}"

    def moray_host(self, number: int) -> str:
        """Return the name of one shard."""
        return f"{number}.moray.{self.domain}"

    def moray_address(self, number: int) -> str:
        """Return the address of one shard."""
        return f"{self.subnet}.{_FIRST_SHARD + self.shards.index(number)}"

    def buckets_folder(self, number: int) -> Path:
        """Return the folder of the PostgreSQL of a buckets shard."""
        return self.folder / "buckets" / str(number)

    def buckets_primary(self, number: int) -> str:
        """Return the name of the PostgreSQL of a buckets shard."""
        return f"{number}.buckets-postgres.{self.domain}"

    def buckets_server(self, number: int) -> str:
        """Return the name of the buckets-mdapi of a buckets shard."""
        return f"{number}.buckets-mdapi.{self.domain}"

    def buckets_address(self, number: int) -> str:
        """Return the address of both."""
        return f"{self.subnet}.{_FIRST_BUCKETS + self.buckets.index(number)}"

    @property
    def storinfo_address(self) -> str:
        """Return the address of storinfo."""
        return f"{self.subnet}.{_STORINFO}"

    @property
    def manager_address(self) -> str:
        """Return the address of the manager."""
        return f"{self.subnet}.{_MANAGER}"

    @property
    def manager_url(self) -> str:
        """Return where the manager's API is."""
        return f"http://{self.manager_address}:{MANAGER_PORT}"

    @property
    def hosts(self) -> dict[str, str]:
        """Return the `hosts` table of every configuration of this region."""
        table = {node.manta_storage_id: node.address for node in self.nodes}
        for number in self.shards:
            table[self.moray_host(number)] = f"{self.moray_address(number)}:{MORAY_PORT}"
            if self.clones:
                table[self.clone_host(number)] = f"{self.moray_address(number)}:{POSTGRES_PORT}"
        for number in self.buckets:
            address = self.buckets_address(number)
            table[self.buckets_primary(number)] = f"{address}:{POSTGRES_PORT}"
            table[self.buckets_server(number)] = f"{address}:{MDAPI_PORT}"
        table[f"storinfo.{self.domain}"] = f"{self.storinfo_address}:{STORINFO_PORT}"
        return table

    def save(self) -> None:
        """Write `region.json`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = attrs.asdict(self, filter=lambda field, _value: field.name != "folder")
        (self.folder / "region.json").write_text(json.dumps(fields, indent=2))


def load(folder: Path) -> Layout:
    """Read the description of the region in `folder`.

    Raises:
      OSError: there is none.
    """
    fields = json.loads((folder / "region.json").read_text())
    return Layout(
        folder=folder,
        domain=fields["domain"],
        subnet=fields["subnet"],
        seed=fields["seed"],
        nodes=structure(fields["nodes"], tuple[Node, ...]),
        shards=tuple(fields["shards"]),
        evacuated=fields["evacuated"],
        clones=fields["clones"],
        buckets=tuple(fields.get("buckets", ())),
    )


def plan(
    folder: Path,
    *,
    nodes: int = 6,
    datacenters: int = 2,
    shards: tuple[int, ...] = (1, 2),
    domain: str = "demo.lab.test",
    seed: int = 1,
    clones: bool = False,
    buckets: tuple[int, ...] = (),
) -> Layout:
    """Describe a new region, in a loopback network that nothing uses yet; nothing is written."""
    subnet = _free_subnet()
    members = tuple(
        Node(
            manta_storage_id=f"{number}.stor.{domain}",
            datacenter=f"dc{(number - 1) % datacenters + 1}",
            address=f"{subnet}.{_FIRST_NODE + number - 1}",
            available_mb=100_000 + 1_000 * number,
        )
        for number in range(1, nodes + 1)
    )
    evacuated = members[0].manta_storage_id
    return Layout(folder, domain, subnet, seed, members, shards, evacuated, clones, buckets)


def _free_subnet() -> str:
    chance = random.SystemRandom()
    while True:
        subnet = f"127.{chance.randint(1, 254)}.{chance.randint(0, 254)}"
        with socket.socket() as probe:
            try:
                probe.bind((f"{subnet}.{_STORINFO}", STORINFO_PORT))
            except OSError:
                continue
            return subnet
