"""Both configuration files, and the environment variables that override them."""

import json
import math
import re
from contextlib import suppress
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.config import AgentConfig, ManagerConfig, Options, read_agent, read_manager
from rebalancer.errors import ConfigError

MINIMAL: dict[str, Any] = {"domain_name": "lab", "shards": [{"host": "1.moray.lab"}]}


def manager(changes: dict[str, Any] | None = None, **variables: str) -> ManagerConfig:
    return read_manager(json.dumps({**MINIMAL, **(changes or {})}), "f", variables)


def agent(text: str = "", **variables: str) -> AgentConfig:
    return read_agent(text, "f", variables)


@pytest.mark.row("N20")
def test_defaults_are_the_deployed_ones() -> None:
    """What no file says."""
    config = manager()

    assert (config.listen_port, config.log_level, config.max_fill_percentage) == (80, "info", 100)
    options = config.options
    assert (options.max_tasks_per_assignment, options.max_metadata_update_threads) == (50, 10)
    assert (options.max_md_read_threads, options.max_sharks) == (10, 5)
    assert (options.use_static_md_update_threads, options.static_queue_depth) == (False, 10)
    assert (options.max_assignment_age, options.use_batched_updates) == (600, True)
    assert (options.md_read_chunk_size, config.discovery) == (10_000, "direct_db")
    assert config.storinfo == "storinfo.lab"


@pytest.mark.row("IMP-10", "DEF-11")
def test_a_file_of_the_deployed_template_is_read() -> None:
    """With the keys it has, the misspelt one, and those of a later one that mean nothing here."""
    config = read_manager(
        json.dumps(
            {
                "options": {"max_tasks_per_assignment": 20, "use_batched_updates": False},
                "domain_name": "us.joyent.us",
                "shards": [{"host": "10.moray.us"}, {"host": "2.moray.us", "last": True}],
                "snaplink_cleanup_required": True,
                "max_fill_precentage": 91,
                "log_level": "WARN",
                "direct_db": True,
                "mdapi": {"shards": [], "max_batch_size": 100},
            }
        ),
        "f",
    )

    assert [shard.number for shard in config.shards] == [2, 10]
    assert (config.max_fill_percentage, config.snaplink_cleanup_required) == (91, True)
    assert (config.options.max_tasks_per_assignment, config.options.max_sharks) == (20, 5)


def test_buckets_shards_may_be_where_a_later_predecessor_has_them() -> None:
    """They are looked at where there is a PostgreSQL to look in: RPC cannot show all objects."""
    template: dict[str, Any] = {"mdapi": {"shards": [{"host": "2.buckets-mdapi.us"}]}}

    config = manager({**template, "buckets_primary": "{shard}.buckets-postgres.us"})

    assert [shard.number for shard in config.buckets_shards] == [2]
    assert (config.looks_at_buckets, config.buckets_update) == (True, "sql")
    assert not manager(template).looks_at_buckets


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"buckets_primary": "{shard}.x"}, "buckets_primary: expected buckets_shards with it"),
        (
            {"buckets_shards": [{"host": "1.b"}], "buckets_clone": "{shard}.x"},
            "buckets_clone: expected buckets_primary with it",
        ),
        (
            {"buckets_shards": [{"host": "1.b"}], "buckets_primary": "1.x"},
            "buckets_primary: expected a host name with {shard} in it, got '1.x'",
        ),
        (
            {"buckets_shards": [{"host": "1.b"}], "buckets_primary": "{shard}/x"},
            "buckets_primary: expected a host name with {shard} in it, got '{shard}/x'",
        ),
        (
            {"buckets_shards": [{"host": "1.b"}, {"host": "1.c"}]},
            "buckets_shards: expected each number once",
        ),
        ({"buckets_update": "batch"}, "buckets_update: expected one of sql, mdapi, off, got"),
    ],
)
def test_keys_of_the_buckets_tier_that_do_not_fit_are_refused(
    given: dict[str, Any], expected: str
) -> None:
    """One that has no effect would let an operator believe that bucket objects are looked at."""
    with pytest.raises(ConfigError, match=re.escape(expected)):
        manager(given)


def test_a_region_with_bucket_objects_is_known_by_their_shards() -> None:
    """As the template of a later predecessor lists them, unless the operator says otherwise."""
    some: dict[str, Any] = {"mdapi": {"shards": [{"host": "1.buckets-mdapi.us"}], "news": 1}}

    assert manager(some).has_bucket_objects
    assert not manager({**some, "has_bucket_objects": False}).has_bucket_objects
    nothing: tuple[Any, ...] = ({}, {"shards": []}, None, [])
    for none in nothing:
        assert not manager({"mdapi": none}).has_bucket_objects


@pytest.mark.row("DEF-11")
def test_the_right_spelling_wins() -> None:
    """Of the limit of fill."""
    assert manager({"max_fill_precentage": 1, "max_fill_percentage": 80}).max_fill_percentage == 80


def test_a_file_of_the_deployed_agent_is_read() -> None:
    """Its two tables, and nothing else."""
    config = agent(
        """
        [server]
        host = "0.0.0.0"
        port = 7878
        workers = 2
        workers_per_assignment = 3
        [metrics]
        host = "0.0.0.0"
        port = 8878
        datacenter = "dc1"
        service = "1.rebalancer-agent"
        server = "cn1"
        """
    )

    assert (config.server.workers, config.server.workers_per_assignment) == (2, 3)
    assert (config.metrics.datacenter, config.storage.manta_root) == ("dc1", "/manta")
    assert str(config.storage.temp) == "/manta/rebalancer"


def refusal(text: str, *, of_agent: bool = False) -> tuple[str, ...]:
    """All that is wrong with a file."""
    read = read_agent if of_agent else read_manager
    with pytest.raises(ConfigError) as caught:
        read(text, "f", {})
    assert str(caught.value) == f"f: {'; '.join(caught.value.faults)}"
    return caught.value.faults


def test_unknown_keys_are_errors_that_name_the_nearest() -> None:
    """By their paths; a limit that is misspelt would be none."""
    text = "[server]\nprt = 1\n[colours]\nred = 1\n[server.port]"
    assert refusal(text, of_agent=True)[:2] == (
        "colours: unknown key; expected one of server, metrics, storage, source, api, log, hosts",
        "server.prt: unknown key; did you mean port?",
    )
    changes = {
        "max_fill_percentge": 80,
        "options": {"max-sharks": 3},
        "shards": [{"host": "1.moray.lab", "post": 1}],
    }
    assert refusal(json.dumps({**MINIMAL, **changes})) == (
        "max_fill_percentge: unknown key; did you mean max_fill_percentage?",
        "shards[0].post: unknown key; did you mean host?",
        "options.max-sharks: unknown key; did you mean max_sharks?",
    )


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Keys, kinds, ranges, what is missing, and variables."""
    changes = {
        "listen_port": "80",
        "prt": 1,
        "metrics_port": 99_999,
        "shards": [{"host": "1.moray.lab"}, {"host": "x"}, {}, 7],
        "options": {"max_sharks": 0, "max_assignment_age": -1},
        "log_level": "loud",
        "http_timeout_s": math.inf,
        "blacklist_datacenters": [1, 2],
    }
    assert refusal(json.dumps(changes).replace("Infinity", "1e999")) == (
        "prt: unknown key; did you mean listen_port?",
        "domain_name: required, and missing",
        "shards[1].host: expected a name that starts with its number, got 'x'",
        "shards[2].host: required, and missing",
        "shards[3]: expected an object",
        'listen_port: expected a whole number, got "80"',
        "metrics_port: expected at least 0 and at most 65535, got 99999",
        "log_level: expected one of trace, debug, info, warning, error, critical, got 'loud'",
        "options.max_sharks: expected at least 1, got 0",
        "options.max_assignment_age: expected at least 0, got -1",
        "blacklist_datacenters: expected a string, got 1 at blacklist_datacenters[0];"
        " expected a string, got 2 at blacklist_datacenters[1]",
        "http_timeout_s: expected at least 1, got inf",
    )


@pytest.mark.parametrize("host", ["0.moray.lab", "\u00b2.moray.lab", f"{'9' * 5000}.moray.lab"])
def test_a_shard_has_a_number_that_can_be_one(host: str) -> None:
    """From one, and in digits."""
    (fault,) = refusal(json.dumps({**MINIMAL, "shards": [{"host": host}]}))
    assert fault.startswith("shards[0].host: expected a name that starts with its number, got ")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [*attrs.fields_dict(ManagerConfig), *attrs.fields_dict(Options), "host"]
                )
                | st.text(max_size=9),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_any_document_is_a_configuration_or_an_error(document: Any) -> None:
    """Never another exception than ours, whatever lies where."""
    with suppress(ConfigError):
        read_manager(
            json.dumps({**MINIMAL, **document} if isinstance(document, dict) else document), "f"
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"listen_port": "80"}, ["expected a whole number", '"80"', "listen_port"]),
        ({"listen_port": 65536}, ["at most 65535", "65536", "listen_port"]),
        ({"listen_port": True}, ["expected a whole number", "true", "listen_port"]),
        ({"options": {"max_sharks": 0}}, ["options.max_sharks: expected at least 1"]),
        ({"options": []}, ["expected an object", "options"]),
        ({"shards": "1.moray.lab"}, ["expected a list", "shards"]),
        (
            {"shards": [{"host": "moray.lab"}]},
            ["host: expected a name that starts with its number", "shards[0]"],
        ),
        ({"shards": MINIMAL["shards"] * 2}, ["each number once"]),
        ({"log_level": "loud"}, ["expected one of", "'loud'", "log_level"]),
        ({"discovery": "magic"}, ["expected one of direct_db, moray", "discovery"]),
        ({"blacklist_datacenters": "dc1"}, ["expected a list", "blacklist_datacenters"]),
        ({"hosts": {"a": "b:x"}}, ["expected a port number", "hosts"]),
        ({"domain_name": None}, ["expected a string", "domain_name"]),
    ],
)
def test_a_value_that_does_not_fit_is_an_error(changes: dict[str, Any], words: list[str]) -> None:
    """It names the file, the key, the value and what was expected."""
    with pytest.raises(ConfigError) as caught:
        manager(changes)

    assert str(caught.value).startswith("f: ")
    assert [word for word in words if word not in str(caught.value)] == []


def test_variables_override_the_managers_file() -> None:
    """Those of the rewrite that still make sense; empty ones count as none."""
    shards = [{"host": f"{number}.moray.lab"} for number in range(1, 6)]
    config = manager(
        {"shards": shards, "storinfo_url": "http://old"},
        STORINFO_URL="http://127.0.0.1:81",
        HTTP_TIMEOUT_SECS="7",
        SNAPLINK_CLEANUP_REQUIRED="Yes",
        BLACKLIST_DATACENTERS="dc1, dc2,",
        MORAY_MIN_SHARD="2",
        MORAY_MAX_SHARD="4",
        METRICS_ADDRESS="[::1]:99",
        DATA_DIR="not the manager's",
    )

    assert (config.storinfo, config.http_timeout_s) == ("127.0.0.1:81", 7)
    assert config.snaplink_cleanup_required
    assert config.blacklist_datacenters == ("dc1", "dc2")
    assert [shard.number for shard in config.shards] == [2, 3, 4]
    assert (config.metrics_host, config.metrics_port) == ("::1", 99)
    assert config.data_dir == "/rebalancer/db"
    assert manager({"storinfo_url": "http://old"}, STORINFO_URL="").storinfo == "old"


@pytest.mark.row("CRIT-10")
def test_variables_override_the_agents_file() -> None:
    """Also where there is no file; other keys of the same table stay."""
    variables = {
        "MANTA_ROOT": "/m",
        "DATA_DIR": "/s",
        "CONCURRENT_DOWNLOADS": "4",
        "DOWNLOAD_TIMEOUT_SECS": "300",
        "METRICS_ADDRESS": "127.0.0.1:99",
    }
    config = agent("[server]\nworkers = 7\n[source]\nretries = 1", **variables)

    assert (config.storage.manta_root, config.storage.state_dir) == ("/m", "/s")
    assert (config.server.workers, config.server.workers_per_assignment) == (7, 4)
    assert (config.source.idle_timeout, config.source.retries) == (300, 1)
    assert (config.metrics.host, config.metrics.port) == ("127.0.0.1", 99)
    assert agent(**variables).server.workers_per_assignment == 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HTTP_TIMEOUT_SECS", "soon"),
        ("MORAY_MAX_SHARD", "1.5"),
        ("METRICS_ADDRESS", "127.0.0.1"),
        ("METRICS_ADDRESS", "127.0.0.1:x"),
    ],
)
def test_a_variable_that_cannot_be_used_is_an_error(name: str, text: str) -> None:
    """It names the variable and its value."""
    with pytest.raises(ConfigError, match=f"environment variable {name}: expected .*'{text}'"):
        manager({}, **{name: text})


def test_what_is_no_document_is_an_error() -> None:
    """JSON for the manager, TOML for the agent."""
    for text in ("", "{", "[]", "7", "\x00"):
        with pytest.raises(ConfigError, match="^f: "):
            read_manager(text, "f")
    for text in ("[", "a", "a = ", "\x00"):
        with pytest.raises(ConfigError, match="^f: "):
            read_agent(text, "f")


def test_agents_are_posted_to_in_a_form_there_is() -> None:
    """Each by its name."""
    forms = {"2.stor.lab": "tagged", "3.stor.lab": "tagged-array"}

    assert manager({"agent_dialects": forms}).agent_dialects == forms
    with pytest.raises(ConfigError, match="2.stor.lab: expected one of legacy, tagged,"):
        manager({"agent_dialects": {"2.stor.lab": "new"}})


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a" + ".a" * 5000 + " = 1"])
def test_a_deep_file_of_an_agent_is_an_error_or_a_file(text: str) -> None:
    """Deeper than the parser can follow: no other exception than ours."""
    with suppress(ConfigError):
        read_agent(text, "agent.toml")


def test_a_deep_file_of_a_manager_is_an_error() -> None:
    """SIGUSR1 reads it while jobs run, so nothing but our own error may come of it."""
    with pytest.raises(ConfigError, match=r"config\.json: .*nested too deeply"):
        read_manager('{"a":' * 100_000, "config.json")


def test_metrics_have_an_address_of_their_own() -> None:
    """Whoever checks such a file learns it before a start that fails for the second of both."""
    with pytest.raises(ConfigError, match=r"metrics_port: expected another.*got port 8878"):
        manager({"listen_port": 8878})
    with pytest.raises(ConfigError, match=r"metrics\.port: expected another.*got port 8878"):
        agent("[server]\nhost = '127.0.0.1'\nport = 8878\n[metrics]\nhost = '127.0.0.1'")
    free = {"listen_port": 0, "metrics_port": 0}
    assert manager(free).listen_port == 0
    assert manager({"listen_port": 8878, "metrics_host": "127.0.0.1"}).metrics_port == 8878
