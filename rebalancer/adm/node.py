"""This module has the commands about a storage node as it is now, without a job."""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import click

from rebalancer.adm import exits
from rebalancer.adm.client import Access, AdmError, Body, Manager, with_manager
from rebalancer.adm.completion import complete_node
from rebalancer.adm.following import Show, json_lines, showing
from rebalancer.adm.options import json_option
from rebalancer.adm.output import json_text, make_console
from rebalancer.adm.printing import printable
from rebalancer.adm.progress import cause_line
from rebalancer.api.nodes import NodeCheckProgress, NodeCheckResult, NodeCheckSample, NodeCheckShard
from rebalancer.domain.node_checks import Answer
from rebalancer.domain.tiers import Tier, number_of, shard_name
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
    Without a terminal, progress comes as lines; with --json, all
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
        if as_json:
            async with manager.check_node(shark, first) as pieces:
                return await _read(pieces, lambda line: click.echo(json_text(line, indent=None)))
        # No answer begins before the manager has looked the node up, which can take a while.
        with showing(f"asking the manager about {printable(shark)}: Ctrl-C ends it") as show:
            async with manager.check_node(shark, first) as pieces:
                return await _read(pieces, partial(_show, show))

    result = with_manager(access, ask)
    if not as_json:
        make_console().print(*map(printable, result_lines(result)), sep="\n", soft_wrap=True)
    click.get_current_context().exit(_CODES.get(result.safe_to_remove, exits.UNKNOWN))


async def _read(pieces: AsyncIterator[bytes], show: Callable[[Any], None]) -> NodeCheckResult:
    """Show each line of a check, and return the last one.

    Raises:
      AdmError: the last one is no result.
    """
    last, why = None, "it has no end"
    try:
        async for last in json_lines(pieces):
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
        where = ", ".join(f"{_shard(one)}: {one.count:,}" for one in kind.shards)
        found = f"{kind.count or 0:,}" + (f" ({where})" if where else "")
        name = kind.kind.replace("_", " ")
        lines.append(f"{name}: {'not looked at' if kind.count is None else found}")
        sample = [one for one in result.sample if one.kind == kind.kind]
        lines += [f"  {_shard(one)}  {one.key}" for one in sample]
    lines += [f"a job for the node has not ended: {job_id}" for job_id in result.jobs]
    return [*lines, result.line, *map(cause_line, result.causes)]


def _shard(one: NodeCheckShard | NodeCheckSample) -> str:
    return shard_name(number_of(Tier(one.tier), one.shard))


def _show(show: Show, line: Any) -> None:
    """Show what a line of a check says of the progress, if it does."""
    if isinstance(line, dict) and line.get("type") == "progress":
        known = Body(line, NodeCheckProgress).read()
        show(
            f"{known.node}: {known.scanned:.0%} scanned, {known.shards_done} of {known.shards}"
            f" shards done, {known.found:,} found",
            known.scanned,
        )
