"""Ctrl-C ends the command quietly at any moment, and says of a watched job that it goes on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import trio

from rebalancer.adm.client import OPEN_END
from tests.adm.scripted import scripted
from tests.adm.test_progress import running

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
VIEW = running(1, 9, config={"action": "Evacuate", "from_shark": {"manta_storage_id": "1.stor"}})


def interrupted(
    url: str, *args: str, when: Callable[["subprocess.Popen[str]"], None]
) -> tuple[int, str]:
    """Exit code and standard error of a command that gets SIGINT after `when`."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "rebalancer", "adm", "--url", url, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    when(popen)
    popen.send_signal(signal.SIGINT)
    _, errors = popen.communicate(timeout=60)
    return popen.returncode, errors


#: Interrupts the process when the module of the first argument is imported.
AT_IMPORT = """
import os, signal, sys
name = sys.argv.pop(1)
class Finder:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == name:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from rebalancer.__main__ import main
main()
"""


@pytest.mark.process
@pytest.mark.parametrize("module", ["rebalancer.cli", "trio", "rebalancer.adm.commands"])
def test_an_interrupt_while_modules_are_read_is_quiet(module: str) -> None:
    """That takes some tenths of a second, in which many a Ctrl-C comes."""
    made = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, module, "adm", "status"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (made.returncode, made.stderr.strip()) == (130, "")


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("status", ""),
        ("job plan --shark 1.stor", ""),
        ("job create evacuate --shark 1.stor", OPEN_END),
    ],
)
async def test_an_interrupt_of_a_request_says_only_what_is_open(command: str, said: str) -> None:
    """A manager may be slow to answer, and make a job all the same."""
    asked = trio.Event()
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        def run() -> tuple[int, str]:
            return interrupted(
                url, *command.split(), when=lambda _: trio.from_thread.run(asked.wait)
            )

        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                stream, _ = await silent.accept()
                with stream:
                    await stream.recv(1)
                    asked.set()
                    await trio.sleep_forever()

            nursery.start_soon(accept)
            code, errors = await trio.to_thread.run_sync(run)
            nursery.cancel_scope.cancel()
    assert (code, errors.strip()) == (130, said)


@pytest.mark.process
async def test_an_interrupted_watch_says_that_the_job_goes_on() -> None:
    """And how to look at it again."""
    async with scripted(**{f"jobs/{ID}": json.dumps(VIEW)}) as (script, _):

        def run() -> tuple[int, str]:
            def seen(popen: "subprocess.Popen[str]") -> None:
                assert popen.stdout is not None
                assert popen.stdout.readline().startswith("job ")

            return interrupted(script.url, "job", "watch", ID, when=seen)

        code, errors = await trio.to_thread.run_sync(run)
    assert code == 130
    command = f"rebalancer adm --url {script.url} job watch 0fd630f1"
    assert errors.strip() == f"the job goes on; to look at it again: {command}"
