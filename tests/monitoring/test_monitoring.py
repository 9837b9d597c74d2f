"""Alerts, their pages and the dashboards, as files. What they ask is asked of a real Prometheus in test_queries.py."""
import json
import pathlib
import re
import subprocess

import pytest
import yaml
from grafana_foundation_sdk.models import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder

import queries
from queries import BOARDS, ROOT

RUNBOOKS = ROOT / "docs/runbooks"
HERE = pathlib.Path(__file__).parent


def promtool(*args):
    return subprocess.run(["promtool", *map(str, args)], capture_output=True, text=True)


def test_alerts_fire_where_they_must_and_nowhere_else():
    result = promtool("check", "rules", queries.FILES / "alerts.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    result = promtool("test", "rules", HERE / "alerts.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    tested = [case for test in yaml.safe_load((HERE / "alerts.yaml").read_text())["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in tested if case.get("exp_alerts")}
    assert fires == {rule["alert"] for rule in queries.alerts()}


def test_each_alert_has_a_page_and_each_page_an_alert():
    pages = {page.stem: page.read_text() for page in RUNBOOKS.glob("*.md")}
    assert pages.keys() == {rule["alert"] for rule in queries.alerts()}
    for name, text in pages.items():
        headings = re.findall(r"^#+ (.+)$", text, re.M)
        assert headings == [name, "Meaning", "Impact", "Diagnosis", "Fix"], name
        for section in re.split(r"^## .+$", text, flags=re.M)[1:]:
            assert section.strip(), name
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert (RUNBOOKS / link).exists(), f"{name}: {link}"


def test_alerts_say_how_bad_what_and_where():
    for rule in queries.alerts():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.name)
def test_a_dashboard_is_as_grafana_describes_it(file):
    """Read into Grafana's own types and written again, nothing is lost: a member that they do not know would be."""
    board = json.loads(file.read_text())
    read = json.loads(json.dumps(grafana.Dashboard.from_json(board), cls=JSONEncoder))

    def lost(mine, theirs, path):
        if isinstance(mine, dict):
            return [found for key, value in mine.items()
                    for found in ([f"{path}.{key}"] if key not in theirs and value not in (None, [], {}) else lost(value, theirs.get(key), f"{path}.{key}"))]
        if isinstance(mine, list):
            if len(mine) != len(theirs):
                return [path]
            return [found for n, (a, b) in enumerate(zip(mine, theirs)) for found in lost(a, b, f"{path}[{n}]")]
        return [] if mine == theirs else [f"{path}: {mine!r} became {theirs!r}"]

    assert lost(board, read, file.name) == []


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.name)
def test_panels_are_described_and_do_not_overlap(file):
    board = json.loads(file.read_text())
    taken = set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        position = panel["gridPos"]
        cells = {(x, y) for x in range(position["x"], position["x"] + position["w"]) for y in range(position["y"], position["y"] + position["h"])}
        assert position["x"] + position["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in queries.panels(board):
        assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
    assert board["uid"] and board["templating"]["list"][0]["type"] == "datasource"


def test_queries_are_understood():
    found = queries.selectors('sum by (a) (rate(x_total{b="1",c=~"{}"}[5m])) / sum by (a) (y) > 0.05 or vector(0)')
    assert [(name, labels) for name, _, labels in found] == [("x_total", {"b", "c"}), ("y", set())]
    assert queries.grouped("max by (a, b) (x) and on (c) y") == {"a", "b", "c"}


def test_every_metric_is_shown_somewhere():
    """A metric that no panel and no alert asks for is a metric that nobody looks at."""
    constants = (ROOT / "src/constants.rs").read_text().split("pub mod metric {")[1].split("\n}")[0]
    metrics = set(re.findall(r'&str = "([a-z_]+)"', constants))
    asked = {name for _, query, _ in queries.of_alerts() + queries.of_boards() for name, _, _ in queries.selectors(query)}
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert metrics - asked == set()
