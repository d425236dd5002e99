"""Programs to be checked, with folders of a test and without peers."""

from pathlib import Path
from typing import Any

from rebalancer.config import read_agent, read_manager
from rebalancer.config.agent import AgentConfig, AgentStorage
from rebalancer.doctor.subject import AGENT, MANAGER, Subject

#: Keys of a manager that moves bucket objects by one way or the other.
BUCKETS = """, "buckets_shards": [{"host": "1.buckets-mdapi.lab"}],
    "buckets_primary": "{shard}.buckets-postgres.lab", "buckets_clone": "{shard}.buckets-clone.lab",
    "buckets_update": "%s\""""


def a_manager(folder: Path, keys: str = "") -> Subject:
    """A manager with `data_dir` in a folder, whose peers are dead addresses, and more keys."""
    text = f"""{{
        "domain_name": "lab", "shards": [{{"host": "1.moray.lab"}}, {{"host": "2.moray.lab"}}],
        "listen_host": "127.0.0.1", "listen_port": 0, "metrics_host": "127.0.0.1",
        "metrics_port": 0, "data_dir": "{folder / "db"}",
        "hosts": {{
            "1.moray.lab": "127.0.0.1:1", "2.moray.lab": "127.0.0.1:1",
            "1.rebalancer-postgres.lab": "127.0.0.1:1", "2.rebalancer-postgres.lab": "127.0.0.1:1",
            "storinfo.lab": "127.0.0.1:1"
        }} {keys}
    }}"""
    return Subject(MANAGER, None, read_manager(text, "a test's"))


def an_agent(folder: Path, **storage: Any) -> Subject:
    """An agent with its folders in one of the test."""
    made = read_agent("", "a test's")
    paths = {"manta_root": str(folder / "manta"), "state_dir": str(folder / "state"), **storage}
    return Subject(AGENT, None, AgentConfig(made.server, storage=AgentStorage(**paths)))


def files_below(folder: Path) -> set[str]:
    """The names of all that is below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
