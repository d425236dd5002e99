"""What jobs are assembled from is there, or the manager does not start."""

import sys

import pytest

from rebalancer.config import ManagerConfig, Shard
from rebalancer.errors import ConfigError
from rebalancer.manager.jobs.assembly import check_discovery


def test_clones_cannot_be_scanned_without_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager says so at its start; one that asks Moray does without."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "rebalancer.peers.postgres", raising=False)

    with pytest.raises(ConfigError, match="discovery 'direct_db': .*; expected libpq, or 'moray'"):
        check_discovery(ManagerConfig("lab", (Shard("1.moray.lab"),), discovery="direct_db"))
    check_discovery(ManagerConfig("lab", (Shard("1.moray.lab"),), discovery="moray"))
