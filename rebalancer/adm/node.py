"""This module has the commands about a storage node as it is now, without a job."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rebalancer.adm import exits
from rebalancer.adm.client import Access, AdmError, Body, Manager, with_manager
from rebalancer.adm.completion import complete_node
from rebalancer.adm.options import json_option
from rebalancer.adm.output import can_redraw, json_text, make_console
from rebalancer.adm.printing import printable
from rebalancer.adm.progress import cause_line
from rebalancer.adm.watch import LINE_S
from rebalancer.api.nodes import NodeCheckProgress, NodeCheckResult
from rebalancer.domain.node_checks import Answer
from rebalancer.errors import PeerError

#: The exit codes of the answers that are known.
_CODES: Mapping[str, int] = {Answer.YES: exits.DONE, Answer.NO: exits.NOT_EMPTY}


@click.group()
def node() -> None:
    """Look at a storage node as it is now."""


@node.command()
@click.argument("shark", shell_complete=complete_node)
@click.option(
    "--first",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop when N were found; without it, all are counted.",
)
@json_option
@click.pass_obj
def check(access: Access, shark: str, first: int | None, as_json: bool) -> None:
    """See whether a storage node may be removed.

    Scans all shards as they are now, without a job: what names the node, of which kind, and on
    which shard.  It changes nothing, ends with Ctrl-C, and takes as long as the search of a job.
    Bucket objects are not looked at.  Without a terminal, progress comes as lines; with --json, all
    lines of the manager as they come, of which the last has the answer.

    \b
    Examples:
      rebalancer adm node check 1.stor && echo "pull it"
      rebalancer adm node check 1.stor --first 1
      rebalancer adm node check 1.stor --json | tail -1 | jq .safe_to_remove

    \b
    Exit codes:
      0    safe to remove: nothing names the node
      1    refused, or no manager
      3    not safe: something names the node, or will
      4    not known: a shard did not answer, or the check was cut short
    """

    async def ask(manager: Manager) -> NodeCheckResult:
        async with manager.check_node(shark, first) as pieces:
            with _showing(as_json) as show:
                return await _read(pieces, show)

    result = with_manager(access, ask)
    if not as_json:
        make_console().print(*map(printable, result_lines(result)), sep="\n", soft_wrap=True)
    click.get_current_context().exit(_CODES.get(result.safe_to_remove, exits.UNKNOWN))


async def _read(pieces: AsyncIterator[bytes], show: Callable[[Any], None]) -> NodeCheckResult:
    """Show each line of a check, and return the last one.

    Raises:
      AdmError: the last one is no result.
    """
    begun, last, why = b"", None, "it has no end"
    try:
        async for piece in pieces:
            *whole, begun = (begun + piece).split(b"\n")
            for text in whole:
                last = json.loads(text)
                show(last)
        if isinstance(last, dict) and last.get("type") == "result":
            return Body(last, NodeCheckResult).read()
    except (PeerError, ValueError) as exc:
        why = str(exc)
    message = f"the check was cut short: whether the node may be removed is not known: {why}"
    raise AdmError(message, exit_code=exits.UNKNOWN)


def result_lines(result: NodeCheckResult) -> list[str]:
    """Return the answer of a check in lines: what was found, a sample, and what can be done."""
    lines = []
    for kind in result.kinds:
        where = ", ".join(f"shard {one.shard}: {one.count:,}" for one in kind.shards)
        found = f"{kind.count or 0:,}" + (f" ({where})" if where else "")
        name = kind.kind.replace("_", " ")
        lines.append(f"{name}: {'not looked at' if kind.count is None else found}")
        sample = [one for one in result.sample if one.kind == kind.kind]
        lines += [f"  shard {one.shard}  {one.key}" for one in sample]
    lines += [f"a job for the node has not ended: {job_id}" for job_id in result.jobs]
    return [*lines, result.line, *map(cause_line, result.causes)]


@contextmanager
def _showing(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Give what shows each line of a check as it comes: as JSON, on a terminal, or line by line."""
    console = Console(stderr=True, highlight=False, markup=False)
    if as_json:
        yield lambda line: click.echo(json_text(line, indent=None))
    elif not can_redraw(console):
        yield _lines()
    else:
        text = TextColumn("{task.description}", markup=False)
        with Progress(text, BarColumn(), console=console, transient=True) as bar:
            task = bar.add_task("scanning", total=1)

            def show(line: Any) -> None:
                if (known := _progress(line)) is not None:
                    bar.update(task, description=_words(known), completed=known.scanned)

            yield show


def _lines() -> Callable[[Any], None]:
    """Return what prints the progress every few seconds, on standard error."""
    shown_at = -LINE_S

    def show(line: Any) -> None:
        nonlocal shown_at
        if (known := _progress(line)) is not None and time.monotonic() - shown_at >= LINE_S:
            shown_at = time.monotonic()
            click.echo(_words(known), err=True)

    return show


def _progress(line: Any) -> NodeCheckProgress | None:
    """Return what a line says of the progress, if it does."""
    is_progress = isinstance(line, dict) and line.get("type") == "progress"
    return Body(line, NodeCheckProgress).read() if is_progress else None


def _words(known: NodeCheckProgress) -> str:
    return printable(
        f"{known.node}: {known.scanned:.0%} scanned, {known.shards_done} of {known.shards} shards"
        f" done, {known.found:,} found"
    )
