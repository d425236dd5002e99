"""The templates that config-agent renders, by a real mustache library, read by the programs."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import chevron
import pytest
import sapi

from rebalancer.config import AgentConfig, ManagerConfig, Options, Shard, read_agent, read_manager

MANIFESTS = Path(__file__).parent.parent / "sapi_manifests"
OLDER = Path(__file__).parent / "data" / "templates"


def rendered(name: str, metadata: dict[str, Any], template: Path | None = None) -> str:
    path = template or MANIFESTS / name / "template"
    text: str = chevron.render(path.read_text(), metadata)
    return text


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Each key of a configuration under its whole name."""
    found = dict[str, Any]()
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        found |= leaves(value, f"{name}.") if attrs.has(type(value)) else {name: value}
    return found


DEFAULTS = ManagerConfig("lab", (Shard("1.moray.lab"),))
#: What a key may be but for its type; two members, of which the last says that it is.
TEXTS = {
    "log_level": "warn",
    "log.level": "warn",
    "discovery": "moray",
    "source.engine": "plain",
    "api.dialect": "tagged",
    "buckets_primary": "{shard}.primary.lab",
    "buckets_clone": "{shard}.clone.lab",
    "buckets_update": "mdapi",
}
TABLES = {"agent_dialects": "tagged"}


def unusual(key: str, default: Any) -> Any:
    """A value of SAPI by which a key gets another value than it has without."""
    if isinstance(default, bool):
        return True
    if isinstance(default, int | float):
        return default - 1 if default > 1 else default + 1
    if isinstance(default, dict):
        value = TABLES.get(key, "127.0.0.1:9")
        return [{"name": f"{n}.stor", "value": value, "last": n == 2} for n in (1, 2)]
    if isinstance(default, tuple):
        return [{"name": "one"}, {"name": "two", "last": True}]
    return TEXTS.get(key, f"/{key}") if default is not None else 9


def every(program: str, defaults: Any) -> dict[str, Any]:
    """All variables that a template knows, each at a value that is not the default."""
    known, values = sapi.variables(program), leaves(defaults)
    metadata = {known[key]: unusual(key, values[key]) for key in known}
    auto = {"SERVER_UUID": metadata.pop("auto.SERVER_UUID")}
    listed = {"INDEX_MORAY_SHARDS": shards(2, 3), "BUCKETS_MORAY_SHARDS": shards(4, 5)}
    return {**metadata, "auto": auto, **(listed if program == "rebalancer" else {})}


def shards(*numbers: int) -> list[dict[str, Any]]:
    """As SAPI has them: in the order they were deployed, the last one marked."""
    hosts = [{"host": f"{number}.moray.lab"} for number in numbers]
    return [*hosts[:-1], {**hosts[-1], "last": True}]


def manager(metadata: dict[str, Any]) -> ManagerConfig:
    return read_manager(rendered("rebalancer", metadata), "template")


ALWAYS = {"DOMAIN_NAME": "lab", "INDEX_MORAY_SHARDS": shards(1)}


@pytest.mark.row("IMP-10")
@pytest.mark.parametrize("numbers", [(3,), (99, 1000, 200, 2, 100)])
def test_shards_are_ordered_by_their_numbers(numbers: tuple[int, ...]) -> None:
    """From the least to the greatest, however they are listed: 2 is before 100."""
    config = manager({**ALWAYS, "INDEX_MORAY_SHARDS": shards(*numbers)})

    assert [shard.number for shard in config.shards] == sorted(numbers)


@pytest.mark.row("IMP-10")
def test_the_managers_template_without_tunables_gives_the_defaults() -> None:
    """Also where SAPI has what config-agent takes for missing."""
    config = manager(ALWAYS)

    assert config == ManagerConfig("lab", config.shards)
    nothing = {"SNAPLINK_CLEANUP_REQUIRED": False, "REBALANCER_MAX_SHARKS": 0}
    assert manager({**ALWAYS, **nothing, "REBALANCER_BLACKLIST_DATACENTERS": []}) == config


@pytest.mark.row("IMP-10")
def test_the_managers_template_passes_every_tunable() -> None:
    """Each to its key, none left out: the text of the template has no other name."""
    numbers = {
        "REBALANCER_MAX_TASKS_PER_ASSIGNMENT": 61,
        "REBALANCER_MAX_METADATA_UPDATE_THREADS": 62,
        "REBALANCER_MAX_METADATA_READ_THREADS": 63,
        "REBALANCER_MAX_SHARKS": 64,
        "REBALANCER_STATIC_QUEUE_DEPTH": 65,
        "REBALANCER_MAX_ASSIGNMENT_AGE": 66,
        "REBALANCER_MD_READ_CHUNK_SIZE": 67,
        "MUSKIE_MAX_UTILIZATION_PCT": 68,
    }
    metadata = {
        **ALWAYS,
        **numbers,
        "REBALANCER_USE_STATIC_MD_UPDATE_THREADS": True,
        "REBALANCER_NO_BATCHED_UPDATES": True,
        "REBALANCER_LOG_LEVEL": "warn",
        "SNAPLINK_CLEANUP_REQUIRED": True,
        "REBALANCER_BLACKLIST_DATACENTERS": [{"name": "dc1"}, {"name": "dc2", "last": True}],
        "BUCKETS_MORAY_SHARDS": shards(1, 2),
    }
    config = manager(metadata)

    assert config.options == Options(
        max_tasks_per_assignment=61,
        max_metadata_update_threads=62,
        max_md_read_threads=63,
        max_sharks=64,
        static_queue_depth=65,
        max_assignment_age=66,
        md_read_chunk_size=67,
        use_static_md_update_threads=True,
        use_batched_updates=False,
    )
    assert (config.max_fill_percentage, config.log_level) == (68, "warn")
    assert config.snaplink_cleanup_required
    assert config.has_bucket_objects
    assert config.blacklist_datacenters == ("dc1", "dc2")


@pytest.mark.row("IMP-10")
def test_the_agents_template() -> None:
    """With nothing but what each zone has, and with every tunable."""
    zone = {
        "DATACENTER": "dc1",
        "SERVICE_NAME": "1.stor.lab",
        "auto": {"SERVER_UUID": "cn-7"},
    }
    plain = read_agent(rendered("rebalancer-agent", zone), "template")
    assert (plain.server, plain.storage) == (AgentConfig().server, AgentConfig().storage)
    metrics = plain.metrics
    assert (metrics.datacenter, metrics.service, metrics.server) == ("dc1", "1.stor.lab", "cn-7")

    tunables = {
        "REBALANCER_AGENT_PORT": 71,
        "REBALANCER_AGENT_WORKERS": 72,
        "REBALANCER_AGENT_WORKERS_PER_ASSIGNMENT": 73,
        "REBALANCER_AGENT_METRICS_PORT": 74,
    }
    tables = tomllib.loads(rendered("rebalancer-agent", {**zone, **tunables}))
    assert list(tables["server"].values()) == ["0.0.0.0", 71, 72, 73, 2]
    assert tables["metrics"]["port"] == 74


def test_every_key_of_the_manager_can_be_set_and_is_no_default_then() -> None:
    """No key is without a variable, none of them is lost on the way."""
    before = leaves(manager(ALWAYS))
    after = leaves(manager(every("rebalancer", DEFAULTS)))

    assert [key for key in before if before[key] == after[key]] == []
    assert after["exclude_key_prefixes"] == ("one", "two")
    assert after["agent_dialects"] == {"1.stor": "tagged", "2.stor": "tagged"}


def test_every_key_of_the_agent_can_be_set_and_is_no_default_then() -> None:
    """No key is without a variable, none of them is lost on the way."""
    before = leaves(AgentConfig())
    text = rendered("rebalancer-agent", every("rebalancer-agent", AgentConfig()))
    after = leaves(read_agent(text, "template"))

    assert [key for key in before if before[key] == after[key]] == []
    assert leaves(read_agent(rendered("rebalancer-agent", {}), "template")) == before


def test_no_variable_sets_two_keys_by_mistake() -> None:
    """Both programs have those that say where they are, and the port of the agents."""
    manager_has, agent_has = (set(sapi.variables(name).values()) for name in sapi.PROGRAMS)

    both = {"REBALANCER_AGENT_PORT", "DATACENTER", "auto.SERVER_UUID"}
    assert manager_has & agent_has == both
    for name in sapi.PROGRAMS:
        assert len(set(sapi.variables(name).values())) == len(sapi.variables(name))


def test_a_number_that_is_0_comes_as_a_text() -> None:
    """config-agent takes the number for missing, the text it does not."""
    assert manager({**ALWAYS, "REBALANCER_FINAL_SCANS": 0}).final_scans == 2
    assert manager({**ALWAYS, "REBALANCER_FINAL_SCANS": "0"}).final_scans == 0


@pytest.mark.parametrize(
    "text", ["/a<&>'b", "/{{a}}", "/\u00e9\u2028", '/a"b', "/a\\b", "/a\\", "/a\nb"]
)
def test_a_text_comes_as_it_is_and_what_json_escapes_is_escaped_in_the_variable(text: str) -> None:
    """Prefixes of keys and names of files may have any character."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    one = [{"name": escaped, "last": True}]
    known = {"DOMAIN_NAME": "lab", "INDEX_MORAY_SHARDS": [{"host": "1.moray.lab", "last": True}]}
    manager = read_manager(
        rendered("rebalancer", {**known, "REBALANCER_EXCLUDE_KEY_PREFIXES": one}), ""
    )
    name = sapi.variables("rebalancer-agent")["storage.manta_root"]
    agent = read_agent(rendered("rebalancer-agent", {name: escaped}), "")

    assert manager.exclude_key_prefixes == (text,)
    assert agent.storage.manta_root == text


def test_a_file_of_an_older_template_means_the_same_but_for_the_level_of_the_log() -> None:
    """With the variables that it knew, whether set or not: the defaults are the same."""
    older = OLDER / "rebalancer-1.0"
    for metadata in (ALWAYS, {**ALWAYS, **known_to(older, every("rebalancer", DEFAULTS))}):
        old = read_manager(rendered("rebalancer", metadata, older), "older")
        quieter = attrs.evolve(old, log_level=old.log_level.replace("debug", "info"))
        assert quieter == manager(metadata)

    older = OLDER / "rebalancer-agent-1.0"
    metadata = known_to(older, every("rebalancer-agent", AgentConfig()))
    texts = [rendered("rebalancer-agent", metadata, one) for one in (older, None)]
    old_agent, new_agent = (read_agent(text, "template") for text in texts)
    assert old_agent == new_agent


def known_to(template: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """The variables that a template has."""
    names = set(re.findall(r"\w+", template.read_text()))
    return {name: metadata[name] for name in metadata if name in names}


@pytest.mark.parametrize(
    ("name", "path", "command"),
    [
        (
            "rebalancer",
            "/opt/smartdc/rebalancer/config.json",
            "/usr/sbin/svcadm refresh rebalancer",
        ),
        ("rebalancer-agent", "/opt/smartdc/rebalancer-agent/etc/config.toml", None),
    ],
)
def test_a_manifest_says_where_the_file_goes(name: str, path: str, command: str | None) -> None:
    """Where the programs look for it; the manager is told of a new one."""
    manifest = json.loads((MANIFESTS / name / "manifest.json").read_text())

    assert (manifest["name"], manifest["path"]) == (name, path)
    assert manifest.get("post_cmd") == command


@pytest.mark.row("IMP-10", "DEF-11")
def test_the_deployed_template_is_read() -> None:
    """As the deployed one renders: its misspelt limit counts, its own defaults are kept."""
    text = """
    {
      "options": {
        "max_tasks_per_assignment": 50, "max_metadata_update_threads": 10, "max_sharks": 5,
        "use_static_md_update_threads": false, "static_queue_depth": 10,
        "max_assignment_age": 600, "use_batched_updates": false, "md_read_chunk_size": 500,
        "max_md_read_threads": 10
      },
      "domain_name": "lab",
      "shards": [ {"host": "2.moray.lab"}, {"host": "1.moray.lab", "last": true} ],
      "snaplink_cleanup_required": false,
      "listen_port": 80,
      "max_fill_precentage": 93,
      "log_level": "debug"
    }
    """
    config = read_manager(text, "f")

    assert config == ManagerConfig(
        "lab",
        config.shards,
        max_fill_percentage=93,
        log_level="debug",
        options=Options(use_batched_updates=False, md_read_chunk_size=500),
    )


@pytest.mark.row("IMP-10", "IMP-16")
@pytest.mark.parametrize(
    ("given", "read"), [({}, False), ({"snaplink_cleanup_required": True}, True)]
)
def test_a_missing_snaplink_flag_is_false(given: dict[str, bool], read: bool) -> None:
    """Nothing to be cleaned up, as it was."""
    text = json.dumps({"domain_name": "lab", "shards": [{"host": "1.moray.lab"}], **given})

    assert read_manager(text, "f").snaplink_cleanup_required is read
