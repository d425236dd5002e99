"""`rebalancer adm`: what an operator does with a manager, from a terminal or a script."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import click
import trio
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from rebalancer.errors import PeerError, RebalancerError
from rebalancer.peers.http import HttpClient, Reply, open_http
from rebalancer.peers.names import split_port
from rebalancer.rates import Rates

#: Seconds between two looks at a job that is watched.
WATCH_S = 0.5
#: Rates are means over this many seconds.
RATE_WINDOW_S = 10.0
#: A manager that was there and is away is waited for this many seconds.
PATIENCE_S = 60.0

_RUNNING = ("Init", "Setup", "Running")


class AdmError(RebalancerError):
    """The manager refused, or is not there."""


@attrs.frozen
class Manager:
    """The manager's API."""

    http: HttpClient
    host: str
    port: int

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """One request.

        Raises:
          AdmError: no answer, or an error; the text is the manager's.
        """
        try:
            reply = await self.http.request(method, self.host, path, port=self.port, body=body)
        except PeerError as exc:
            raise AdmError(f"no answer from the manager: {exc}") from exc
        if reply.status != 200:
            raise AdmError(f"{reply.text or 'no message'} (status {reply.status})")
        return reply


def _with_manager(url: str, work: Callable[[Manager], Any]) -> Any:
    where = split_port(url.removeprefix("http://").rstrip("/"), 80)

    async def run() -> Any:
        async with open_http({}) as http:
            return await work(Manager(http, where.host, where.port))

    return trio.run(run)


@click.group("adm", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    envvar="REBALANCER_URL",
    default="http://localhost",
    show_default=True,
    help="Where the manager is; also REBALANCER_URL.",
)
@click.pass_context
def adm(context: click.Context, url: str) -> None:
    """Ask the manager to make, list, show and watch jobs."""
    context.obj = url


@adm.group()
def job() -> None:
    """Jobs: each empties one storage node."""


@job.group()
def create() -> None:
    """Make a job."""


@create.command()
@click.option("-s", "--shark", required=True, help="Storage node to empty, e.g. 1.stor.")
@click.option(
    "-m",
    "--max_objects",
    "--max-objects",
    type=click.IntRange(min=0),
    help="Stop after so many objects; without it, or 0: all of them.",
)
@click.option(
    "--objects-file",
    help="Take the records that this file on the manager's machine names, without a scan: a line"
    ' {"key": ..., "shard": ...} each; the shard may be missing.',
)
@click.option("--strict", is_flag=True, help="Begin only if the pre-flight finds nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
@click.pass_obj
def evacuate(
    url: str,
    shark: str,
    max_objects: int | None,
    objects_file: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Make a job that moves every object off a storage node."""
    params = {"from_shark": shark, "max_objects": max_objects}
    if objects_file is not None:
        params["objects_file"] = objects_file
    if strict:
        params["strict"] = True
    body = {"action": "evacuate", "params": params}
    reply = _with_manager(url, lambda manager: manager.ask("POST", "/jobs", body))
    _echo_new_job(reply, as_json)


@job.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
@click.pass_obj
def list_jobs(url: str, as_json: bool) -> None:
    """List all jobs, oldest first."""
    reply = _with_manager(url, lambda manager: manager.ask("GET", "/jobs"))
    if as_json or not sys.stdout.isatty():
        _echo_json(reply, as_json)
        return
    table = Table("id", "action", "state")
    for row in reply.json():
        table.add_row(row["id"], row["action"], row["state"])
    Console().print(table)


@job.command()
@click.argument("uuid")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
@click.pass_obj
def get(url: str, uuid: str, as_json: bool) -> None:
    """Show one job and its counts."""
    reply = _with_manager(url, lambda manager: manager.ask("GET", f"/jobs/{uuid}"))
    if as_json or not sys.stdout.isatty():
        _echo_json(reply, as_json)
    else:
        view = reply.json()
        Console().print(counts_table(view), *notes(view), sep="\n", markup=False)


@job.command()
@click.argument("uuid")
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
@click.pass_obj
def retry(url: str, uuid: str, as_json: bool) -> None:
    """Make a job of what another one skipped or could not do."""
    reply = _with_manager(url, lambda manager: manager.ask("POST", f"/jobs/{uuid}/retry"))
    _echo_new_job(reply, as_json)


@job.command()
@click.argument("uuid")
@click.pass_obj
def watch(url: str, uuid: str) -> None:
    """Show a job's progress until it ends; exits 1 if it did not end well."""
    view = _with_manager(url, lambda manager: watch_job(manager, uuid, Console()))
    if view["state"] != "Complete":
        raise AdmError(f"job {uuid} is {view['state']}: {view.get('error', 'no cause given')}")


@job.command("set-threads")
@click.argument("uuid")
@click.argument("count", type=int)
@click.pass_obj
def set_threads(url: str, uuid: str, count: int) -> None:
    """Change how many metadata updates a running job makes at a time."""
    body = {"action": "set_metadata_threads", "params": count}
    _with_manager(url, lambda manager: manager.ask("PUT", f"/jobs/{uuid}", body))


def _echo_new_job(reply: Reply, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"id": reply.text}))
    else:
        _echo_as_predecessor(reply, reply.text)


def _echo_as_predecessor(reply: Reply, text: str) -> None:
    """The layout that scripts around the predecessor's command expect."""
    click.echo(f"\nserver version: {reply.headers.get('server', '')}\n{text}")


def _echo_json(reply: Reply, bare: bool) -> None:
    text = json.dumps(reply.json(), indent=2, ensure_ascii=False)
    if bare:
        click.echo(text)
    else:
        _echo_as_predecessor(reply, text)


# --- watching ----------------------------------------------------------------------------


def counts_table(view: Mapping[str, Any]) -> Table:
    """A job's counts, for a terminal."""
    shark = view["config"]["from_shark"]["manta_storage_id"]
    table = Table(shark, view["state"], box=box.SIMPLE)
    table.columns[1].justify = "right"
    for name, count in view["results"].items():
        table.add_row(name, f"{count:,}")
    return table


def notes(view: Mapping[str, Any]) -> list[str]:
    """What an operator should know of a job besides its counts: warnings, and what remains."""
    lines = [f"warning: {one['check']}: {one['detail']}" for one in view.get("warnings", ())]
    if (rounds := view.get("rounds")) and (remaining := rounds[-1]["remaining"]):
        lines.append(f"{remaining:,} records still name the shark: see table remaining")
    return lines


def settled(view: Mapping[str, Any]) -> tuple[int, int]:
    """How many objects have come to their end, and how many are known."""
    results = view["results"]
    done = results["Complete"] + results["Skipped"] + results["Error"]
    return done, results["Total"] - results["Duplicates"]


async def watch_job(manager: Manager, uuid: str, console: Console) -> dict[str, Any]:
    """Show progress until the job has ended; what it ended as.

    A manager that is being restarted is waited for.  Without a terminal to redraw, progress
    is a line each time.

    Raises:
      AdmError: the manager refuses, or was gone for a minute.
    """
    rates = Rates(RATE_WINDOW_S)
    seen_at = time.monotonic()
    with _live(console) as show:
        while True:
            try:
                view: dict[str, Any] = (await manager.ask("GET", f"/jobs/{uuid}")).json()
            except AdmError:
                if not rates.has_begun or time.monotonic() - seen_at > PATIENCE_S:
                    raise
                await trio.sleep(WATCH_S)
                continue
            seen_at = time.monotonic()
            rates.add(seen_at, settled(view)[0], view.get("bytes", {}).get("complete", 0))
            show(view, rates)
            if view["state"] not in _RUNNING:
                break
            await trio.sleep(WATCH_S)
    console.print(counts_table(view), *notes(view), sep="\n", markup=False)
    return view


@contextmanager
def _live(console: Console) -> Iterator[Callable[[Mapping[str, Any], Rates], None]]:
    """Something to show progress on: redrawn on a terminal, else line by line."""
    if not console.is_terminal:
        yield lambda view, rates: console.print(_progress_line(view, rates), highlight=False)
        return
    bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=None), expand=True)
    task = bar.add_task("", total=1)
    with Live(console=console, refresh_per_second=4, transient=True) as live:

        def show(view: Mapping[str, Any], rates: Rates) -> None:
            done, known = settled(view)
            bar.update(task, description=view["state"], completed=done, total=max(known, 1))
            live.update(Group(bar, _progress_line(view, rates), counts_table(view)))

        yield show


def _progress_line(view: Mapping[str, Any], rates: Rates) -> str:
    done, known = settled(view)
    objects, size = rates.per_s()
    # Discovery may still be finding more, so this is the least it can take.
    eta = f"{(known - done) / objects:,.0f} s" if objects else "unknown"
    scans = view.get("scans", ())
    # Only the last round moves.
    last = max((scan.get("round", 0) for scan in scans), default=0)
    scans = [scan for scan in scans if scan.get("round", 0) == last]
    scanned = sum(scan["position"] for scan in scans) / max(sum(scan["until"] for scan in scans), 1)
    again = f" again ({last})" if last else ""
    return (
        f"{scanned:.0%} scanned{again}   {done:,}/{known:,} objects settled"
        f"   {objects:,.0f} objects/s   {size / 1e6:,.1f} MB/s   time left: {eta}"
    )
