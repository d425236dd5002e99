"""The alerts and the dashboard name metrics that the programs export, and commands that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from rebalancer.adm.commands import adm
from tests import families

ROOT = Path(__file__).parent.parent
RULES = ROOT / "etc" / "prometheus" / "rebalancer.rules.yml"
DASHBOARD = ROOT / "etc" / "grafana" / "rebalancer.json"
#: What a scraping server adds: a metric, and two labels.
OF_THE_SERVER = {"up": {"job", "instance"}}
SERVER_LABELS = {"job", "instance"}
#: Words of PromQL that are no metrics, beside functions, which a parenthesis follows.
KEYWORDS = {
    "and",
    "or",
    "unless",
    "by",
    "without",
    "on",
    "ignoring",
    "bool",
    "offset",
    "inf",
    "nan",
}


def exported() -> dict[str, set[str]]:
    """The labels of each name that a query may have, as the page says."""
    found = {name: set(labels) for name, labels in OF_THE_SERVER.items()}
    for program in families.PROGRAMS:
        for one in families.documented(program).values():
            labels = {*one.labels, *SERVER_LABELS}
            names = [one.name]
            if one.type == "histogram":
                names = [f"{one.name}_{suffix}" for suffix in ("bucket", "count", "sum")]
                labels.add("le")
            for name in names:
                found[name] = found.get(name, set()) | labels
    return found


def rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every query of the dashboard, with the title of its panel."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target


def unknown(expression: str) -> set[str]:
    """The names in an expression that no program exports, and labels that its metrics lack."""
    known = exported()
    metrics, wrong = set[str](), set[str]()
    text = re.sub(r'"[^"]*"', '""', expression)
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", text):
        wrong |= set(re.findall(r"(\w+)\s*[=!]", matchers)) - known.get(name, set())
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    by = re.compile(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)")
    used = {label for labels in by.findall(text) for label in re.findall(r"\w+", labels)}
    for word, call in re.findall(r"\b([a-zA-Z_]\w*)(\s*\()?", by.sub(" ", text)):
        if not call and word not in KEYWORDS:
            metrics.add(word)
    assert metrics, expression
    labels = set[str]().union(*(known.get(name, set()) for name in metrics))
    return wrong | (metrics - known.keys()) | (used - labels)


def test_what_nobody_exports_is_found_in_an_expression() -> None:
    """Names, labels in matchers, and labels of groups, wherever they stand."""
    assert (
        unknown('sum by (shark) (rate(destination_away{shark=~"a{2}"}[5m])) > 0 and up == 1')
        == set()
    )
    assert unknown("nothing_at_all + 2 * up") == {"nothing_at_all"}
    assert unknown('up{colour="red"}') == {"colour"}
    assert unknown("sum by (colour) (destination_away)") == {"colour"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_can_fire_and_says_what_to_type(rule: dict[str, Any]) -> None:
    """It names metrics that there are, and labels of theirs; each command exists."""
    assert unknown(rule["expr"]) == set()
    assert rule["labels"]["severity"] in ("warning", "critical")
    texts = rule["annotations"]
    assert texts.keys() == {"summary", "description"}
    assert texts["summary"][-1] not in ".:"
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(texts.values())))
    metrics = exported()
    labels = set[str]().union(*(metrics[name] for name in metrics if name in rule["expr"]))
    assert named <= labels
    commands = [
        re.sub(r"\{\{.*?\}\}", "X", command).split()
        for command in re.findall(r"`([^`]+)`", texts["description"])
    ]
    assert any(words[0] in ("rebalancer", "svcs", "svcadm", "curl", "df") for words in commands)
    for words in commands:
        if words[:2] == ["rebalancer", "adm"]:
            check_command(words[2:])


def check_command(words: list[str]) -> None:
    """Walk down the groups of the operator's command, and look for the options."""
    command: click.Command = adm
    while words and isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    options = {name for one in command.params for name in one.opts}
    assert {word for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize(("title", "target"), list(targets()))
def test_a_query_of_the_dashboard_finds_something(title: str, target: dict[str, Any]) -> None:
    """It names metrics that there are, asks the chosen data source, and shows labels of theirs."""
    expression = target["expr"].replace("$__rate_interval", "5m").replace("$job_id", "x")
    assert unknown(expression) == set(), title
    assert target["datasource"]["uid"] == "${datasource}"
    metrics = exported()
    labels = set[str]().union(*(metrics[name] for name in metrics if name in expression))
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels


def test_the_dashboard_can_be_imported() -> None:
    """Panels have ids of their own and lie beside each other; the data source is a variable."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    taken = set[tuple[int, int]]()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    kinds = {one["name"]: one["type"] for one in dashboard["templating"]["list"]}
    assert kinds == {"datasource": "datasource", "job_id": "query"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
@pytest.mark.parametrize(
    "command",
    [["check", "rules", RULES], ["test", "rules", ROOT / "tests/data/rebalancer.rules.test.yml"]],
)
def test_promtool_accepts_the_rules(command: list[str]) -> None:
    """Their syntax, and what they make of series: when an alert begins and ends, and its text."""
    checked = subprocess.run(["promtool", *command], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As rules, since it checks nothing else; names and functions of types that fit."""
    recorded = [
        {"record": f"query_{number}", "expr": re.sub(r"\$__rate_interval", "5m", target["expr"])}
        for number, (_, target) in enumerate(targets())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    checked = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
