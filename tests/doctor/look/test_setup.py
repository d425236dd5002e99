"""Permissions of secrets, claims of folders, ports."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from rebalancer.config import AgentConfig, ApiAccess
from rebalancer.config.agent import AgentApi
from rebalancer.doctor.judge.setup import Holder
from rebalancer.doctor.look import setup
from tests.doctor.subjects import a_manager, an_agent

#: Claims a folder and listens at a free port, as a program of ours.
HOLD = """
import socket, sys
from pathlib import Path
from rebalancer.lock import claimed
with claimed(Path(sys.argv[1]), "holder"), socket.socket() as listening:
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def test_secrets_and_the_configuration_are_looked_at(tmp_path: Path) -> None:
    """By their permissions; the configuration may be read."""
    token, file = tmp_path / "token", tmp_path / "agent.toml"
    token.write_text("s3cret")
    file.write_text("")
    os.chmod(token, 0o644)
    os.chmod(file, 0o666)
    config = attrs.evolve(an_agent(tmp_path).agent, api=AgentApi(token_file=str(token)))
    subject = attrs.evolve(an_agent(tmp_path), config=config, path=file)

    found = {
        one.path: (one.is_read_by_all, one.is_written_by_all) for one in setup.secrets(subject)
    }
    assert found == {str(token): (True, False), str(file): (False, True)}
    assert setup.secrets(an_agent(tmp_path)) == []


def test_a_port_is_ours_if_the_process_of_our_claim_listens_there(tmp_path: Path) -> None:
    """Another program's port is not, though ours runs; nor is one while nothing of ours runs."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder, socket.create_server(("127.0.0.1", 0)) as foreign:
        assert holder.stdout is not None
        ours, others = int(holder.stdout.readline()), foreign.getsockname()[1]
        keys = f', "listen_port": {ours}, "metrics_port": {others}'
        text = a_manager(tmp_path, "")
        config = attrs.evolve(text.manager, listen_port=ours, metrics_port=others)
        subject = attrs.evolve(text, config=config)
        (claim,) = setup.running(subject)
        api, metrics = setup.ports(subject)
        elsewhere = attrs.evolve(config, data_dir=str(tmp_path / "other"))
        foreigner, _ = setup.ports(attrs.evolve(subject, config=elsewhere))
        holder.communicate()
    assert keys
    assert f"holder, process {holder.pid}, since" in claim.text
    assert (api.is_ours, api.is_in_use, api.holder) == (True, True, claim.text)
    assert (metrics.is_ours, metrics.is_in_use) == (False, True)
    assert (foreigner.is_ours, foreigner.is_in_use) == (False, True)
    assert [one.text for one in setup.running(subject)] == [""]


@pytest.mark.parametrize("is_running", [True, False])
def test_a_port_that_only_the_service_may_have_is_its_own_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_running: bool
) -> None:
    """A unit lets its user listen at port 80, as whom the doctor is refused the port."""
    subject = a_manager(tmp_path, "")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    claims = [Holder("/db", "rebalancer-manager, process 7, since noon")] if is_running else []
    monkeypatch.setattr(setup, "running", lambda _: claims)
    monkeypatch.setattr(setup, "_listens", lambda *_: None)
    monkeypatch.setattr("socket.socket.bind", refuse)

    assert {one.is_ours for one in setup.ports(subject)} == {is_running}
    assert {one.is_forbidden for one in setup.ports(subject)} == {True}


@pytest.mark.parametrize("host", ["192.0.2.7", "no address"])
def test_an_address_of_another_machine_cannot_be_served_on(tmp_path: Path, host: str) -> None:
    """Nor what is none."""
    subject = an_agent(tmp_path)
    config = attrs.evolve(subject.agent, server=attrs.evolve(subject.agent.server, host=host))
    api, _ = setup.ports(attrs.evolve(subject, config=config))

    assert api.trouble
    assert not api.is_in_use


def test_the_user_and_the_owner_are_named(tmp_path: Path) -> None:
    """The state may not be there yet."""
    seen = setup.who(an_agent(tmp_path))
    assert (seen.owner, seen.is_root) == (None, os.geteuid() == 0)


def test_both_kinds_of_configurations_have_an_access() -> None:
    """By which secrets are found."""
    assert isinstance(AgentConfig().api, ApiAccess)
