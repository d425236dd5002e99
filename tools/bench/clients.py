"""This benchmark tells what clients on all routes cost a job, beside one that is left alone.

Each job empties a node of a region made for it.  The clients are one process, each asks one route
after the other, once a second, on a connection that it keeps: of the manager, of the agents, and of
the metrics of both.  An answer of 5xx, and none, is an error.
"""

import argparse
import json
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import trio
from harness import parser, session
from results import Figure, Round, ratios, spread

from rebalancer_devregion import layout as layouts
from rebalancer_devregion.contents import write
from rebalancer_devregion.layout import AGENT_PORT, METRICS_PORT
from rebalancer_devregion.region import Region, make_region, running

MANAGER = ("/jobs", "/jobs/{id}", "/jobs/{id}/summary", "/jobs/{id}/objects", "/status", "/ping")
MANAGER_ONCE = ("/openapi.json", "/jobs/{id}/report")
AGENT = ("/ping", "/status", "/limits", "/assignments", "/assignments/{id}")
ENDED = ("Complete", "Failed", "Stopped")


FIGURES = {
    "objects": Figure("/s", "more"),
    "asked": Figure("requests", "more"),
    "errors": Figure("answers", "less"),
    "slowest": Figure("s", "less"),
}


# --- the clients ---------------------------------------------------------------------------


async def ask_for_ever(urls: list[str], clients: int) -> None:
    """Send requests until SIGTERM, then print how long they took."""
    statuses, slowest = Counter[str](), 0.0
    # One for all: each would read all authorities of the world for plain HTTP.
    no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def ask(number: int) -> None:
        nonlocal slowest
        chosen = random.Random(number).sample(urls, len(urls))
        # Not all at one moment, as no two people begin at one.
        await trio.sleep(number / clients)
        async with httpx.AsyncClient(timeout=30, verify=no_tls) as client:
            turn = number
            while True:
                begun = trio.current_time()
                try:
                    reply = await client.get(chosen[turn % len(chosen)])
                    statuses["5xx" if reply.status_code >= 500 else "answers"] += 1
                except httpx.HTTPError as exc:
                    statuses[type(exc).__name__] += 1
                slowest = max(slowest, trio.current_time() - begun)
                turn += 1
                await trio.sleep_until(begun + 1)

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(ask, number)
            print("asking", flush=True)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()
    print(json.dumps({"statuses": statuses, "slowest_s": slowest}), flush=True)


def routes(region: Region, job_id: str) -> list[str]:
    """Return every route that can be read; the costliest once, as a person would."""
    found = [region.url + path for path in MANAGER * 4 + MANAGER_ONCE]
    found.append(f"http://{region.layout.manager_address}:{METRICS_PORT}/metrics")
    for node in region.layout.nodes:
        found += [f"http://{node.address}:{AGENT_PORT}{path}" for path in AGENT]
        found.append(f"http://{node.address}:{METRICS_PORT}/metrics")
    return [url.replace("{id}", job_id) for url in found]


# --- the jobs ------------------------------------------------------------------------------


async def run_job(objects: int, clients: int, seed: int) -> Round:
    with tempfile.TemporaryDirectory(prefix="clients.") as folder:
        layout = layouts.plan(Path(folder) / "region", seed=seed, clones=False)
        layout.save()
        await trio.to_thread.run_sync(write, layout, objects)
        region = make_region(layout, manager_options={"final_scans": 0})
        async with running(region), httpx.AsyncClient(timeout=60) as client:
            body = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
            begun = time.monotonic()
            job_id = (await client.post(f"{region.url}/jobs", json=body)).text.strip()
            others = start_clients(region, job_id, clients)
            view: dict[str, Any] = {"state": "Init"}
            while view["state"] not in ENDED:
                await trio.sleep(0.2)
                view = (await client.get(f"{region.url}/jobs/{job_id}")).json()
            seconds = time.monotonic() - begun
            told = await trio.to_thread.run_sync(end_clients, others)
            await region.stop()
    if clients and not told["statuses"]:
        raise SystemExit("the job was over before a client had asked: take more objects")
    if view["state"] != "Complete":
        raise SystemExit(f"the job ended as {view['state']}")
    asked = sum(told["statuses"].values())
    errors = asked - told["statuses"].get("answers", 0)
    return {
        "objects": view["results"]["Total"] / seconds,
        "asked": asked,
        "errors": errors,
        "slowest": told["slowest_s"],
    }


def start_clients(region: Region, job_id: str, clients: int) -> "subprocess.Popen[str] | None":
    if not clients:
        return None
    command = [sys.executable, __file__, "--ask", *routes(region, job_id)]
    popen = subprocess.Popen(
        [*command, "--clients", str(clients)], stdout=subprocess.PIPE, text=True
    )
    assert popen.stdout is not None
    popen.stdout.readline()
    return popen


def end_clients(popen: "subprocess.Popen[str] | None") -> dict[str, Any]:
    if popen is None:
        return {"statuses": {}, "slowest_s": 0.0}
    popen.send_signal(signal.SIGTERM)
    out, _ = popen.communicate(timeout=60)
    told: dict[str, Any] = json.loads(out)
    return told


def main() -> None:
    options_of = parser(__doc__, rounds=3)
    options_of.add_argument("--objects", type=int, default=8000, help="in the region")
    options_of.add_argument("--clients", type=int, default=200)
    options_of.add_argument("--ask", nargs="+", help=argparse.SUPPRESS)
    options = options_of.parse_args()
    if options.ask:
        trio.run(ask_for_ever, options.ask, options.clients)
        return
    disturbed = f"{options.clients} clients"
    seeds = count(2)  # each two jobs have the same region

    def run(clients: int) -> Round:
        return trio.run(run_job, options.objects, clients, next(seeds) // 2)

    contenders = {"alone": partial(run, 0), disturbed: partial(run, options.clients)}
    with session("clients", FIGURES, options, {"memory": Path(tempfile.gettempdir())}) as made:
        rows = made.measure(f"{options.objects:,} objects", contenders)
        alone, with_clients = (row.values("objects") for row in rows)
        made.tell(f"of the throughput, with clients: {spread(ratios(with_clients, alone))}")


if __name__ == "__main__":
    main()
