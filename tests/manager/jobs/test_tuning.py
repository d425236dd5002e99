"""What changes of a running job's configuration, and what waits."""

import attrs

from rebalancer.config import ManagerConfig, Options, Shard
from rebalancer.manager.jobs.tuning import Tuning, adopted, reloaded, tuned

CONFIG = ManagerConfig(domain_name="lab", shards=(Shard("1.moray.lab"),))


def test_what_an_operator_asked_for_outweighs_the_file() -> None:
    """Only what was asked for."""
    tuning = Tuning(max_metadata_update_threads=30, max_sharks=2, bandwidth_bytes_per_s=5)
    options = Options(max_metadata_update_threads=30, max_sharks=2)
    assert tuned(CONFIG, tuning) == attrs.evolve(CONFIG, options=options)
    assert tuned(CONFIG, Tuning()) == CONFIG


def test_a_running_job_takes_up_what_is_live() -> None:
    """Fill limit, blacklist and updates at a time; the rest is for the next job."""
    new = attrs.evolve(
        CONFIG,
        max_fill_percentage=80,
        blacklist_datacenters=("dc2",),
        max_attempts=9,
        options=Options(max_metadata_update_threads=3, max_sharks=9),
    )
    options = Options(max_metadata_update_threads=3)
    expected = attrs.evolve(
        CONFIG, max_fill_percentage=80, blacklist_datacenters=("dc2",), options=options
    )
    assert reloaded(CONFIG, new) == expected


def test_what_needs_a_restart_stays_and_is_named() -> None:
    """Else the next job's file would be looked for in another folder."""
    new = attrs.evolve(CONFIG, data_dir="/elsewhere", listen_port=81, max_attempts=9)
    made, kept = adopted(CONFIG, new)
    assert made == attrs.evolve(CONFIG, max_attempts=9)
    assert sorted(kept) == ["data_dir", "listen_port"]
