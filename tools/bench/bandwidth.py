"""This benchmark tells how well an agent keeps a limit of bandwidth, and follows its changes.

A real agent pulls 256 KiB objects from nginx over sixteen transfers; what arrived is counted on
its disk over each span of time.  The first second after a change is not counted.
"""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from agentclient import Client, assignments, work_off
from agentprocess import running_agent
from harness import in_memory, parser, session
from objects import OWNER, make_set
from results import Figure, Row

from rebalancer_devregion.nginx import serving
from rebalancer_devregion.processes import find_program

SIZE = 256 << 10
FIGURES = {"flow": Figure("MB/s", "more"), "off": Figure("% of the limit", "less")}


def arrived(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) * SIZE if folder.is_dir() else 0


def measured(client: Client, target: Path, rate: int, seconds: float) -> dict[str, float]:
    """Set a limit and count what arrives under it."""
    limit(client, rate)
    time.sleep(1)
    before, begun = arrived(target), time.monotonic()
    time.sleep(seconds)
    flow = (arrived(target) - before) / 1e6 / (time.monotonic() - begun)
    return {"flow": flow, "off": abs(flow / rate - 1) * 100}


def limit(client: Client, rate: int | None) -> None:
    value = None if rate is None else rate * 1_000_000
    client.ask("PUT", "/limits", json.dumps({"bandwidth_bytes_per_s": value}).encode())


def main() -> None:
    options_of = parser(__doc__, rounds=1)
    options_of.add_argument("--seconds", type=float, default=10.0, help="of each limit")
    options_of.add_argument("--mb", type=int, nargs="+", default=[20, 60, 5], help="limits, MB/s")
    options = options_of.parse_args()
    if (program := find_program("nginx")) is None:
        sys.exit("nginx is not installed: there is nothing to pull from")
    total = sum(options.mb) * 1e6 * (options.seconds + 1.5) * options.rounds
    with tempfile.TemporaryDirectory(dir=in_memory()) as name:
        folder = Path(name)
        dataset = make_set("bandwidth", folder, int(total / SIZE) + 200, SIZE)
        with (
            session("bandwidth", FIGURES, options, {"memory": folder}) as made,
            serving(program, folder, dataset.root, 60) as port,
            running_agent(folder / "agent", port, durable=False) as agent,
        ):
            client, worker = Client(agent.address), Client(agent.address)
            wanted = assignments(dataset.objects, agent.address, agent.source)
            limit(client, options.mb[0])
            work = threading.Thread(target=work_off, args=(worker, wanted))
            work.start()
            rows = [Row(f"over {options.seconds:g} s", f"{rate} MB/s", []) for rate in options.mb]
            for _ in range(options.rounds):
                for rate, row in zip(options.mb, rows, strict=True):
                    row.rounds.append(measured(client, agent.root / OWNER, rate, options.seconds))
            made.add(rows)
            limit(client, None)
            work.join()


if __name__ == "__main__":
    main()
