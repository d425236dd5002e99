"""How well an agent keeps a limit of bandwidth, and follows its changes while it works.

A real agent pulls 256 KiB objects from nginx over sixteen transfers; what arrived is counted on
its disk over each span of time.  The first second after a change is not counted.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from agent import OWNER, assignments, client, make_set, running_agent, work_off
from rich.console import Console
from rich.table import Table

from rebalancer.devregion.nginx import serving
from rebalancer.devregion.processes import find_program

SIZE = 256 << 10


def arrived(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) * SIZE if folder.is_dir() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each limit")
    parser.add_argument("--mb", type=int, nargs="+", default=[20, 60, 5], help="limits, MB/s")
    options = parser.parse_args()
    if (program := find_program("nginx")) is None:
        sys.exit("nginx is not installed: there is nothing to pull from")
    total = sum(options.mb) * 1e6 * (options.seconds + 1.5)
    table = Table("limit MB/s", "MB/s", "off by", title=f"over {options.seconds:g} s each")
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        folder = Path(name)
        dataset = make_set("bandwidth", folder, int(total / SIZE) + 200, SIZE)
        with (
            serving(program, folder, dataset.root, 60) as port,
            running_agent(folder / "agent", port, durable=False) as (address, _),
        ):
            limit(address, options.mb[0])
            work = threading.Thread(target=work_off, args=(address, assignments(dataset)))
            work.start()
            target = folder / "agent" / "manta" / OWNER
            for rate in options.mb:
                limit(address, rate)
                time.sleep(1)
                before, begun = arrived(target), time.monotonic()
                time.sleep(options.seconds)
                passed = time.monotonic() - begun
                flowed = (arrived(target) - before) / 1e6 / passed
                table.add_row(str(rate), f"{flowed:.2f}", f"{flowed / rate - 1:+.1%}")
            limit(address, None)
            work.join()
    Console().print(table)


def limit(address: str, rate: int | None) -> None:
    value = None if rate is None else rate * 1_000_000
    client(address)("PUT", "/limits", json.dumps({"bandwidth_bytes_per_s": value}).encode())


if __name__ == "__main__":
    main()
