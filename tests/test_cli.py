"""The operator's command and the programs, asked in ways that they cannot follow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rebalancer import __version__
from rebalancer.adm.commands import adm as adm_command
from rebalancer.cli import cli, main
from rebalancer.config import AgentConfig, ManagerConfig, Shard, load_manager
from rebalancer.errors import ConfigError
from tests.process.regions import run


@pytest.mark.process
@pytest.mark.row("IMP-11")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ["Usage: rebalancer", "Commands:", "job"]),
        (("job", "create"), ["Usage: rebalancer adm job create", "Commands:", "evacuate"]),
        (("job", "list", "extra"), ["Usage: rebalancer adm job list", "unexpected", "extra"]),
        (("job", "get"), ["Usage: rebalancer adm job get", "Missing argument 'UUID'"]),
        (
            ("job", "create", "evacuate"),
            ["Usage: rebalancer adm job create evacuate", "Missing option", "--shark"],
        ),
        (("job", "retry"), ["Missing argument 'UUID'"]),
        (
            ("job", "create", "evacuate", "--shark", "1.stor", "--max_objects", "all"),
            ["Invalid value", "max_objects", "'all'"],
        ),
    ],
    ids=" ".join,
)
def test_a_command_that_cannot_be_followed_says_what_it_wants(
    args: tuple[str, ...], words: list[str]
) -> None:
    """Help or an error on stderr, nothing on stdout, and failure."""
    done = run("adm", *args, REBALANCER_URL="http://127.0.0.1:1")

    assert done.returncode != 0
    assert done.stdout == ""
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


@pytest.mark.process
@pytest.mark.row("A12")
@pytest.mark.parametrize("program", ["manager", "agent"])
def test_a_program_takes_no_argument_it_does_not_know(program: str) -> None:
    """The deployed agent told of one and exited as if all were well."""
    done = run(program, "nonsense")

    assert done.returncode == 2
    assert "nonsense" in done.stderr


@pytest.mark.row("N6", "N20", "IMP-3")
def test_programs_meet_at_their_usual_ports() -> None:
    """The deployed ones: those of the API, where it is asked, and those of the metrics."""
    manager, agent = ManagerConfig("lab", (Shard("1.moray.lab"),)), AgentConfig()
    (url,) = [option.default for option in adm_command.params if option.name == "url"]

    assert (manager.listen_port, url) == (80, "http://localhost")
    assert manager.agent_port == agent.server.port == 7878
    assert manager.metrics_port == agent.metrics.port == 8878


@pytest.mark.process
@pytest.mark.parametrize("program", ["manager", "agent"])
def test_a_configuration_is_checked_without_a_start(tmp_path: Path, program: str) -> None:
    """All that is wrong, a line each, and exit 1; or what would be in force."""
    file = tmp_path / "config"
    bad, good = {
        "manager": (
            '{"domain_name": 1, "prt": 1, "shards": []}',
            '{"domain_name": "lab", "shards": [{"host": "1.moray.lab"}]}',
        ),
        "agent": ("[server]\nprt = 1\nworkers = 0", "[server]\nworkers = 3"),
    }[program]
    file.write_text(bad)
    refused = run("check-config", program, str(file))
    started = run(program, "-c", str(file))
    file.write_text(good)
    taken = run("check-config", program, str(file))

    assert (refused.returncode, refused.stdout) == (1, "")
    told = refused.stderr.splitlines()
    assert len(told) == 2
    assert "prt: unknown key" in told[0]
    # The program itself tells the same.
    assert (started.returncode, started.stdout) == (1, "")
    assert [line for line in told if line not in started.stderr] == []
    assert (taken.returncode, taken.stderr) == (0, "")
    head, _, shown = taken.stdout.partition("\n")
    assert head == f"{file}: ok, and with it these values are in force:"
    assert json.loads(shown)


@pytest.mark.process
def test_a_configuration_that_names_missing_files_is_refused(tmp_path: Path) -> None:
    """Tokens and certificates, with which no program would start; and no file at all."""
    file = tmp_path / "agent.toml"
    file.write_text('[api]\ntoken_file = "/no/token"\ntls_cert = "/no/c"\ntls_key = "/no/k"\n')
    done = run("check-config", "agent", str(file))
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "api.token_file: /no/token: No such file or directory",
            "api.tls_cert, api.tls_key: /no/c, /no/k: No such file or directory",
        ],
    )
    manager = tmp_path / "manager.json"
    manager.write_text(
        '{"domain_name": "lab", "shards": [{"host": "1.moray.lab"}],'
        ' "agent_tls": true, "agent_tls_ca": "/no/ca"}'
    )
    done = run("check-config", "manager", str(manager))
    expected = "agent_tls_ca: /no/ca: No such file or directory\n"
    assert (done.returncode, done.stderr) == (1, expected)
    missing = run("check-config", "manager", str(tmp_path / "missing"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "No such file" in missing.stderr


@pytest.mark.process
@pytest.mark.row("CRIT-4")
def test_a_client_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    """One line that says why: there is no other client to fall back on, without TLS."""
    file = tmp_path / "config.json"
    file.write_text(
        '{"domain_name": "lab", "shards": [{"host": "1.moray.lab"}],'
        f' "listen_port": 0, "metrics_port": 0, "data_dir": "{tmp_path}/db", "agent_tls": true}}'
    )
    without_tls = (
        "import ssl\n"
        "class Refused(ssl.SSLContext):\n"
        "    def __new__(cls, *args): raise ssl.SSLError('no TLS here')\n"
        "from rebalancer.cli import main_manager\n"
        "ssl.SSLContext = Refused; main_manager()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without_tls, "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("rebalancer-manager: the system's authorities: ")
    assert done.stderr.count("\n") == 1


def test_a_missing_argument_is_asked_for_on_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all that it can be."""
    monkeypatch.setattr("sys.argv", ["rebalancer", "check-config"])
    monkeypatch.setattr("rebalancer.log.hold_descriptors", lambda: None)
    with pytest.raises(SystemExit):
        main()

    *_, last = capsys.readouterr().err.splitlines()
    assert last.endswith("Missing argument '{manager|agent}'. Choose from: manager, agent")


def test_a_manager_without_a_file_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody guesses where the program looks."""
    monkeypatch.setattr("rebalancer.config.reading.MANAGER_PATH", tmp_path / "none")
    with pytest.raises(ConfigError, match="none: No such file or directory; write it, or name"):
        load_manager(None)


@pytest.mark.parametrize("args", [("demo",), ("region", "create", "f"), ("demo", "--help")])
def test_commands_of_the_region_say_what_to_install_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    """One line, and failure: a storage node has the main distribution only."""
    # As Python does itself, an import of a package that is None here fails as if it were not there.
    monkeypatch.setitem(sys.modules, "rebalancer_devregion", None)
    done = CliRunner().invoke(cli, args)

    need = f"pip install manta-rebalancer-devregion=={__version__}, or in a checkout: pip install "
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == f"Error: {args[0]} needs the embedded region: {need}./devregion\n"


@pytest.mark.parametrize("name", ["manager", "agent"])
def test_a_daemon_says_in_a_line_what_to_install_for_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An installation without dependencies, and a file that has the operator's command only."""
    # In a process of its own, in which nothing has been imported yet.
    code = (
        "import sys; sys.modules['prometheus_client'] = None;"
        f" from rebalancer.cli import main_{name}; main_{name}()"
    )
    installed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    monkeypatch.setitem(sys.modules, f"rebalancer.{name}.main", None)
    monkeypatch.setattr("rebalancer.archive._ARCHIVE", "/home/me/rebalancer-adm")
    archive = CliRunner().invoke(cli, [name])

    need = (
        f"needs prometheus_client: pip install manta-rebalancer=={__version__}, or in a checkout:"
    )
    need += " pip install ."
    assert installed.returncode == 1
    assert installed.stderr == f"rebalancer-{name}: {name} {need}\n"
    need = "needs the daemons, which this file was built without: take one that tools/build made"
    need += " without --adm"
    assert (archive.exit_code, archive.stderr) == (1, f"Error: {name} {need}\n")


def test_a_file_without_the_region_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be installed into an archive: another one has to be built."""
    monkeypatch.setitem(sys.modules, "rebalancer_devregion", None)
    monkeypatch.setattr("rebalancer.archive._ARCHIVE", "/opt/rebalancer")
    done = CliRunner().invoke(cli, ["demo"])

    need = "needs the embedded region, which this file was built without: take one that tools/build"
    need += " made without --without-region"
    assert (done.exit_code, done.stderr) == (1, f"Error: demo {need}\n")
    assert "Not installed in this file." in CliRunner().invoke(cli, ["--help"]).stdout


def test_a_python_without_an_event_loop_is_refused_in_words() -> None:
    """Some builds for illumos are such; a line says what to do, where trio has a traceback."""
    program = (
        "import select\n"
        "for name in ('epoll', 'kqueue'):\n"
        "    vars(select).pop(name, None)\n"
        "from rebalancer.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.startswith("rebalancer: this Python cannot wait for many sockets")
    assert done.stderr.endswith("or run the manager in a Linux zone\n")


@pytest.mark.parametrize("is_installed", [True, False])
def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    """Also of the region where it is not installed, with what to install."""
    if not is_installed:
        monkeypatch.setitem(sys.modules, "rebalancer_devregion", None)
    done = CliRunner().invoke(cli, ["--help"])

    commands = done.stdout.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in commands if line.startswith("  ") and line[2] != " "]
    assert names == ["adm", "agent", "check-config", "demo", "doctor", "manager", "region"]
    assert ("Not installed here" in done.stdout) is not is_installed


def test_an_error_within_the_region_is_not_taken_for_its_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library that is missing there is named by Python itself."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "rebalancer_devregion.commands", raising=False)

    with pytest.raises(ModuleNotFoundError, match=r"rich\.console"):
        CliRunner().invoke(cli, ["demo"], catch_exceptions=False)
