"""The operator's commands against the real API, over a real socket; its agents are not there."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import trio
from click.testing import CliRunner, Result

from rebalancer import __version__
from rebalancer.adm import exits, following
from rebalancer.adm.client import AdmError
from rebalancer.adm.commands import adm, job
from rebalancer.daemon import Listen, listen
from rebalancer.errors import StoreError
from rebalancer.manager.actions.evacuate import plan
from rebalancer.manager.jobs.running import RunningJob
from tests.adm.scripted import scripted
from tests.logs import capture_logs
from tests.manager.http.test_api import Rig, open_rig, refusing_agents
from tests.manager.http.test_plans import failing, hold_search
from tests.manager.jobs.test_control import SMALL


@attrs.frozen
class Operator:
    """Somebody with the command, and the manager's own side."""

    url: str
    rig: Rig

    async def __call__(self, *args: str, typed: str = "") -> Result:
        def invoke() -> Result:
            return CliRunner().invoke(adm, ["--url", self.url, *args], input=typed)

        return await trio.to_thread.run_sync(invoke)

    async def done(self, *args: str, typed: str = "") -> str:
        """Standard output of a command that succeeds."""
        result = await self(*args, typed=typed)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    async def refused(self, *args: str, typed: str = "") -> str:
        """The message of one that does not."""
        result = await self(*args, typed=typed)
        assert result.exit_code == 1
        return str(result.exception)


@asynccontextmanager
async def operator(folder: Path, **options: Any) -> AsyncIterator[Operator]:
    # The manager's log would go to the standard output that a command is given here.
    with capture_logs():
        async with (
            open_rig(folder, options=SMALL, **options) as rig,
            trio.open_nursery() as nursery,
        ):
            stopping = trio.Event()
            where = await listen(nursery, rig.client.app, Listen("127.0.0.1", 0), stopping)
            yield Operator(f"http://{where}", rig)
            stopping.set()


def running(rig: Rig, job_id: str) -> RunningJob:
    return rig.jobs.running[job_id]


async def test_scripts_read_what_they_read_from_the_predecessor(tmp_path: Path) -> None:
    """An empty line, the server's version, then the id or indented JSON; bare with --json."""
    async with operator(tmp_path) as run:
        head = f"\nserver version: rebalancer-manager {__version__}\n"
        created = await run.done("job", "create", "evacuate", "-s", "1.stor", "-m", "7")
        # The predecessor printed the answer's newline, and one more.
        job_id = created.removeprefix(head).removesuffix("\n\n")
        assert len(job_id) == 36
        await run.rig.reach(job_id, "Complete")
        rows = await (await run.rig.client.get("/jobs")).get_json()
        known = {"id": job_id, "action": "Evacuate", "state": "Complete", "verdict": "partial"}
        view = await run.rig.get(job_id)

        assert [{name: row[name] for name in known} for row in rows] == [known]
        assert view["config"]["max_objects"] == 7
        assert (
            await run.done("job", "list") == f"{head}{json.dumps(rows, indent=2, sort_keys=True)}\n"
        )
        shown = json.dumps(view, indent=2, sort_keys=True)
        assert await run.done("job", "get", job_id) == f"{head}{shown}\n"
        assert json.loads(await run.done("job", "list", "--json")) == rows
        assert json.loads(await run.done("job", "get", job_id[:6], "--json")) == view
        retried = (await run.done("job", "retry", job_id[:6])).removeprefix(head)
        listed = json.loads(await run.done("job", "list", "--json"))
        assert [row["id"] for row in listed] == [job_id, retried.strip()]
        assert retried.endswith("\n")
        again = json.loads(await run.done("job", "retry", job_id, "--json"))
        assert list(again) == ["id"]


async def test_a_job_is_steered(tmp_path: Path) -> None:
    """Each command has its effect in the manager, and says what it is."""
    async with operator(tmp_path, objects=9, agent_timeout=1) as run:
        rig = run.rig
        text = await run.done("job", "create", "evacuate", "--shark", "1.stor", "--json")
        job_id = json.loads(text)["id"]
        await rig.at_work(job_id)
        told = [
            await run.done("job", "set-threads", job_id, "30"),
            await run.done("job", "set-max-sharks", job_id, "2"),
            await run.done("job", "set-max-tasks", job_id, "7"),
            await run.done("job", "set-bandwidth", job_id, "1.5M"),
        ]
        tuning = running(rig, job_id).row.params["tuning"]
        unlimited = await run.done("job", "set-bandwidth", job_id, "none")
        assert running(rig, job_id).row.params["tuning"]["bandwidth_bytes_per_s"] is None
        too_many = await run.refused("job", "set-threads", job_id, "251")
        paused = await run.done("job", "pause", job_id)
        assert (await rig.get(job_id))["state"] == "Stopped"
        watched = await run.refused("job", "watch", job_id)
        resumed = json.loads(await run.done("job", "resume", job_id, "--json"))
        asked = await run.refused("job", "cancel", job_id, typed="n\n")
        nobody = await run.refused("job", "cancel", job_id)
        assert "wish" not in await rig.get(job_id)
        cancelled = await run("job", "cancel", job_id, typed="y\n")
        await rig.reach(job_id, "Stopped")
        ended = await run("job", "watch", job_id)

    assert told == [
        f"job {job_id}: 30 metadata updates at a time\n",
        f"job {job_id}: 2 destinations at a time\n",
        f"job {job_id}: 7 objects an assignment\n",
        f"job {job_id}: 1.5 MB/s a destination\n",
    ]
    assert tuning == {
        "max_metadata_update_threads": 30,
        "max_sharks": 2,
        "max_tasks_per_assignment": 7,
        "bandwidth_bytes_per_s": 1_500_000,
    }
    assert unlimited == f"job {job_id}: as the agents are configured\n"
    assert too_many == "Cannot set metadata update threads above 250 (status 400)"
    assert paused == f"job {job_id} is paused\n"
    assert watched == f"job {job_id} is paused: job resume lets it go on"
    assert (resumed["id"], resumed["state"] in ("Setup", "Running")) == (job_id, True)
    assert (asked, "--yes" in nobody) == ("nothing was done", True)
    assert cancelled.exit_code == 0
    assert f"Cancel job {job_id} of 1.stor.lab (" in cancelled.stderr
    assert f"job {job_id} is " in cancelled.stdout
    assert str(ended.exception) == f"job {job_id} was cancelled: job retry takes up what it left"
    assert "objects settled" in ended.stdout


async def test_what_a_job_did_is_shown_saved_and_removed(tmp_path: Path) -> None:
    """A report is a file only if it is whole; a removed job is no more."""
    async with operator(tmp_path, objects=9, agent_timeout=1) as run:
        job_id = await run.rig.create()
        await run.rig.reach(job_id, "Running")
        with trio.fail_after(60):
            while not (await run.rig.get(job_id))["results"]["Assigned"]:  # noqa: ASYNC110
                await trio.sleep(0.01)
        early = await run.refused("job", "delete", job_id, "--yes")
        await run.done("job", "cancel", job_id, "--yes")
        await run.rig.reach(job_id, "Stopped")

        lines = (await run.done("job", "objects", job_id)).splitlines()
        first = await run("job", "objects", job_id, "--limit", "2", "--json")
        none = await run.done("job", "objects", job_id, "--status", "complete", "--json")
        some = await run.done("job", "objects", job_id, "--reason", "cancelled", "--json")
        summary = await run.done("job", "summary", job_id)
        as_json = json.loads(await run.done("job", "summary", job_id, "--json"))
        status = await run.done("status")
        as_told = json.loads(await run.done("status", "--json"))
        looks = (await run("job", "watch", job_id, "--json")).stdout.splitlines()
        printed = await run.done("job", "report", job_id)
        file = tmp_path / "report.ndjson"
        saved = await run("job", "report", job_id, "-o", str(file))
        kept = await run.refused("job", "delete", job_id[:8], typed="n\n")
        removed = await run.done("job", "delete", job_id[:8], typed="y\n")
        gone = await run.refused("job", "get", job_id)
        lost = await run.refused("job", "report", job_id, "-o", str(tmp_path / "lost"))

    total = as_json["counts"][0]["objects"]
    assert early.startswith(f"Job {job_id} is running: it cannot be removed")
    assert lines[0].split() == ["STATUS", "REASON", "BYTES", "DESTINATION", "KEY"]
    assert len(lines) == 1 + total
    assert lines[1].split()[:2] == ["skipped", "cancelled"]
    assert lines[1].split()[-1].startswith("/account/stor/")
    assert first.stderr == "these are 2: --after 2 goes on, --limit 0 lists all\n"
    assert [json.loads(line)["status"] for line in first.stdout.splitlines()] == ["skipped"] * 2
    assert (none, len(some.splitlines())) == ("", total)
    assert summary.startswith(f"job {job_id}: cancelled\n")
    assert as_json["wish"] == "cancel"
    assert "cancelled" in summary
    assert as_told["jobs"] == {"Stopped": 1}
    assert f"{job_id[:8]}  cancelled" in status
    assert [json.loads(line)["progress"]["phase"] for line in looks] == ["cancelled"]
    assert json.loads(printed.splitlines()[-1])["lines"] == len(printed.splitlines()) - 2
    assert file.read_text() == printed
    assert saved.stderr.splitlines()[:2] == [
        f"{file}: {len(printed.splitlines()):,} lines",
        f"not done: the job was cancelled, 0 of 9 objects moved: cancelled {total}",
    ]
    assert kept == "nothing was done"
    assert removed == f"job {job_id} is removed\n"
    assert "Could not find job UUID" in gone
    assert "Could not find job UUID" in lost
    assert not (tmp_path / "lost").exists()


async def test_a_job_that_leaves_objects_is_no_success(tmp_path: Path) -> None:
    """Nor a retry that moves none of them, nor a file none of whose lines names a record."""
    lost = tmp_path / "lost.ndjson"
    lost.write_text('{"key": "/account/stor/77"}\n{"key": "/account/stor/78", "shard": 1}\n')
    async with operator(tmp_path, objects=3, agents=refusing_agents()) as run:

        async def ended(job_id: str) -> tuple[int, Any, str]:
            view = await run.rig.reach(job_id, "Complete")
            watched = await run("job", "watch", job_id)
            assert isinstance(watched.exception, AdmError)
            return watched.exception.exit_code, view["verdict"], watched.stdout

        first = await run.rig.create()
        code, verdict, told = await ended(first)
        again = json.loads(await run.done("job", "retry", first, "--json"))["id"]
        retried = await ended(again)
        listed = await ended(await run.rig.create(objects_file=str(lost)))
        empty = await run.rig.create(from_shark="20.stor")
        await run.rig.reach(empty, "Complete")
        done = await run.done("job", "watch", empty)
        words = [row["verdict"] for row in json.loads(await run.done("job", "list", "--json"))]
        saved = await run("job", "report", first, "-o", str(tmp_path / "report"))

    refused = {
        "cause": "assignment_rejected",
        "count": 3,
        "advice": "an agent refused or failed: see the report and the agent's log,"
        " then try once more",
        "command": f"rebalancer adm job retry {first}",
    }
    assert (code, verdict["verdict"], verdict["causes"]) == (3, "not_empty", [refused])
    assert verdict["line"] in told.splitlines()
    line = f"  assignment_rejected: {refused['advice']}: {refused['command']}"
    assert line in told.splitlines()
    assert (retried[0], retried[1]["line"]) == (
        3,
        "not empty: 0 of 3 objects moved, 3 objects were left on 1.stor.lab:"
        " assignment_rejected 3, retried_objects_only",
    )
    assert (listed[0], listed[1]["line"]) == (
        4,
        "partial: 0 of 0 objects moved, but the job took only a part of 1.stor.lab:"
        " objects_file, dropped 2",
    )
    assert "empty: 0 of 0 objects moved, no record names 20.stor.lab any more" in done
    assert words == ["not_empty", "not_empty", "partial", "empty"]
    assert saved.stderr.splitlines()[1] == verdict["line"]


async def test_nobody_is_asked_about_what_cannot_be(tmp_path: Path) -> None:
    """A job that has ended is not cancelled, and one that has not is not removed."""
    async with operator(tmp_path, objects=3, max_concurrent_jobs=1) as run:
        ended = await run.rig.create(from_shark="20.stor")
        await run.rig.reach(ended, "Complete")
        cancelled = await run.refused("job", "cancel", ended, typed="y\n")
        await run.rig.create()
        queued = await run.rig.create(from_shark="21.stor")
        removed = await run.refused("job", "delete", queued, typed="y\n")
        asked = await run("job", "cancel", ended, typed="y\n")

    assert cancelled.startswith(f"Job {ended} is complete: it cannot be cancelled")
    assert removed.endswith(": it cannot be removed before it has ended")
    assert "?" not in asked.output


async def test_a_job_that_waits_can_be_tuned(tmp_path: Path) -> None:
    """Its limits are in force when it runs; one that verifies has none."""
    async with operator(tmp_path, objects=9, max_concurrent_jobs=1) as run:
        first = await run.rig.create()
        await run.rig.at_work(first)
        queued = await run.rig.create(from_shark="20.stor")
        tuned = await run.done("job", "set-bandwidth", queued, "20MiB")
        await run.done("job", "set-max-sharks", queued, "2")
        below = await run.refused("job", "set-bandwidth", queued, "0")
        kept = (await run.rig.jobs.queries.known(queued)).params["tuning"]
        await run.done("job", "pause", first)
        await run.done("job", "set-max-tasks", first, "7")
        paused = (await run.rig.jobs.queries.known(first)).params["tuning"]
        await run.rig.reach(queued, "Complete")
        late = await run.refused("job", "set-max-sharks", queued, "2")

    assert tuned == f"job {queued}: 21.0 MB/s a destination\n"
    assert (kept["bandwidth_bytes_per_s"], kept["max_sharks"]) == (20 << 20, 2)
    assert paused["max_tasks_per_assignment"] == 7
    assert below == "Cannot set bandwidth below 1 (status 400)"
    assert late == "Attempt to update job that is not running (status 400)"


async def test_a_file_is_named_from_here_where_the_manager_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere a relative path means nothing; a plan takes the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.ndjson").write_text('{"key": "/account/stor/1"}\nodd\n')
    options = ("-s", "1.stor", "--objects-file", "some.ndjson")
    async with operator(tmp_path, objects=3) as run:
        bad = await run.refused("job", "create", "evacuate", *options)
        planned = await run.refused("job", "plan", *options)

    assert bad.startswith(f"{tmp_path}/some.ndjson: line 2: ")
    assert planned == bad


def test_a_relative_path_means_nothing_to_another_machine() -> None:
    """Nothing is sent."""
    options = ("-s", "1.stor", "--objects-file", "some.ndjson")
    url = "http://manager.lab"
    result = CliRunner().invoke(adm, ["--url", url, "job", "create", "evacuate", *options])
    assert "--objects-file: some.ndjson: the manager's machine reads" in str(result.exception)


async def test_jobs_and_objects_are_listed_in_parts(tmp_path: Path) -> None:
    """By state, by node, behind one, by ids alone; what goes on is said."""
    async with operator(tmp_path, objects=5, agents=refusing_agents()) as run:
        first = (await run.done("job", "create", "evacuate", "-s", "1.stor", "-o", "id")).strip()
        await run.rig.reach(first, "Complete")
        watched = await run("job", "retry", first, "-o", "id", "--watch")
        second = watched.stdout.splitlines()[0]
        both = await run.done("job", "list", "-o", "id")
        behind = await run.done("job", "list", "--after", first[:6], "-o", "id")
        one = await run.done("job", "list", "--limit", "1", "--shark", "1.stor", "-o", "id")
        none = json.loads(await run.done("job", "list", "--state", "running", "--json"))
        page = await run("job", "objects", first, "--limit", "2", "-o", "id")
        rest = await run("job", "objects", first, "--after", "2", "--json")
        removed = json.loads(await run.done("job", "delete", second, "--yes", "--json"))

    assert both.split() == [first, second]
    assert (behind.split(), one.split(), none) == ([second], [first], [])
    assert len(page.stdout.split()) == 2
    assert page.stderr == "these are 2: --after 2 goes on, --limit 0 lists all\n"
    ids = [json.loads(line)["id"] for line in rest.stdout.splitlines()]
    assert len({*ids, *page.stdout.split()}) == 5
    assert rest.stderr == ""
    assert isinstance(watched.exception, AdmError)
    assert watched.exception.exit_code == exits.NOT_EMPTY
    assert removed == {"deleted": second}


async def test_a_plan_says_whether_it_fits(tmp_path: Path) -> None:
    """By its last line and its exit code, as a table or as JSON; no job is made."""
    async with operator(tmp_path, objects=9) as run:
        fits = await run("job", "plan", "-s", "1.stor")
        same = await run("job", "create", "evacuate", "-s", "1.stor", "--dry-run")
        strict = await run("job", "create", "evacuate", "-s", "1.stor", "--dry-run", "--strict")
        as_json = json.loads(await run.done("job", "plan", "-s", "1.stor", "-m", "4", "--json"))
        run.rig.jobs.reload(attrs.evolve(run.rig.jobs.resources.config, max_fill_percentage=5))
        crowded = await run("job", "plan", "-s", "1.stor")
        crowded_json = await run("job", "plan", "-s", "1.stor", "--json")
        unknown = await run.refused("job", "plan", "-s", "77.stor")
        assert await run.done("job", "list", "--json") == "[]\n"

    assert (fits.exit_code, same.exit_code, strict.exit_code) == (0, 0, 1)
    assert fits.stdout.startswith("9 objects, ")
    assert "2.stor.lab" in fits.stdout
    assert "warning: agent: " in fits.stdout
    assert fits.stdout.splitlines()[-1] == same.stdout.splitlines()[-1] == "it fits"
    assert strict.stdout.splitlines()[-1].endswith("the pre-flight has warnings (--strict)")
    assert (as_json["objects"], as_json["fits"]) == (4, True)
    expected = "it does not fit: 9 objects without room anywhere: destination_insufficient_space"
    assert (crowded.exit_code, crowded.stdout.splitlines()[-1]) == (1, expected)
    assert (crowded_json.exit_code, json.loads(crowded_json.stdout)["fits"]) == (1, False)
    assert unknown.startswith("SharkNotFound: 77.stor.lab")


async def test_a_plan_shows_how_far_its_search_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, and not at all to a script; an error on the way is one of the command."""
    monkeypatch.setattr(following, "LINE_S", 0.0)
    async with operator(tmp_path, objects=9) as run:
        with monkeypatch.context() as slow:
            hold_search(slow, lines=2)
            shown = await run("job", "plan", "-s", "1.stor")
        with monkeypatch.context() as slow:
            hold_search(slow, lines=2)
            as_json = await run("job", "plan", "-s", "1.stor", "--json")
        with monkeypatch.context() as broken:
            broken.setattr(plan, "preflight_of", failing(StoreError("the disk is full")))
            failed = await run.refused("job", "plan", "-s", "1.stor")

    assert shown.exit_code == 0
    words = "100% scanned, 1 of 1 shards done, 9 objects, 9.0 kB, 9 placed, 0 without a place"
    assert words in shown.stderr.splitlines()
    assert shown.stdout.startswith("9 objects, ")
    assert as_json.stderr == ""
    assert json.loads(as_json.stdout)["objects"] == 9
    assert failed == "the disk is full (status 503)"


async def test_a_plan_of_an_earlier_manager_is_read(tmp_path: Path) -> None:
    """It does not know of lines, and answers once; what breaks off is no plan."""
    async with operator(tmp_path, objects=3) as run:
        body = {"action": "evacuate", "params": {"from_shark": "1.stor"}, "dry_run": True}
        made = await (await run.rig.client.post("/jobs", json=body)).get_data(as_text=True)
    cut = '{"type": "progress", "seconds": 1'
    for text, code, said in [(made, 0, "it fits"), (cut, 1, "no end"), ("", 1, "no end")]:
        async with scripted(jobs=text) as (script, _):
            result = await Operator(script.url, run.rig)("job", "plan", "-s", "1.stor")
        assert (result.exit_code, said in f"{result.stdout}{result.exception}") == (code, True)
        assert "accept: application/x-ndjson" in [line.lower() for line in script.headers]


# --- what needs no manager -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--url", "ftp://a", "job", "list"], "expected http:// or https://"),
        (["job", "set-bandwidth", "0fd6", "20Mb"], "expected bytes a second"),
        (["job", "set-threads", "0fd6", "x"], "'x' is not a valid integer"),
        (["job", "create", "evacuate"], "Missing option '-s' / '--shark'"),
        (["job", "get"], "Missing argument 'UUID'"),
        (["job", "list", "extra"], "unexpected extra argument"),
        (["job", "objects", "0fd6", "--status", "odd"], "'odd' is not one of 'unprocessed'"),
    ],
)
def test_what_cannot_be_is_a_usage_error(args: list[str], message: str) -> None:
    """Told on stderr with status 2; nothing is sent."""
    result = CliRunner().invoke(adm, args)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def commands(group: click.Group) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[name] = command
        if isinstance(command, click.Group):
            found |= commands(command)
    return found


@pytest.mark.parametrize("name", commands(adm))
def test_every_command_explains_itself(name: str) -> None:
    """A sentence that the list of commands has room for, and every option its own."""
    command = commands(adm)[name]

    assert not command.get_short_help_str(60).endswith("...")
    for param in command.params:
        assert isinstance(param, click.Argument) or getattr(param, "help", None), param.name


def test_the_page_and_the_help_have_the_same_exit_codes() -> None:
    """And each code that the command can end with is among them."""
    page = Path(__file__).parent.parent.parent / "docs" / "operating.md"
    told = re.findall(r"^\| (\d+) \|", page.read_text(), re.MULTILINE)
    help_text = CliRunner().invoke(adm, ["-h"]).stdout.partition("Exit codes:")[2]

    assert told == re.findall(r"^ +(\d+) ", help_text, re.MULTILINE)
    codes = {value for name, value in vars(exits).items() if name.isupper()}
    assert {str(code) for code in codes} < set(told)


def test_help_teaches_what_cannot_be_taken_back() -> None:
    """What pausing leaves to agents, and that a cancelled job is not resumed."""

    def text(name: str) -> str:
        return " ".join(CliRunner().invoke(job, [name, "--help"]).stdout.split())

    assert "Agents finish the assignments that they have" in text("pause")
    assert "cannot be resumed, but `job retry` makes a new one" in text("cancel")
    assert "Exit codes: 0 done" in " ".join(CliRunner().invoke(adm, ["-h"]).stdout.split())
