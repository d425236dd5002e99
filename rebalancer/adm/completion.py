"""This module completes words in a shell by what the manager knows: ids of jobs, names of nodes.

Whoever presses the key waits for less than a second, and never reads an error.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import click
import trio
from click.shell_completion import CompletionItem

from rebalancer.adm.client import Access, Body, Manager, with_manager
from rebalancer.adm.progress import state_word
from rebalancer.api.status import Status

DEFAULT_URL = "http://localhost"
#: A manager answers within so many seconds, or nothing is completed; the command takes some, too.
COMPLETE_S = 0.5


def complete_job(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the jobs whose ids begin so, each with what it is about."""

    async def ask(manager: Manager) -> list[CompletionItem]:
        return [
            CompletionItem(
                row.id, help=f"{row.action} {row.subject}, {state_word(row.state, row.wish)}"
            )
            for row in await manager.jobs()
        ]

    return _completed(context, ask, incomplete.lower())


def complete_node(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the storage nodes whose names begin so: those that storinfo lists, and of jobs."""

    async def ask(manager: Manager) -> list[CompletionItem]:
        status = Body((await manager.ask("GET", "/status")).json(), Status).read()
        names = {one.shark for one in status.destinations}
        return [CompletionItem(name) for name in sorted(names)]

    return _completed(context, ask, incomplete)


def _completed(
    context: click.Context, ask: Callable[[Manager], Awaitable[list[CompletionItem]]], begin: str
) -> list[CompletionItem]:
    """Return what begins so of what a manager answers; nothing if it does not answer soon."""
    found = list[CompletionItem]()

    async def bounded(manager: Manager) -> None:
        with trio.move_on_after(COMPLETE_S):
            found.extend(await ask(manager))

    try:
        with_manager(_access_of(context), bounded)
    except Exception:  # whatever it is, a shell would show it amid the words that were typed
        return []
    return [item for item in found if item.value.startswith(begin)]


def _access_of(context: click.Context) -> Access:
    """Return the access to the manager that the words before say."""
    given: dict[str, Any] = {}
    above: click.Context | None = context
    while above is not None:
        given = {**above.params, **given}
        above = above.parent
    return Access(
        given.get("url") or DEFAULT_URL, given.get("token_file") or "", given.get("ca_file") or ""
    )
