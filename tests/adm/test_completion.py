"""A shell completes ids and names, and neither waits nor reads an error where nobody answers."""

import json

import click
import pytest
import trio
from click.shell_completion import CompletionItem, ShellComplete

from rebalancer.adm.commands import adm
from rebalancer.adm.completion import COMPLETE_S, complete_job
from rebalancer.converter import unstructure
from tests.adm.scripted import scripted
from tests.adm.test_screens import ID, OTHER, STATUS

JOBS = json.dumps(
    [
        {"id": ID, "action": "Evacuate", "state": "Stopped", "wish": "pause", "subject": "1.stor"},
        {"id": OTHER, "action": "Verify", "state": "Complete"},
    ]
)


async def completed(url: str, *words: str) -> list[CompletionItem]:
    *before, begun = words
    shell = ShellComplete(adm, {}, "rebalancer-adm", "_COMPLETE")
    return await trio.to_thread.run_sync(shell.get_completions, ["--url", url, *before], begun)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("job", "get", "0f"), [ID]),
        (("job", "watch", "0FD6"), [ID]),
        (("job", "create", "verify", "--job", ""), [ID, OTHER]),
        (("job", "list", "--after", "7"), [OTHER]),
        (("job", "list", "--shark", "2."), ["2.stor.lab"]),
        (("job", "create", "evacuate", "-s", "1"), ["1.stor.lab"]),
        (("job", "plan", "-s", "9"), []),
        (("node", "check", ""), [f"{n}.stor.lab" for n in range(1, 5)]),
        (("job", "list", "--state", "pa"), ["pausing", "paused"]),
    ],
)
async def test_values_are_completed(words: tuple[str, ...], found: list[str]) -> None:
    """Ids of jobs, names of nodes, and states."""
    status = json.dumps(unstructure(STATUS))
    async with scripted(jobs=JOBS, status=status) as (script, _):
        items = await completed(script.url, *words)
    assert [item.value for item in items] == found


async def test_a_job_is_offered_with_what_it_is_about() -> None:
    async with scripted(jobs=JOBS) as (script, _):
        (item,) = await completed(script.url, "job", "get", ID)
    assert item.help == "Evacuate 1.stor, paused"


@pytest.mark.parametrize("reply", ["[", "{}", '[{"id": 1}]'])
async def test_a_strange_answer_completes_nothing(reply: str) -> None:
    async with scripted(jobs=reply) as (script, _):
        assert await completed(script.url, "job", "get", "") == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://a"])
@pytest.mark.parametrize("token_file", ["", "/nowhere/token"])
def test_nobody_there_completes_nothing(url: str, token_file: str) -> None:
    context = click.Context(adm)
    context.params = {"url": url, "token_file": token_file}
    assert complete_job(context, click.Option(["--job"]), "") == []


def test_nobody_waits_long() -> None:
    """A manager that takes the request and says nothing is not waited for."""
    assert COMPLETE_S <= 0.5
