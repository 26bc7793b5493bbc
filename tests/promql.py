"""The series that PromQL queries ask for, by the parser of the `promql-parser` package."""

import json
import re
from pathlib import Path

import promql_parser as promql
import yaml

MONITORING = Path(__file__).parent.parent / "cluster/launch/monitoring"
VARIABLES = {"$__rate_interval": "5m", "$run": ".*"}
"""Variables of Grafana, and values that stand for any."""


def alert_rules():
    """Records and alerts of the shipped rules."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard():
    return json.loads((MONITORING / "dashboard.json").read_text())


def dashboard_queries(board):
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def parse(query):
    """Raises ValueError if it is no PromQL."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return promql.parse(query)


def walk(node):
    """The node of a parsed query, and all below it."""
    yield node
    if isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    for name in ("expr", "lhs", "rhs", "param"):
        if (below := getattr(node, name, None)) is not None and not isinstance(below, str):
            yield from walk(below)
    for below in getattr(node, "args", None) or ():
        yield from walk(below)


def selectors(query):
    """[(name of the series, [(label, operator, value)])] of a query."""
    found = []
    for node in walk(parse(query)):
        if isinstance(node, promql.VectorSelector):
            matchers = [(m.name, str(m.op).rpartition(".")[2], m.value) for m in node.matchers.matchers]
            found.append((node.name, matchers))
    return found


def grouping_labels(query):
    """Labels by which a query groups."""
    nodes = [node for node in walk(parse(query)) if isinstance(node, promql.AggregateExpr)]
    return {label for node in nodes if node.modifier is not None for label in node.modifier.labels}


def is_matched(labels, matchers):
    """Whether a series with these labels is selected."""
    tests = {
        "Equal": lambda value, wanted: value == wanted,
        "NotEqual": lambda value, wanted: value != wanted,
        "Re": lambda value, wanted: re.fullmatch(wanted, value) is not None,
        "NotRe": lambda value, wanted: re.fullmatch(wanted, value) is None,
    }
    return all(tests[operator](labels.get(name, ""), value) for name, operator, value in matchers)
