"""The service manifests say what the deployed ones said, but for the program."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

MANIFESTS = Path(__file__).parent.parent / "smf" / "manifests"


@pytest.mark.parametrize(
    ("name", "start", "user"),
    [
        ("rebalancer", "/opt/smartdc/rebalancer/bin/rebalancer manager &", None),
        ("rebalancer-agent", "/opt/smartdc/rebalancer-agent/bin/rebalancer agent &", "nobody"),
    ],
)
def test_a_manifest(name: str, start: str, user: str | None) -> None:
    """Name, instance, dependencies, methods with their times, and who runs it."""
    (service,) = ET.parse(MANIFESTS / f"{name}.xml").getroot()
    methods = {method.get("name"): method for method in service.iter("exec_method")}
    depends = {
        next(d.iter("service_fmri")).get("value"): (d.get("grouping"), d.get("restart_on"))
        for d in service.iter("dependency")
    }

    assert service.get("name") == f"manta/application/{name}"
    (instance,) = service.iter("create_default_instance")
    assert instance.get("enabled") == "true"
    assert depends == dict.fromkeys(
        ["svc:/network/physical", "svc:/system/filesystem/local"], ("require_all", "error")
    )
    assert {n: m.get("exec") for n, m in methods.items()} == {
        "start": f"trap '' USR1; {start}",
        "stop": ":kill",
        "refresh": ":kill -USR1",
    }
    assert {m.get("timeout_seconds") for m in methods.values()} == {"30"}
    found = [(c.get("user"), c.get("group")) for c in service.iter("method_credential")]
    assert found == ([(user, user)] if user else [])
    privileges = [c.get("privileges") for c in service.iter("method_credential")]
    assert privileges == (["basic,net_privaddr"] if user else [])
