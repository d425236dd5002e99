"""The operator's command as a process: what a shell, a script and a terminal see of it."""

import json
import os
import pty
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from rebalancer import __version__
from rebalancer.adm.client import Access, open_manager
from rebalancer.errors import RebalancerError
from tests.process.regions import adm, run
from tests.process.test_manager import TOKEN, running

pytestmark = pytest.mark.process

COMMANDS = (
    "cancel create delete get help import list objects pause plan report resume retry set-bandwidth"
    " set-max-sharks set-max-tasks set-threads summary watch"
)


def on_a_terminal(*args: str) -> tuple[int, str]:
    """Exit status and output of the command where a person reads it."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "rebalancer", "adm", *args],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100"},
    ) as process:
        os.close(its)
        output = bytearray()
        while piece := _read(ours):
            output += piece
    os.close(ours)
    return process.returncode, output.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other side has been closed
        return b""


def complete(words: str, **environment: str) -> list[str]:
    """What bash is told to offer for the last of `words`."""
    number = str(len(words.split(" ")) - 1)
    done = run(
        _REBALANCER_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number, **environment
    )
    return [line.partition(",")[2] for line in done.stdout.split()]


async def in_thread(call: partial[subprocess.CompletedProcess[str]]) -> tuple[int, str, str]:
    done = await trio.to_thread.run_sync(call)
    return done.returncode, done.stdout, done.stderr


async def test_people_see_tables_and_scripts_what_they_know(tmp_path: Path) -> None:
    """The same command, on a terminal and on a pipe; ids are completed from the manager's list."""
    async with running(tmp_path) as address, httpx.AsyncClient() as client:
        body = {"action": "evacuate", "params": {"from_shark": "1.stor"}}
        job_id = (await client.post(f"http://{address}/jobs", json=body)).text.strip()
        url = ("--url", f"http://{address}")
        shown = await trio.to_thread.run_sync(on_a_terminal, *url, "job", "list")
        piped = await in_thread(partial(adm, "job", "list", REBALANCER_URL=address))
        planned = await in_thread(partial(adm, *url, "job", "plan", "-s", "1:stor"))
        words = partial(complete, f"rebalancer adm job get {job_id[:3]}", REBALANCER_URL=address)
        offered = await trio.to_thread.run_sync(words)

    assert shown[0] == 0
    head, first, *_ = shown[1].splitlines()
    assert head.split()[:3] == ["JOB", "STATE", "DONE"]
    assert first.startswith(job_id[:8])
    assert "evacuate 1.stor.lab" in first
    lines = piped[1].splitlines()
    assert (piped[0], piped[2]) == (0, "")
    assert lines[:2] == ["", f"server version: rebalancer-manager {__version__}"]
    (row,) = json.loads("\n".join(lines[2:]))
    assert (row["id"], row["action"], row["subject"]) == (job_id, "Evacuate", "1.stor.lab")
    # What a person sees while waiting is not for a script.
    message = "rebalancer: --shark: '1:stor' is no name of a storage node (status 400)\n"
    assert planned == (1, "", message)
    assert offered == [job_id]


async def test_a_manager_that_guards_its_api_is_reached(tmp_path: Path) -> None:
    """Over TLS, with a token; what is missing is told in one line on stderr, with status 1."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    api = {
        "token_file": str(tmp_path / "token"),
        "tls_cert": str(tmp_path / "cert.pem"),
        "tls_key": str(tmp_path / "key.pem"),
    }
    token, trusted = str(tmp_path / "token"), str(tmp_path / "ca.pem")
    async with running(tmp_path, api=api) as address:
        url = f"https://{address}"
        named = {
            "REBALANCER_URL": url,
            "REBALANCER_TOKEN_FILE": token,
            "REBALANCER_CA_FILE": trusted,
        }
        assert await in_thread(partial(adm, "job", "list", "--json", **named)) == (0, "[]\n", "")
        status, out, err = await in_thread(
            partial(adm, "--url", url, "--ca-file", trusted, "job", "list")
        )
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.endswith("(status 401); no token was sent: see --token-file\n")
        for message, access in {
            "CERTIFICATE_VERIFY_FAILED": Access(url, token),
            "--ca-file: nowhere.pem: No such file": Access(url, token, "nowhere.pem"),
            "no answer from the manager": Access(f"http://{address}", token),
            "--token-file: nowhere: No such file": Access(url, "nowhere", trusted),
        }.items():
            with pytest.raises(RebalancerError, match=message):
                async with open_manager(access) as manager:
                    await manager.ask("GET", "/jobs")


def test_a_shell_completes_commands() -> None:
    """As docs/cli.md says how to set up; without a manager there are no ids."""
    assert complete("rebalancer adm job ") == COMMANDS.split()
    assert complete("rebalancer adm job get 0", REBALANCER_URL="127.0.0.1:1") == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(unbuffered: str) -> None:
    """A full disk, say; status 1, so that no script takes half of it for all."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rebalancer", "adm", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )

    assert done.returncode == 1
    assert done.stderr.startswith("rebalancer: ")
    assert done.stderr.count("\n") == 1
