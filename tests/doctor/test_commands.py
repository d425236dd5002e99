"""The command as an operator runs it: beside a daemon, cut short, without a loop, as others."""

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rebalancer.cli import cli
from rebalancer.doctor import commands, scratch
from tests.doctor.subjects import files_below

DEAD = "127.0.0.1:1"


def configured(folder: Path, **keys: Any) -> Path:
    """The file of a manager none of whose peers answers."""
    file = folder / "manager.json"
    names = ["1.moray.lab", "1.rebalancer-postgres.lab", "storinfo.lab"]
    document = {
        "domain_name": "lab",
        "shards": [{"host": "1.moray.lab"}],
        "listen_host": "127.0.0.1",
        "listen_port": 0,
        "metrics_host": "127.0.0.1",
        "metrics_port": 0,
        "data_dir": str(folder / "db"),
        "hosts": dict.fromkeys(names, DEAD),
        **keys,
    }
    file.write_text(json.dumps(document))
    return file


def on_a_line(text: str) -> str:
    """What was wrapped to fit a terminal."""
    return " ".join(text.split())


@pytest.fixture
def doctor() -> Callable[..., Result]:
    """Runs the command in this process."""
    return lambda *arguments: CliRunner().invoke(cli, ["doctor", *map(str, arguments)])


def test_dead_peers_are_warnings_and_nothing_is_left(
    doctor: Callable[..., Result], tmp_path: Path
) -> None:
    """The manager would wait for them."""
    file = configured(tmp_path)
    done = doctor("manager", "-c", file)

    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[-1].startswith("the manager can run; ")
    warned = {line[9:24].strip() for line in lines if line.startswith("warning")}
    assert {"shards", "clones", "storinfo"} <= warned
    assert "ok       wal" in done.output
    assert files_below(tmp_path) == {"manager.json"}


def test_json_of_a_bad_configuration_says_all_of_it(
    doctor: Callable[..., Result], tmp_path: Path
) -> None:
    """Each fault stops; what needs the configuration is not looked at."""
    file = configured(tmp_path, prt=1, max_attempts=0)
    done = doctor("manager", "--json", "-c", file)

    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert (document["verdict"], document["configuration"]) == ("stops", str(file))
    found = [one["found"] for one in document["findings"] if one["level"] == "stops"]
    assert len(found) == 2
    assert found[0].startswith("prt: unknown key")
    assert found[1].startswith("max_attempts: expected")
    skipped = {one["check"] for one in document["findings"] if one["level"] == "skipped"}
    assert {"folders", "shards", "ports"} <= skipped


def test_a_missing_file_and_a_missing_token_stop(
    doctor: Callable[..., Result], tmp_path: Path
) -> None:
    """As they would stop the program."""
    done = doctor("manager", "-c", tmp_path / "none")
    assert (done.exit_code, "none: No such file" in on_a_line(done.output)) == (1, True)

    done = doctor("manager", "-c", configured(tmp_path, api={"token_file": "/no/token"}))
    assert (done.exit_code, "api.token_file: /no/token" in on_a_line(done.output)) == (1, True)


def test_only_programs_and_users_there_are_can_be_checked(doctor: Callable[..., Result]) -> None:
    """All else is a wrong command."""
    assert doctor("adm").exit_code == 2
    done = doctor("agent", "--user", "nobody-has-this-name")
    assert (done.exit_code, "there is no user" in done.output) == (2, True)


def test_a_program_that_the_user_cannot_read_is_named(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file in root's home, say, where Python itself would say no more than that."""
    for change in ("initgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, change, lambda *_: None)
    monkeypatch.setattr("rebalancer.archive._ARCHIVE", "/root/rebalancer")
    monkeypatch.setattr(os, "access", lambda file, _: file != "/root/rebalancer")
    monkeypatch.setattr("rebalancer.doctor.commands.current_user", lambda: "root")
    done = doctor("agent", "--user", "nobody")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "nobody cannot read /root/rebalancer: copy it to where everybody can" in done.stderr


def test_the_operator_s_command_alone_has_no_doctor(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and its help works."""
    for name in list(sys.modules):
        if name.startswith(("rebalancer.doctor.", "rebalancer.agent.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rebalancer.agent", None)
    done = doctor("agent")

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: doctor needs rebalancer.agent")
    assert "Not installed here" in CliRunner().invoke(cli, ["--help"]).stdout


# --- as a process ------------------------------------------------------------------------------


def run(*arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rebalancer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, **more)


@pytest.mark.process
def test_beside_a_running_manager_its_claim_and_ports_are_its_own(tmp_path: Path) -> None:
    """Which goes on, and knows nothing of it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [each.getsockname()[1] for each in (one, two)]
    file = configured(tmp_path, listen_port=ports[0], metrics_port=ports[1])
    with subprocess.Popen(
        [sys.executable, "-m", "rebalancer", "manager", "-c", str(file)],
        stdout=subprocess.PIPE,
        text=True,
    ) as manager:
        assert manager.stdout is not None
        for line in manager.stdout:
            if '"listening"' in line:
                break
        done = run("doctor", "manager", "--json", "-c", str(file))
        assert manager.poll() is None
        manager.terminate()
        manager.stdout.read()
    assert manager.returncode == 0
    assert done.returncode == 0, done.stdout
    findings = json.loads(done.stdout)["findings"]
    running = f"running: rebalancer-manager, process {manager.pid}, since "
    assert sum(running in one["found"] for one in findings) == 3
    assert not any(name.startswith(scratch.PREFIX) for name in files_below(tmp_path))


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_cut_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """It waits for a peer at that moment, which takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        file = configured(tmp_path, hosts={"1.moray.lab": address}, storinfo_url=f"http://{DEAD}")
        command = [sys.executable, "-m", "rebalancer", "doctor", "manager", "-c", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            silent.settimeout(20)
            connection, _ = silent.accept()
            with connection:
                while not any(scratch.PREFIX in name for name in files_below(tmp_path)):
                    time.sleep(0.01)
                process.send_signal(number)
                out, _ = process.communicate(timeout=20)
    assert process.returncode == (130 if number is signal.SIGINT else 128 + number)
    assert out == b""
    assert files_below(tmp_path) == {"manager.json"}


def test_a_run_behind_nohup_outlives_its_terminal() -> None:
    """What was told to ignore the signal goes on doing so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with commands._ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.process
def test_a_python_without_an_event_loop_is_examined(tmp_path: Path) -> None:
    """As far as can be without trio: all of the machine, none of the peers."""
    program = (
        "import select, sys\n"
        "for name in ('epoll', 'kqueue'):\n"
        "    vars(select).pop(name, None)\n"
        "from rebalancer.__main__ import main\n"
        "main()"
    )
    for program_name, file in (("manager", configured(tmp_path)), ("agent", None)):
        more = ["-c", str(file)] if file else []
        done = subprocess.run(
            [sys.executable, "-c", program, "doctor", program_name, "--json", *more],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (1, "")
        levels = {one["check"]: one["level"] for one in json.loads(done.stdout)["findings"]}
        assert levels["event loop"] == "stops"
        assert (levels["sqlite"], levels["running"]) == ("ok", "ok")
        if file:
            assert (levels["folders"], levels["shards"]) == ("ok", "skipped")


def test_root_can_try_as_the_service_s_user(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command begins once more with that user's permissions, groups and home."""
    done: list[Any] = []
    for name in ("initgroups", "setgid", "setuid", "execve"):
        monkeypatch.setattr(os, name, lambda *given, name=name: done.append((name, given)))
    nobody = pwd.getpwnam("nobody")
    doctor("agent", "--user", "nobody", "--json", "-c", "/etc/agent.toml")

    *became, (_, (program, command, environment)) = done[:4]
    assert became == [
        ("initgroups", ("nobody", nobody.pw_gid)),
        ("setgid", (nobody.pw_gid,)),
        ("setuid", (nobody.pw_uid,)),
    ]
    more = ["-m", "rebalancer", "doctor", "agent", "-c", "/etc/agent.toml", "--json"]
    assert (program, command) == (sys.executable, [sys.executable, *more])
    assert environment["HOME"] == nobody.pw_dir


@pytest.mark.process
def test_a_low_hard_limit_of_files_is_a_warning(tmp_path: Path) -> None:
    """For a manager of many connections; at its start, too, in a line of the log."""
    file = configured(tmp_path, max_concurrent_jobs=100)
    shell = f"ulimit -n 1024; exec {sys.executable} -m rebalancer doctor manager -c {file}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=30)

    assert done.returncode == 0
    assert "open files     soft limit 1,024, hard limit 1,024" in done.stdout
