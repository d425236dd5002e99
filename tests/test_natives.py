"""What is compiled in an installation is named as it is, and never needed."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from rebalancer import jsontext
from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.sources.choice import open_engine
from rebalancer.config import AgentSource
from rebalancer.natives import PACKAGES, describe
from rebalancer.peers.moray import crc

ROOT = Path(__file__).parent.parent
#: What the tests of this environment are to be about: `tools/test` sets it.
DEMANDED = os.environ.get("REBALANCER_TEST_BUILD")
PURE = {
    "build": "pure",
    "json": "python",
    "crc": "python",
    "engine": "plain",
    "postgres": "python",
}
NATIVE = {
    "build": "native",
    "json": "msgspec",
    "crc": "fastcrc",
    "engine": "libcurl",
    "postgres": "binary",
}


def test_a_build_is_named_by_what_it_loads() -> None:
    """Each part as the module has it that makes the choice."""
    forms = describe()

    assert forms["json"] == ("msgspec" if "msgspec" in vars(jsontext) else "python")
    assert forms["crc"] == vars(crc)["arc"].__module__.partition(".")[0].replace(
        "rebalancer", "python"
    )
    assert forms["engine"] == open_engine(AgentSource(), Allowance(), 4).name
    assert forms["postgres"] == psycopg.pq.__impl__
    assert forms in {"pure": [PURE], "native": [NATIVE]}.get(DEMANDED or "", [forms])


def test_what_is_compiled_is_required_only_where_there_are_wheels() -> None:
    """An installation on illumos would need compilers of two languages else."""
    requirements = [line for line in (ROOT / "setup.cfg").read_text().splitlines() if ">=" in line]
    for package in PACKAGES:
        name = "psycopg[binary]" if package == "psycopg_binary" else package
        found = [line for line in requirements if line.strip().startswith(f"{name}>=")]
        assert found, name
        assert all("sys_platform ==" in line for line in found), found


PROGRAM = f"""
import sys
for package in {sorted(PACKAGES)}:
    sys.modules[package] = None
import rebalancer.cli, rebalancer.agent.main, rebalancer.manager.main, rebalancer.adm.commands
import rebalancer.agent.transfer.process
print(*sys.modules)
"""


def test_no_program_needs_what_is_compiled() -> None:
    """All are imported without, as on a system for which there are no wheels."""
    loaded = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True).split()

    assert "rebalancer.peers.moray.crc_table" in loaded
