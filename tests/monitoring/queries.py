"""Queries of the alerts and of the dashboards. In: the chart's files. Out: (where, query), and the metrics and labels a query names."""
import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).parents[2]
FILES = ROOT / "charts/chatservice-operator/files"
BOARDS = sorted((FILES / "dashboards").glob("*.json"))
# Words of PromQL that look like metrics
WORDS = {"sum", "max", "min", "count", "rate", "increase", "histogram_quantile", "vector", "by", "or", "and", "on", "le", "label_values", "unless"}


def alerts():
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def of_alerts():
    return [(rule["alert"], rule["expr"], re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) for rule in alerts()]


def of_boards():
    """Each query with the labels that its legend shows."""
    found = []
    for file in BOARDS:
        board = json.loads(file.read_text())
        for panel in panels(board):
            for target in panel["targets"]:
                found.append((f"{file.name}: {panel['title']}", target["expr"], re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])))
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
                found.append((f"{file.name}: ${variable['name']}", selector, [label]))
    return found


def of_keda():
    """What the chart asks of Prometheus for KEDA."""
    text = (ROOT / "charts/chatservice/templates/scaledobject.yaml").read_text()
    query = re.search(r"query: (.+)", text)[1]
    query = re.sub(r'namespace="\{\{.*?\}\}"', 'namespace="chat"', query)
    return [("scaledobject.yaml", re.sub(r'"\{\{.*?\}\}"', '"demo"', query), [])]


def filled(query):
    """A query as Grafana sends it, with everything chosen."""
    query = re.sub(r"\$(namespace|chatservice|job)", ".*", query)
    return query.replace("$__rate_interval", "30s").replace("[24h]", "[30s]")


def selectors(query):
    """Each (metric, {label: matcher}) of a query."""
    bare = re.sub(r"\b(by|on|without|ignoring) *\([^)]*\)", "", query)
    found = []
    for name, matchers in re.findall(r"([a-z_:][a-z0-9_:]*+)(?!\s*\()(\{[^}]*\})?", re.sub(r'"[^"]*"', lambda text: text[0].replace("{", ""), bare)):
        if name in WORDS or re.fullmatch(r"[smhd]", name):
            continue
        found.append((name, matchers or "", set(re.findall(r"(\w+) *(?:=~|!~|!=|=)", matchers or ""))))
    return found


def grouped(query):
    """The labels that a query groups by."""
    return {label for group in re.findall(r"\b(?:by|on) *\(([^)]*)\)", query) for label in re.findall(r"\w+", group)}
