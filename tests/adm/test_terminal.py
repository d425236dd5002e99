"""The command on a terminal and in an ASCII locale, shown what nobody should trust."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.adm.scripted import scripted

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
#: Clears the screen, sets a title, writes backwards; and rich's own orders.
NASTY = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202e [bold red]caf\u00e9[/] \r\x08"
CAUSE = f"discovery on shard 2 did not finish: {NASTY}"
RESULTS = ("Total", "Unprocessed", "Assigned", "Skipped", "Error", "Post Processing", "Complete")
VIEW: dict[str, Any] = {
    "config": {
        "action": "Evacuate",
        "from_shark": {"datacenter": "dc1", "manta_storage_id": f"1.stor{NASTY}"},
    },
    "results": {**dict.fromkeys(RESULTS, 3), "Duplicates": 0},
    "state": "Failed",
    "error": CAUSE,
    "warnings": [{"check": f"agent{NASTY}", "detail": f"no answer {NASTY}"}],
    "rounds": [],
    "scans": [],
}
SUMMARY: dict[str, Any] = {
    "id": ID,
    "state": "Failed",
    "error": CAUSE,
    "counts": [{"status": "skipped", "reason": f"odd{NASTY}", "objects": 3, "bytes": 9}],
    "rates": {},
    "eta_s": None,
    "scans": [],
    "rounds": [],
    "warnings": VIEW["warnings"],
    "destinations": [],
    "tuning": {},
}


@asynccontextmanager
async def manager() -> AsyncIterator[str]:
    replies = {
        "jobs": json.dumps([{"id": ID, "action": f"Evacuate{NASTY}", "state": "Failed"}]),
        f"jobs/{ID}": json.dumps(VIEW),
        f"jobs/{ID}/summary": json.dumps(SUMMARY),
        f"jobs/{ID}/retry": f"{ID}{NASTY}",
    }
    async with scripted(**replies) as (script, _):
        yield script.url


def command(url: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "rebalancer", "adm", "--url", url, *args]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120", "TERM": "xterm", "NO_COLOR": "1", **changes}


def on_a_terminal(url: str, *args: str, **variables: str) -> tuple[int, str]:
    """Exit code, and all that the terminal got."""
    ours, theirs = pty.openpty()
    with open(theirs, "rb") as end:
        popen = subprocess.Popen(
            command(url, *args), stdin=end, stdout=end, stderr=end, env=environment(**variables)
        )
    got = bytearray()
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # nobody has the other end any more
            break
        if not piece:
            break
        got += piece
    os.close(ours)
    return popen.wait(20), got.decode(errors="surrogateescape")


def orders(text: str) -> set[str]:
    """What a terminal would take for more than text, but for weights and the ends of lines."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return {char for char in text if not char.isprintable()} - {"\r", "\n"}


@pytest.mark.process
@pytest.mark.parametrize(
    "args",
    [
        ("job", "get", ID),
        ("job", "summary", ID),
        ("job", "list"),
        ("job", "get", ID, "--json"),
        ("job", "retry", ID),
    ],
    ids=" ".join,
)
async def test_nothing_from_outside_gives_a_terminal_orders(args: tuple[str, ...]) -> None:
    """Names, causes and warnings are shown as they are, in letters; a cause is not left out."""
    async with manager() as url:
        code, text = await trio.to_thread.run_sync(on_a_terminal, url, *args)
    assert code == 0, text
    assert orders(text) == set()
    assert "owned" in text
    assert "[bold red]" in text
    if args[1] in ("get", "summary"):
        assert "discovery on shard 2 did not finish" in text
    if "--json" in args:
        assert json.loads(text) == VIEW


@pytest.mark.process
async def test_why_a_watched_job_failed_is_shown_in_letters() -> None:
    """Also in the line that ends the command, and where lines are redrawn."""
    async with manager() as url:
        code, text = await trio.to_thread.run_sync(on_a_terminal, url, "job", "watch", ID)
    last = text.rstrip().splitlines()[-1]
    assert code == 1
    assert "discovery on shard 2 did not finish" in last
    assert orders(last) == set()
    assert "\x1b[2J" not in text
    assert "\x9b" not in text


@pytest.mark.process
@pytest.mark.parametrize(
    "encoding", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
@pytest.mark.parametrize(
    "args",
    [
        ("job", "get", ID),
        ("job", "summary", ID),
        ("job", "list"),
        ("job", "get", ID, "--json"),
        ("job", "watch", ID),
        ("job", "watch", ID, "--json"),
    ],
    ids=" ".join,
)
async def test_an_ascii_locale_is_no_reason_for_a_traceback(
    args: tuple[str, ...], encoding: dict[str, str]
) -> None:
    """On a terminal and on a pipe: what has no letter there is spelt, and JSON stays JSON."""

    def on_a_pipe(url: str) -> tuple[int, bytes, bytes]:
        made = subprocess.run(
            command(url, *args), capture_output=True, env=environment(**encoding), timeout=60
        )
        return made.returncode, made.stdout, made.stderr

    async with manager() as url:
        shown = await trio.to_thread.run_sync(lambda: on_a_terminal(url, *args, **encoding))
        piped = await trio.to_thread.run_sync(on_a_pipe, url)
    expected = 1 if args[1] == "watch" else 0
    assert (shown[0], piped[0]) == (expected, expected), (shown, piped)
    assert shown[1].isascii()
    assert (piped[1] + piped[2]).isascii()
    assert "Traceback" not in shown[1] + piped[2].decode()
    if args == ("job", "get", ID, "--json"):
        assert json.loads(piped[1]) == json.loads(shown[1]) == VIEW


@pytest.mark.process
@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--version",), 0, "rebalancer-adm "),
        (("-V",), 0, "rebalancer-adm "),
        (("help",), 0, "  rebalancer-adm job plan --shark 1.stor"),
        (("job", "help"), 0, "Make, show and control jobs"),
        (("help", "job", "retry"), 0, "Make a job of what another one"),
        (("job", "create", "help"), 0, "evacuate"),
        (("job", "help", "nonsense"), 1, "No such command 'nonsense'"),
        (("job", "get"), 1, "Missing argument"),
        (("job", "list", "extra"), 1, "unexpected"),
        (("--no-such-option",), 1, "No such option"),
        ((), 1, "Usage: rebalancer-adm"),
        (("job", "create"), 1, "Usage: rebalancer-adm job create"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_under_the_predecessors_name_the_command_ends_as_that_did(
    args: tuple[str, ...], code: int, words: str
) -> None:
    """Versions and help on standard output; every mistake is 1, on standard error."""
    program = "from rebalancer.cli import main_adm; main_adm()"
    made = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60
    )
    assert made.returncode == code, made
    assert words in (made.stderr if code else made.stdout)
    assert (made.stdout if code else made.stderr) == ""
