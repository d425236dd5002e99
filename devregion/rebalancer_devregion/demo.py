"""The demonstration is a whole evacuation, watched, perhaps with two kills, then audited."""

import json
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rebalancer.adm.client import Access, AdmError, open_manager
from rebalancer.adm.watch import watch_job
from rebalancer.archive import itself
from rebalancer.peers.http import open_http
from rebalancer_devregion.audit import audit
from rebalancer_devregion.buckets.users import change_rows
from rebalancer_devregion.checks import Audit, Check
from rebalancer_devregion.frontend import leak
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.making import make
from rebalancer_devregion.processes import ProcessError
from rebalancer_devregion.region import Region, make_region, running
from rebalancer_devregion.servers import access_log
from rebalancer_devregion.transfers import fetched_again, recorded_tasks
from rebalancer_devregion.writer import change_objects, read_journal

#: The kills happen when this share of the objects is complete.
KILL_MANAGER_AT, KILL_AGENT_AT = 0.25, 0.5
#: How long the killed programs stay away, in seconds.
AWAY_S = 1.0
#: Users change this share of the objects, one every so many seconds.
CHANGED, CHANGE_EVERY_S = 0.1, 0.005
_LOOK_S = 0.05


@attrs.define
class Findings:
    """Findings are what went wrong, if anything.  Mutable state: the list."""

    texts: list[str] = attrs.field(factory=list)

    def check(self, holds: bool, text: str) -> None:
        """Note `text` unless it `holds`."""
        if not holds:
            self.texts.append(text)


@attrs.frozen
class Wishes:
    """Wishes say what to show besides a plain evacuation."""

    kill: bool = False
    mixed: bool = False
    writer: bool = False
    keep: bool = False


async def run(layout: Layout, objects: int, wishes: Wishes) -> bool:
    """Show the whole demonstration; return whether every check held.

    Raises:
      ProcessError: a program of the region did not start.
    """
    console = Console()
    begun = time.monotonic()
    layout.save()
    console.out(f"making a region in {layout.folder} ...")
    summary = await make(layout, objects, console)
    console.out(f"{summary}   ({time.monotonic() - begun:.1f} s)")
    options = _mixed(layout) if wishes.mixed else {}
    region, findings = make_region(layout, manager_options=options), Findings()
    clones = " with PostgreSQL clones" if layout.clones else ""
    buckets = f", {len(layout.buckets)} buckets shards" if layout.buckets else ""
    async with running(region):
        console.out(
            f"running: {len(layout.shards)} Moray shards{clones}{buckets}, storinfo,"
            f" {len(layout.nodes)} storage nodes with their agents, the manager at {region.url}"
        )
        console.out(f"look at it in a browser: {region.url}/")
        job_id = await _create_job(region)
        console.out(f"job {job_id} empties {layout.evacuated}")
        await _evacuate(console, region, job_id, findings, wishes)
        await _check_counts(region, job_id, findings)
        console.print(reason_table(region.job_file(job_id)))
        console.print(remaining_table(region.job_file(job_id)))
        report = await trio.to_thread.run_sync(audit, layout, region.job_file(job_id))
        console.print(audit_table(report))
        findings.check(report.ok, "the audit found violations")
        if wishes.mixed:
            table = await trio.to_thread.run_sync(_spoken, layout, findings)
            console.print(table)
        if wishes.keep:
            await _stay(console, region, job_id)
        await region.stop()
    for text in findings.texts:
        console.print(f"[bold red]FAILED[/] {escape(text)}")
    if not findings.texts:
        console.print(f"[bold green]every check holds[/]   ({time.monotonic() - begun:.1f} s)")
    return not findings.texts


async def _adm(region: Region, *args: str) -> tuple[int, str]:
    """Run the operator's command as a process; return its status and output."""
    done = await trio.run_process(
        [*itself(), "-m", "rebalancer", "adm", "--url", region.url, *args],
        capture_stdout=True,
        check=False,
    )
    return done.returncode, done.stdout.decode()


def _mixed(layout: Layout) -> dict[str, Any]:
    """Return options of a manager that speaks to half of the agents in the other dialect."""
    half = layout.nodes[1 : 1 + len(layout.nodes) // 2]
    forms = {node.manta_storage_id: "tagged-array" for node in half}
    # What an agent was told is read from the files that it keeps.
    return {"agent_dialects": forms, "delete_assignments": False}


def _spoken(layout: Layout, findings: Findings) -> Table:
    """Return the dialects of what each agent was given, by its files.  Blocking."""
    table = Table("agent", "legacy", "tagged", title="assignments by dialect")
    wanted = _mixed(layout)["agent_dialects"]
    for node in layout.nodes:
        name, counts = node.manta_storage_id, Counter[str]()
        for path in (layout.agent_state(name) / "completed").iterdir():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                counts.update(
                    dialect for (dialect,) in db.execute("SELECT dialect FROM rebalancer")
                )
        table.add_row(name, str(counts["legacy"]), str(counts["tagged"]))
        expected = "tagged" if name in wanted else "legacy"
        findings.check(set(counts) <= {expected}, f"{name}: expected {expected} only")
    return table


async def _create_job(region: Region) -> str:
    shark = region.layout.evacuated.removesuffix(f".{region.layout.domain}")
    status, text = await _adm(region, "job", "create", "evacuate", "--shark", shark, "--json")
    if status:
        raise ProcessError("the job could not be created")
    return str(json.loads(text)["id"])


async def _evacuate(
    console: Console, region: Region, job_id: str, findings: Findings, wishes: Wishes
) -> None:
    begun = time.monotonic()
    kills = Kills()
    async with trio.open_nursery() as users:
        if wishes.writer:
            users.start_soon(_change, console, region)
        async with trio.open_nursery() as nursery:
            if wishes.kill:
                nursery.start_soon(_kill_both, console, region, job_id, kills)
            await _watch(console, region, job_id, findings)
            # If the job was over before the kills, there is nothing to wait for.
            nursery.cancel_scope.cancel()
    console.out(f"the job took {time.monotonic() - begun:.1f} s")
    if wishes.kill:
        await trio.to_thread.run_sync(_check_kills, console, region, kills, findings)


async def _watch(console: Console, region: Region, job_id: str, findings: Findings) -> None:
    # Not as a process: by the time that it had started, the manager might be away already.
    async with open_manager(Access(region.url)) as manager:
        try:
            # It may be killed before it was seen.
            view = await watch_job(manager, job_id, console, patient=True)
        except AdmError as exc:
            findings.check(False, str(exc))
        else:
            findings.check(view.state == "Complete", "the job did not end as complete")


async def _change(console: Console, region: Region) -> None:
    begun = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(change_objects, region.layout, CHANGED, CHANGE_EVERY_S)
        nursery.start_soon(leak, region.layout)
        if region.layout.buckets:
            nursery.start_soon(_change_buckets, console, region)
    changes, _ = await trio.to_thread.run_sync(read_journal, region.layout.journal_file)
    kinds = Counter(change.kind.value for change in changes.values())
    shown = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    console.out(f"users changed objects for {time.monotonic() - begun:.1f} s: {shown}")


async def _change_buckets(console: Console, region: Region) -> None:
    # Not to be cancelled, like the other changes.
    done = await trio.to_thread.run_sync(change_rows, region.layout, CHANGED, CHANGE_EVERY_S)
    shown = ", ".join(f"{kind} {count}" for kind, count in done.items())
    console.out(f"users changed bucket objects: {shown}")


async def _progress(region: Region, job_id: str) -> float:
    """Return the share of objects met so far that are complete; 0 while the manager is away."""
    host, _, port = region.url.removeprefix("http://").partition(":")
    async with open_http({}) as http:
        reply = await http.request("GET", host, f"/jobs/{job_id}", port=int(port))
    results = reply.json()["results"]
    return float(results["Complete"] / max(1, results["Total"]))


async def _reach(region: Region, job_id: str, share: float) -> None:
    while await _progress(region, job_id) < share:  # noqa: ASYNC110 - in another process
        await trio.sleep(_LOOK_S)


@attrs.define
class Kills:
    """Kills are the processes that were killed: the manager first, then an agent."""

    manager: bool = False
    agent: str = ""
    agent_at: float = 0.0
    recorded: frozenset[str] = frozenset()


async def _kill_both(console: Console, region: Region, job_id: str, kills: Kills) -> None:
    """Kill the manager, then an agent, and start each again after a while."""
    await _reach(region, job_id, KILL_MANAGER_AT)
    console.out(f"SIGKILL to the manager (pid {region.manager.pid})")
    region.manager.kill()
    await trio.sleep(AWAY_S)
    await region.manager.start()
    kills.manager = True
    console.out(f"the manager runs again (pid {region.manager.pid})")
    await _reach(region, job_id, KILL_AGENT_AT)
    name = await trio.to_thread.run_sync(_busiest, region.layout)
    agent = region.agents[name]
    console.out(f"SIGKILL to the agent of {name} (pid {agent.pid})")
    agent.kill()
    kills.agent_at = time.time()
    state = region.layout.agent_state(name)
    kills.recorded = await trio.to_thread.run_sync(recorded_tasks, state)
    await trio.sleep(AWAY_S)
    await agent.start()
    kills.agent = name
    console.out(f"the agent of {name} runs again (pid {agent.pid})")


def _busiest(layout: Layout) -> str:
    """Return the node whose agent has most to do now, and never the evacuated one."""
    waiting = {
        node.manta_storage_id: sum(
            1 for _ in (layout.agent_state(node.manta_storage_id) / "scheduled").glob("*")
        )
        for node in layout.nodes
        if node.manta_storage_id != layout.evacuated
    }
    return max(waiting, key=lambda name: waiting[name])


def _check_kills(console: Console, region: Region, kills: Kills, findings: Findings) -> None:
    findings.check(kills.manager, "the job was over before the manager could be killed")
    findings.check(bool(kills.agent), "the job was over before an agent could be killed")
    logs = [access_log(region.layout, node.manta_storage_id) for node in region.layout.nodes]
    again = fetched_again(logs, kills.recorded, kills.agent_at)
    console.out(
        f"{len(kills.recorded):,} tasks were on the killed agent's record as copied;"
        f" {len(again)} of them were fetched again"
    )
    findings.check(not again, f"fetched again though recorded: {again[:3]}")


async def _check_counts(region: Region, job_id: str, findings: Findings) -> None:
    """Compare the API's counts with the rows."""
    host, _, port = region.url.removeprefix("http://").partition(":")
    async with open_http({}) as http:
        reply = await http.request("GET", host, f"/jobs/{job_id}", port=int(port))
    results = reply.json()["results"]
    rows = await trio.to_thread.run_sync(count_rows, region.job_file(job_id))
    shown = {
        status: results[status.replace("_", " ").title()]
        for status in ("unprocessed", "assigned", "skipped", "error", "post_processing", "complete")
    }
    expected = {status: rows.get(status, 0) for status in shown}
    findings.check(shown == expected, f"the API says {shown}, the rows are {expected}")
    warnings = reply.json()["warnings"]
    findings.check(not warnings, f"the pre-flight found {warnings}")


def count_rows(job_file: Path) -> dict[str, int]:
    """Return the objects of a job by status, counted from its rows.  Blocking."""
    with closing(sqlite3.connect(f"{job_file.as_uri()}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT status, count(*) FROM evacuateobjects GROUP BY status"))


def reason_table(job_file: Path) -> Table:
    """Return a job's objects by status and reason, counted from the rows."""
    columns = ("status", "reason", "objects", "of buckets", "bytes")
    table = Table(*columns, title="what became of the objects")
    with closing(sqlite3.connect(f"{job_file.as_uri()}?mode=ro", uri=True)) as db:
        for status, reason, objects, of_buckets, size in db.execute(
            "SELECT status, coalesce(skipped_reason, error, outcome, ''), count(*),"
            " count(*) FILTER (WHERE shard < 0), sum(bytes)"
            " FROM evacuateobjects GROUP BY 1, 2 ORDER BY 1, 2"
        ):
            table.add_row(status, reason, f"{objects:,}", f"{of_buckets:,}", f"{size:,}")
    return table


def remaining_table(job_file: Path) -> Table:
    """Return what final scans found, and the records that still name the node, by reason."""
    table = Table("", "records", "of buckets", title="what the final scans found")
    with closing(sqlite3.connect(f"{job_file.as_uri()}?mode=ro", uri=True)) as db:
        for number, found in db.execute("SELECT round, found FROM rounds ORDER BY round"):
            table.add_row(f"round {number}: moved", f"{found:,}")
        for why, records, of_buckets in db.execute(
            "SELECT why, count(*), count(*) FILTER (WHERE shard < 0) FROM remaining"
            " GROUP BY 1 ORDER BY 1"
        ):
            table.add_row(f"remains: {why}", f"{records:,}", f"{of_buckets:,}")
    return table


def audit_table(report: Audit) -> Table:
    """Return the audit, an invariant a line, by tier, with its first offenders."""
    tiers = {"directory tier": report.checks, "buckets tier": report.buckets}
    shown = {tier: {one.number: one for one in checks} for tier, checks in tiers.items() if checks}
    table = Table("", "invariant", *shown, title="audit: what was checked, by tier")
    titles = {one.number: one.title for checks in tiers.values() for one in checks}
    for number, title in titles.items():
        found = [checks.get(number) for checks in shown.values()]
        table.add_row(str(number), title, *map(_result, found))
        for offender in [text for check in found if check for text in check.offenders]:
            table.add_row("", f"[red]{escape(offender)}[/]")
    return table


def _result(check: Check | None) -> str:
    if check is None:
        return ""
    return f"{check.checked:,} {'[green]holds[/]' if check.ok else '[red]VIOLATED[/]'}"


async def _stay(console: Console, region: Region, job_id: str) -> None:
    url = region.url
    console.out(
        f"the region keeps running; Ctrl-C ends it.\n"
        f"  rebalancer adm --url {url} job list\n"
        f"  rebalancer adm --url {url} job get {job_id}\n"
        f"  rebalancer adm --url {url} job create evacuate --shark 2.stor\n"
        f"  rebalancer adm --url {url} job create verify --job {job_id}\n"
        f"  curl {url}/jobs/{job_id}\n"
        f"  sqlite3 {region.job_file(job_id)} 'SELECT skipped_reason, count(*)"
        f" FROM evacuateobjects GROUP BY 1'"
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
