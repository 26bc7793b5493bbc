"""What a run exports to Prometheus: the page of Ray's agent, and the shipped queries on it."""

import time
import urllib.request

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from capfilt.pipeline.metrics import families
from capfilt.pipeline.metrics.families import FAMILIES
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.storage.store import Store
from tests.promql import alert_rules, dashboard, dashboard_queries, is_matched, selectors

SECONDS = 90
"""Time in which the agent must show what was recorded; Ray sends it every 10 s."""
LAST = "capfilt_repeated_passes"
OWN = {family.series for family in FAMILIES}


@pytest.fixture(scope="module")
def exported(finished):
    """[(series, labels, value)] that the agent shows after a run. It repeats no shards and passes, and its
    trainings have ended: those are of the run "other"."""
    other = RunMetrics.exported("other")
    assert other.receiver is not None
    other.receiver.add(families.REPEATED.name, 2, node="fetch", stage="fetch", cause="death")
    other.count_pass("fetch", "resized")
    other.receiver.set(families.LOSS.name, 2.5, node="pretrain.0", loss="itc")
    other.receiver.set(families.EFFICIENCY.name, 0.9, node="bootstrap.1", stage="caption")
    other.receiver.set(families.SAMPLES.name, 80.0, node="pretrain.0")
    other.receiver.set(families.READ.name, 4096.0, node="pretrain.0")
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + SECONDS
    while True:
        finished[2].metrics.receiver.refresh()  # as the run does; it has ended
        other.receiver.refresh()
        page = urllib.request.urlopen(url, timeout=30).read().decode()
        if f"ray_{LAST}_total{{" in page and f"{families.RUNNING.series}{{" in page:
            break
        assert time.monotonic() < deadline, "the agent does not show the metrics"
        time.sleep(1)
    found = text_string_to_metric_families(page)
    return [(s.name, s.labels, s.value) for family in found for s in family.samples]


def values(exported, family, run, *labels):
    """{values of the labels: value} of a metric of the run."""
    return {
        tuple(own[label] for label in labels): value
        for name, own, value in exported
        if name == family.series and own["run"] == run
    }


def test_every_metric_is_exported_with_its_labels(exported):
    seen = {name: set(labels) for name, labels, _ in exported}
    for family in FAMILIES:
        assert {"run", *family.labels} <= seen.get(family.series, set()), family.series


def test_counters_are_the_sums_of_the_records(exported, finished):
    run, _, _ = finished
    ledger, name = Ledger(Store(str(run))), str(run)
    rows, texts = {}, {}
    for source in ("web",):
        for record in ledger.records(f"rounds/1/{source}"):
            for status, number in record.rows.status.items():
                rows["bootstrap.1", status] = rows.get(("bootstrap.1", status), 0) + number
            for origin, verdicts in record.candidates.items():
                for verdict, number in verdicts.items():
                    texts[origin, verdict] = texts.get((origin, verdict), 0) + number
    counted = values(exported, families.ROWS, name, "node", "status")
    assert {key: value for key, value in counted.items() if key[0] == "bootstrap.1"} == rows
    assert values(exported, families.TEXTS, name, "origin", "verdict") == texts
    seconds = values(exported, families.STAGE_SECONDS, name, "node", "stage")
    assert {"read", "caption", "filter", "write"} == {s for node, s in seconds if node == "bootstrap.1"}
    assert values(exported, families.BYTES, name, "node")["bootstrap.1",] > 1000


def test_nodes_that_have_ended_hold_nothing(exported, finished):
    run, _, outcome = finished
    running = values(exported, families.RUNNING, str(run), "node")
    assert running == {(node,): 0 for node in outcome.done}
    assert set(values(exported, families.PROCESSES, str(run), "node", "stage").values()) == {0}
    done = values(exported, families.DONE, str(run), "node")
    every = values(exported, families.ALL, str(run), "node")
    assert done["bootstrap.1",] == every["bootstrap.1",] > 0


def test_every_shipped_query_finds_series(exported):
    """Apart from series of machines with GPUs, and from a status that no row of the run has."""
    records = {rule["record"] for rule in alert_rules() if "record" in rule}
    for query in [*dashboard_queries(dashboard()), *(rule["expr"] for rule in alert_rules())]:
        for name, matchers in selectors(query):
            if name in records or (name not in OWN and "gpu" in str((name, matchers)).lower()):
                continue
            kept = [m for m in matchers if m != ("status", "NotEqual", "success")]
            assert any(s == name and is_matched(own, kept) for s, own, _ in exported), (name, matchers)
