"""What `tools/release` makes for Manta's zones is set up, runs and empties a node there.

SmartOS is not here: its tools are stubs, Manta's own scripts a stand-in, and zones are namespaces.
"""

import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from rebalancer.config import AgentConfig
from rebalancer_devregion import layout as layouts
from rebalancer_devregion.contents import write
from rebalancer_devregion.layout import SOURCE_PORT, Layout
from rebalancer_devregion.servers import parts
from tests.conftest import require
from tests.installed.zones import NOBODY, Service, Zone, network, unpack, zone
from tests.test_sapi import DEFAULTS, every

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "manta_scripts"
IMAGE = "0c1d7b5e-6a60-4c8f-9d2e-3f6a6b1f0a11"
MANIFEST = "/opt/smartdc/{0}/smf/manifests/{0}.xml"
OBJECTS = 40
#: The region is not what is tested: the checkout serves it.
REGION = [sys.executable, "-m", "rebalancer", "region"]

release: Callable[..., None] = runpy.run_path(str(ROOT / "tools" / "release"))["release"]


@pytest.fixture(scope="module")
def released(built_pure: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what a release has; both programs are of one build."""
    for program in ("unshare", "nsenter", "setpriv", "ip", "jq", "curl"):
        require(program)
    folder = tmp_path_factory.mktemp("released")
    release(folder, (built_pure, built_pure), "master", SCRIPTS)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def pairs(table: Mapping[str, str]) -> list[dict[str, Any]]:
    """A table as SAPI has it."""
    listed: list[dict[str, Any]] = [{"name": name, "value": table[name]} for name in table]
    listed[-1]["last"] = True
    return listed


def of_the_region(layout: Layout) -> dict[str, Any]:
    """What SAPI knows of a region: what each Manta has, then what only this one needs."""
    hosts = [{"host": layout.moray_host(number)} for number in layout.shards]
    return {
        "DOMAIN_NAME": layout.domain,
        "INDEX_MORAY_SHARDS": [*hosts[:-1], {**hosts[-1], "last": True}],
        "ZK_SERVERS": [{"host": "10.0.0.1", "port": 2181, "last": True}],
        "REBALANCER_HOSTS": pairs(layout.hosts),
        "REBALANCER_STORAGE_PORT": SOURCE_PORT,
        "REBALANCER_DISCOVERY": "moray",
        "REBALANCER_METRICS_HOST": layout.manager_address,
        "REBALANCER_AGENT_HOSTS": pairs(layout.hosts),
        "REBALANCER_AGENT_SOURCE_PORT": SOURCE_PORT,
        "REBALANCER_AGENT_STORAGE_RESERVE_MB": 64,
        "REBALANCER_AGENT_FETCHERS": 1,
    }


def of_the_manager(layout: Layout) -> dict[str, Any]:
    service = f"rebalancer.{layout.domain}"
    auto = {"SERVER_UUID": "cn-1", "MANTA_IP": "10.0.0.9"}
    return {**of_the_region(layout), "SERVICE_NAME": service, "DATACENTER": "dc1", "auto": auto}


def of_an_agent(layout: Layout, node: layouts.Node) -> dict[str, Any]:
    return {
        **of_the_region(layout),
        "SERVICE_NAME": f"stor.{layout.domain}",
        "DATACENTER": node.datacenter,
        "REBALANCER_AGENT_HOST": node.address,
        "REBALANCER_AGENT_METRICS_HOST": node.address,
        "auto": {"SERVER_UUID": "cn-2"},
    }


class World:
    """A region whose manager and agents run in zones; what is started here ends with it."""

    def __init__(self, folder: Path, released: Path, stack: ExitStack) -> None:
        self.folder, self.released, self._stack = folder, released, stack
        self.net = stack.enter_context(network())
        self.layout = layouts.plan(folder / "region")
        self.dataset = folder / "dataset"
        self.dataset.mkdir()

    def manager_zone(self, name: str) -> Zone:
        """Provision the manager's zone, or provision it anew: the dataset stays."""
        root = self.folder / name
        unpack(only(self.released, "rebalancer-pkg-*"), root, 1)
        made = self._stack.enter_context(zone(root, self.net, {self.dataset: "/dataset"}))
        made.render("rebalancer", of_the_manager(self.layout))
        return made

    def agent_zone(self, node: layouts.Node) -> Zone:
        """Make a storage zone and install the agent, as manta-hotpatch-rebalancer-agent does."""
        name = node.manta_storage_id
        root = self.folder / name
        patch = root / "opt" / "smartdc" / f"rebalancer-agent.hotpatch-{IMAGE}"
        unpack(only(self.released, "rebalancer-agent-*.tar.gz"), patch, 4)
        (patch.parent / "rebalancer-agent").symlink_to(patch.name)
        manta = self.layout.manta_root(name)
        manta.mkdir(parents=True, exist_ok=True)
        os.chown(manta, NOBODY, NOBODY)
        mounts = {manta: "/manta"}
        made = self._stack.enter_context(zone(root, self.net, mounts))
        made.render("rebalancer-agent", of_an_agent(self.layout, node))
        made.run("/opt/local/bin/config-agent")
        return made

    def service(self, place: Zone, program: str) -> Service:
        """Return a service that starts."""
        found = place.service(MANIFEST.format(program))
        self._stack.callback(found.kill)
        found.start()
        return found

    def serve(self, objects: int) -> None:
        """Make the region, and run what is neither manager nor agent."""
        self.layout.save()
        write(self.layout, objects)
        for path in (self.layout.folder / "nodes").rglob("*"):
            os.chown(path, NOBODY, NOBODY)
        names = [word for name in parts(self.layout) for word in ("--part", name)]
        command = [*REGION, "serve", str(self.layout.folder)]
        log = self.folder / "servers.log"
        with log.open("wb") as out:
            servers = subprocess.Popen([*self.net, *command, *names], stdout=out, stderr=out)
        self._stack.callback(servers.wait)
        self._stack.callback(servers.terminate)
        until = time.monotonic() + 60
        while "listening" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)


@pytest.fixture
def world(released: Path, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, released, stack)


# --- the files -----------------------------------------------------------------------------------


def test_the_same_commit_gives_the_same_release(
    released: Path, built_pure: Path, tmp_path: Path
) -> None:
    """Neither the folder nor the time is in what it makes, nor who made it."""
    release(tmp_path, (built_pure, built_pure), "master", SCRIPTS)

    names = sorted(path.name for path in released.iterdir())
    assert [
        name for name in names if (tmp_path / name).read_bytes() != (released / name).read_bytes()
    ] == []
    with tarfile.open(only(released, "rebalancer-pkg-*")) as opened:
        entries = opened.getmembers()
    assert {(one.uid, one.gid, one.uname) for one in entries} == {(0, 0, "root")}


def test_mantas_tools_find_the_agent(released: Path) -> None:
    """By name, stamp and layout; the image's manifest is of these bytes."""
    tarball = only(released, "rebalancer-agent-*.tar.gz")
    manifest = json.loads(only(released, "rebalancer-agent-*.manifest").read_text())
    body = tarball.read_bytes()
    (file,) = manifest["files"]
    with tarfile.open(tarball) as opened:
        names = {
            name.removeprefix("root/opt/smartdc/rebalancer-agent/") for name in opened.getnames()
        }

    assert tarball.name == f"rebalancer-agent-{manifest['version']}.tar.gz"
    assert manifest["version"].startswith("master-20")
    assert (manifest["name"], manifest["type"]) == ("mantav2-rebalancer-agent", "other")
    assert file == {
        "sha1": hashlib.sha1(body).hexdigest(),
        "size": len(body),
        "compression": "gzip",
    }
    assert {
        "bin/rebalancer-agent",
        "smf/manifests/rebalancer-agent.xml",
        "sapi_manifests/rebalancer-agent/manifest.json",
        "sapi_manifests/rebalancer-agent/template",
    } <= names


# --- the zones -----------------------------------------------------------------------------------


def test_the_managers_zone_is_set_up_once_however_often_it_is(world: World) -> None:
    """The dataset is mounted, the service imported, logs rotated, metrics announced."""
    place = world.manager_zone("manager")
    for _ in range(2):
        place.run("/opt/smartdc/boot/setup.sh && /opt/smartdc/boot/configure.sh")

    # A file that config-agent could not write, without SAPI, is no reason to fail a boot.
    (place.root / "opt/smartdc/rebalancer/config.json").unlink()
    place.run("/opt/smartdc/boot/configure.sh")

    assert set(place.calls("svccfg")) == {f"import {MANIFEST.format('rebalancer')}"}
    assert set(place.calls("mdata-put")) == {"metricPorts 8878"}
    assert [call for call in place.calls("zfs") if call.startswith("set")] == [
        "set mountpoint=/rebalancer zones/7e3f1f0a-0000-4000-8000-00000000000a/data"
    ]
    rotation, _ = dict.fromkeys(place.calls("logadm"))
    assert rotation.startswith("-w rebalancer -C 48 -c -p 1h -t /var/log/manta/upload/rebalancer_")
    assert place.run("cat /root/.bashrc").count("/opt/smartdc/rebalancer/bin") == 1
    registrar = json.loads((place.root / "opt/smartdc/registrar/etc/config.json").read_text())
    assert registrar["registration"] == {
        "domain": f"rebalancer.{world.layout.domain}",
        "type": "load_balancer",
        "ttl": 30,
        "service": {
            "type": "service",
            "ttl": 60,
            "service": {"srvce": "_http", "proto": "_tcp", "port": 80},
        },
    }


def test_a_zone_without_a_dataset_is_refused(world: World) -> None:
    """Its jobs would be lost with its image; the log says so."""
    place = world.manager_zone("manager")
    place.run("printf '#!/bin/sh\nexit 1\n' > /opt/local/bin/zfs")

    printed = place.run("/opt/smartdc/boot/setup.sh", code=1)
    assert "the zone has no delegated dataset zones/7e3f1f0a-" in printed
    assert not (place.root / "opt/smartdc/rebalancer/config.json").exists()


def test_a_node_is_evacuated_from_zones(world: World) -> None:
    """Set up, started, refreshed and stopped by what the files say; jobs outlive the image."""
    world.serve(OBJECTS)
    place = world.manager_zone("manager")
    place.run("/opt/smartdc/boot/setup.sh && /opt/smartdc/boot/configure.sh")
    manager = world.service(place, "rebalancer")
    agents = []
    for node in world.layout.nodes[1:]:
        storage = world.agent_zone(node)
        agents.append(world.service(storage, "rebalancer-agent"))
    for one in (manager, *agents):
        one.wait_for("listening")
    for agent in agents:
        version = agent.zone.run("/opt/smartdc/rebalancer-agent/bin/rebalancer-agent --version")
        assert re.fullmatch(r"rebalancer-agent 1\.\S+ \(master-20\S+, .*pure\)\n", version)
    running = {one: set(one.processes()) for one in (manager, *agents)}

    # The region has records that nobody could move; the audit knows each.
    create = "rebalancer-adm job create evacuate --shark 1.stor --watch"
    assert "is complete" in place.run(f". /root/.bashrc; {create}", code=3)
    (job,) = (world.dataset / "db").glob("*-*.sqlite")
    subprocess.run([*REGION, "audit", world.layout.folder, job], check=True)

    # config-agent writes a file in place, then has the service refreshed; so do operators.
    metadata = {**of_the_manager(world.layout), "MUSKIE_MAX_UTILIZATION_PCT": 80}
    place.render("rebalancer", metadata)
    place.run("/opt/local/bin/config-agent")
    manager.wait_for("configuration reloaded", manager.refresh())
    for agent in agents:
        agent.refresh()
    assert {one: set(one.processes()) for one in (manager, *agents)} == running
    owners = {path.stat().st_uid for path in (world.layout.folder / "nodes").rglob("*")}
    assert owners == {NOBODY}
    for one in (manager, *agents):
        one.stop()

    anew = world.manager_zone("manager-of-the-next-image")
    anew.run("/opt/smartdc/boot/setup.sh && /opt/smartdc/boot/configure.sh")
    manager = world.service(anew, "rebalancer")
    manager.wait_for("listening")
    assert job.stem in anew.run(". /root/.bashrc; rebalancer-adm job list")
    manager.stop()


def secrets(place: Zone, user: int) -> dict[str, str]:
    """Put a token and a certificate into a zone, for a user's eyes; return where they are."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    contents = {
        "token": b"0123456789abcdef",
        "cert": certificate.cert_chain_pems[0].bytes(),
        "key": certificate.private_key_pem.bytes(),
        "ca": authority.cert_pem.bytes(),
    }
    folder = place.root / "secrets"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
        os.chown(folder / name, user, user)
    return {name: f"/secrets/{name}" for name in contents}


def test_the_programs_start_with_every_variable_of_sapi_and_with_none(world: World) -> None:
    """Ports, tokens and TLS are as the files say; what else is, tests/test_sapi.py has."""
    place = world.manager_zone("manager")
    of_manta = {"DOMAIN_NAME": "lab", "INDEX_MORAY_SHARDS": [{"host": "1.moray.lab", "last": True}]}
    place.render("rebalancer", of_manta)
    place.run("/opt/smartdc/boot/setup.sh")
    manager = world.service(place, "rebalancer")
    manager.wait_for("listening")
    assert place.run("curl -sS http://127.0.0.1/ping -o /dev/null -w '%{http_code}'") == "200"
    assert (world.dataset / "db" / "rebalancer.sqlite").exists()
    manager.stop()

    files = secrets(place, 0)
    changes = {
        "REBALANCER_LISTEN_HOST": "127.0.0.1",
        "REBALANCER_METRICS_HOST": "127.0.0.1",
        "REBALANCER_LOG_LEVEL": "debug",
        "REBALANCER_DATA_DIR": "/rebalancer/elsewhere",
        "REBALANCER_STORINFO_URL": "http://storinfo.lab",
        "REBALANCER_API_TOKEN_FILE": files["token"],
        "REBALANCER_API_TLS_CERT": files["cert"],
        "REBALANCER_API_TLS_KEY": files["key"],
        "REBALANCER_AGENT_TOKEN_FILE": files["token"],
        "REBALANCER_AGENT_TLS_CA": files["ca"],
    }
    place.render("rebalancer", {**every("rebalancer", DEFAULTS), **changes})
    place.run("/opt/local/bin/config-agent")
    begin = manager.log.stat().st_size
    manager.start()
    manager.wait_for("listening", begin)
    ask = "curl -sS --cacert /secrets/ca https://127.0.0.1:79/jobs -o /dev/null -w '%{http_code}'"
    assert place.run(ask) == "401"
    assert place.run(f"{ask} -H 'Authorization: Bearer 0123456789abcdef'") == "200"
    manager.stop()

    storage = world.agent_zone(world.layout.nodes[0])
    storage.render("rebalancer-agent", {})
    storage.run("/opt/local/bin/config-agent")
    agent = world.service(storage, "rebalancer-agent")
    agent.wait_for("listening")
    agent.stop()

    files = secrets(storage, NOBODY)
    changes = {
        "REBALANCER_AGENT_HOST": "127.0.0.1",
        "REBALANCER_AGENT_METRICS_HOST": "127.0.0.1",
        "REBALANCER_AGENT_LOG_LEVEL": "debug",
        "REBALANCER_AGENT_STORAGE_MANTA_ROOT": "/manta",
        "REBALANCER_AGENT_STORAGE_TEMP_DIR": "/manta/unfinished",
        "REBALANCER_AGENT_STORAGE_STATE_DIR": "/var/tmp/elsewhere",
        "REBALANCER_AGENT_API_TOKEN_FILE": files["token"],
        "REBALANCER_AGENT_API_TLS_CERT": files["cert"],
        "REBALANCER_AGENT_API_TLS_KEY": files["key"],
    }
    storage.render("rebalancer-agent", {**every("rebalancer-agent", AgentConfig()), **changes})
    storage.run("/opt/local/bin/config-agent")
    begin = agent.log.stat().st_size
    agent.start()
    agent.wait_for("listening", begin)
    ask = ask.replace(":79/jobs", ":7877/status")
    assert storage.run(ask) == "401"
    assert storage.run(f"{ask} -H 'Authorization: Bearer 0123456789abcdef'") == "200"
    agent.stop()
