"""`job import`: what it shows, what it takes, and what it does not let on the command line."""

import json
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from click.testing import CliRunner, Result

from rebalancer.adm.commands import adm
from rebalancer.api.imports import Importable, Imported
from tests.adm.scripted import scripted

JOB, OTHER = "0fd630f1-f29d-4da9-953f-48f1a09f76b5", "0fd7aaaa-f29d-4da9-953f-48f1a09f76b5"
DSN = "postgres://postgres@/"


def listed(job_id: str, **changes: Any) -> dict[str, Any]:
    made = Importable(
        id=job_id,
        action="evacuate",
        state="running",
        node="1.stor.lab",
        objects={"complete": 1000, "skipped": 300},
        duplicates=4,
        problem=None,
        imported=(),
    )
    return attrs.asdict(attrs.evolve(made, **changes))


async def run(jobs: list[dict[str, Any]], *args: str, **env: str) -> tuple[Result, list[str]]:
    made = attrs.asdict(Imported(id=JOB, imported_from=JOB, objects=1300, odd=2))
    replies = {"imports/list": json.dumps(jobs), "imports": json.dumps(made)}
    async with scripted(**replies) as (script, _):
        words = ["--url", script.url, "job", "import", *args]
        invoke = partial(CliRunner().invoke, adm, words, env=env)
        result = await trio.to_thread.run_sync(invoke)
        return result, script.asked


async def test_without_a_job_it_lists() -> None:
    """What each has, what is left of it, and what stands in the way."""
    jobs = [listed(JOB), listed(OTHER, problem="in use", imported=(JOB,), node=None)]
    shown, asked = await run(jobs, "--legacy-dsn", DSN)
    as_json, _ = await run(jobs, "--json", REBALANCER_LEGACY_DSN=DSN)

    first, second = (line.split() for line in shown.stdout.splitlines() if "running" in line)
    assert first == [JOB, "running", "1.stor.lab", "1,300", "304", "no"]
    assert second == [OTHER, "running", "?", "1,300", "304", "in", "use"]
    assert json.loads(as_json.stdout) == json.loads(json.dumps(jobs))
    assert asked == ["POST /imports/list"]


async def test_all_are_those_that_can_be_and_are_not_yet() -> None:
    """Their ids, a line each; what is odd goes to standard error."""
    jobs = [listed(JOB), listed(OTHER, problem="in use"), listed(OTHER, imported=(JOB,))]
    made, asked = await run(jobs, "--legacy-dsn", DSN, "--all")

    assert made.stdout == f"{JOB}\n"
    assert "importing job 0fd630f1-f29d-4da9-953f-48f1a09f76b5: 1,300 objects" in made.stderr
    assert "something of 2 objects could not be read" in made.stderr
    assert asked == ["POST /imports/list", "POST /imports"]


async def test_a_job_is_named_by_its_first_characters() -> None:
    """If there is one such job."""
    jobs = [listed(JOB), listed(OTHER)]
    made, _ = await run(jobs, "--legacy-dsn", DSN, "0FD6", "--json")
    several, _ = await run(jobs, "--legacy-dsn", DSN, "0fd")
    none, _ = await run(jobs, "--legacy-dsn", DSN, "1")

    assert json.loads(made.stdout)[0]["id"] == JOB
    assert "several jobs" in str(several.exception)
    assert "no job" in str(none.exception)


@pytest.mark.parametrize(
    "dsn", ["postgres://me:kept@/", "host=/tmp password=kept", "postgres:///?password=kept"]
)
async def test_a_password_does_not_belong_on_a_command_line(dsn: str) -> None:
    """Everybody can read it there; in the environment it is taken."""
    typed, asked = await run([], "--legacy-dsn", dsn)
    taken, _ = await run([], REBALANCER_LEGACY_DSN=dsn)

    assert (typed.exit_code, asked) == (2, [])
    assert "REBALANCER_LEGACY_DSN" in typed.output
    assert "kept" not in typed.output
    assert taken.exit_code == 0


async def test_what_makes_no_sense_together_is_refused() -> None:
    """A list imports nothing, and all are more than one."""
    for words in (["--list", "--all"], ["--list", "0fd6"], ["--all", "0fd6"]):
        result, asked = await run([], "--legacy-dsn", DSN, *words)
        assert (result.exit_code, asked) == (2, [])
