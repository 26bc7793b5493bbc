"""Alert rules and dashboard, against the metrics that a run declares and the grammar of PromQL.

`tests/end_to_end/test_metrics.py` holds the same queries against what a run exports; `make test-alerts` lets
promtool, where it is installed, decide when the alerts fire (`alerts.test.yaml`).
"""

import copy
import re

import pytest
import yaml

from capfilt.pipeline.metrics.families import FAMILIES, RUN
from tests.promql import (
    MONITORING,
    alert_rules,
    dashboard,
    dashboard_queries,
    grouping_labels,
    parse,
    selectors,
)

OF_RAY = {
    "ray_resources": {"Name", "State"},
    "ray_node_gpus_utilization": {"ip"},
    "ray_node_mem_used": {"ip"},
    "ray_node_mem_total": {"ip"},
    "ray_object_store_memory": {"Location"},
}
"""Series of Ray 2.60 itself, and those of their labels that are used."""
SERIES = OF_RAY | {family.series: {RUN, *family.labels} for family in FAMILIES}
LABELS = set().union(*SERIES.values())


def check_query(query, series=SERIES):
    """Raise an error if a query asks for what no run exports."""
    found = selectors(query)
    assert found, "asks for nothing"
    for name, matchers in found:
        assert name in series, name
        assert {label for label, _, _ in matchers} <= series[name], (name, matchers)
    assert grouping_labels(query) <= LABELS


def check_rules(rules):
    """Raise an error if a rule is not one of Prometheus, or asks for what no run exports."""
    series = SERIES | {rule["record"]: grouping_labels(rule["expr"]) for rule in rules if "record" in rule}
    for rule in rules:
        check_query(rule["expr"], series)
        if "record" in rule:
            assert set(rule) == {"record", "expr"} and re.fullmatch(
                "[a-z_]+:[a-z_]+:[0-9]+[mh]", rule["record"]
            )
            continue
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        shown = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        assert set(shown) <= LABELS


def test_rules_are_accepted():
    check_rules(alert_rules())
    names = [rule["alert"] for rule in alert_rules() if "alert" in rule]
    assert len(names) == len(set(names)) and {"CapfiltNoProgress", "CapfiltGpuIdle"} < set(names)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ray_capfilt_rows_total", "ray_capfilt_row_total"),
        ("ray_capfilt_node_running", "capfilt_node_running"),
        ('status!="success"', 'state!="success"'),
        ("rate(", "rat("),
        ("[30m]", ""),
        ("capfilt:failed_share:30m > 0.5", "capfilt:failed_share:1h > 0.5"),
        ("severity: critical", "severity: high"),
        ("$labels.node", "$labels.nod"),
        ("        for: 5m", "        during: 5m"),
    ],
)
def test_a_wrong_rule_is_refused(old, new):
    text = (MONITORING / "alerts.yaml").read_text()
    assert old in text
    with pytest.raises((AssertionError, ValueError)):
        check_rules(yaml.safe_load(text.replace(old, new))["groups"][0]["rules"])


def check_dashboard(board):
    """Raise an error if Grafana would not show every panel."""
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            check_query(target["expr"])
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert legend <= (grouping_labels(target["expr"]) or legend)
    (chosen,) = [v["definition"] for v in board["templating"]["list"] if v["name"] == "run"]
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", chosen).groups()
    assert label in SERIES[name]


def test_dashboard_is_accepted():
    board = dashboard()
    check_dashboard(board)
    asked = {name for query in dashboard_queries(board) for name, _ in selectors(query)}
    unused = {family.series for family in FAMILIES} - asked
    assert unused == {"ray_capfilt_shards_total"}, "every other metric has a panel"


@pytest.mark.parametrize(
    "change",
    [
        lambda board: board["panels"][1]["targets"][0].update(expr="ray_capfilt_progress_don"),
        lambda board: board["panels"][1]["targets"][0].update(expr="sum(ray_capfilt_progress_done"),
        lambda board: board["panels"][1]["targets"][0].update(legendFormat="{{stage}}"),
        lambda board: board["panels"][2].update(gridPos=board["panels"][1]["gridPos"]),
        lambda board: board["panels"][2].update(id=board["panels"][1]["id"]),
        lambda board: board["templating"]["list"][1].update(
            definition="label_values(ray_capfilt_nodes, run)"
        ),
    ],
)
def test_a_wrong_dashboard_is_refused(change):
    board = copy.deepcopy(dashboard())
    change(board)
    with pytest.raises((AssertionError, ValueError, KeyError)):
        check_dashboard(board)


def test_every_family_is_in_the_documentation():
    page = (MONITORING.parents[2] / "docs/monitoring.md").read_text()
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        assert f"| `{family.series}` | {labels} |" in page, family.name
    for rule in alert_rules():
        assert "alert" not in rule or f"| `{rule['alert']}` |" in page


def test_prometheus_reads_the_rules_and_the_addresses_that_ray_writes():
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert config["rule_files"] == ["alerts.yaml"] and (MONITORING / "alerts.yaml").exists()
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]


def test_the_parser_refuses_what_is_no_promql():
    with pytest.raises(ValueError):
        parse("sum by (rate(x[5m])")
