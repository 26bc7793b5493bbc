"""A run beside its plan, from records written by hand."""

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.estimate.compare import compare
from capfilt.pipeline.estimate.record import (
    Interval,
    Plan,
    PlanError,
    PlannedNode,
    PlannedSource,
    read_plan,
    write_plan,
)
from capfilt.pipeline.plan import plan
from capfilt.pipeline.probe.page import print_comparison, print_plan
from capfilt.pipeline.rundir.ledger import NodeRecord, fingerprint
from capfilt.stages.storage.store import Store
from tests.tiny import tiny_data


def node(name, seconds, **more):
    span = None if seconds is None else Interval(seconds, seconds / 2, seconds * 2)
    return PlannedNode(node=name, units=10, unit="rows", seconds=span, cpus=2, gpus=0, **more)


PLAN = Plan(
    made="2026-01-01T00:00:00+00:00",
    rows=256,
    steps=40,
    network=True,
    probe_seconds=30,
    cpus=2,
    gpus=0,
    gpu_price=None,
    cpu_price=0.1,
    sources={
        "web": PlannedSource(rows=5000, shards=5, is_estimated=True, probed_rows=256, stored=0.75),
    },
    nodes=[
        node(
            "fetch", 100, stages={"fetch": Interval(80, 70, 90)}, bytes={"images": Interval(900, 800, 1000)}
        ),
        node("pretrain.0", 50),
        node("report.1", None),
    ],
    seconds=Interval(150, 100, 200),
    path=["fetch", "pretrain.0"],
    money=Interval(0.3, 0.2, 0.4),
)


def record(name, seconds, **counts):
    return NodeRecord(node=name, fingerprint=fingerprint({}), inputs={}, seconds=seconds, counts=counts)


@pytest.fixture
def nodes(tmp_path):
    data = tiny_data(tmp_path)
    return {name: node for name, node in plan(parse_config(data, "test")).items() if name in RECORDS}


RECORDS = {
    "fetch": record("fetch", 50, stage_seconds={"fetch": 40, "read": 2}, bytes={"images": 1000, "rows": 7}),
    "pretrain.0": record("pretrain.0", 100, steps=6, pairs=3),
}


def test_each_node_and_stage_beside_what_was_planned(nodes):
    found = compare(PLAN, nodes, RECORDS)
    fetch, pretrain = found.lines
    assert (fetch.planned.value, fetch.took, fetch.off) == (100, 50, 1.0)
    assert [(s.name, s.planned and s.planned.value, s.took) for s in fetch.stages] == [
        ("fetch", 80, 40),
        ("read", None, 2),
    ]
    assert pretrain.off == -0.5
    assert (found.total.planned, found.total.took) == (PLAN.seconds, 150)
    assert found.bytes == {"images": (Interval(900, 800, 1000), 1000), "rows": (None, 7)}
    assert found.money == pytest.approx(0.3)


def test_a_run_that_is_not_done_has_no_total(nodes):
    found = compare(PLAN, nodes, RECORDS | {"pretrain.0": None})
    assert found.total.took is None and found.lines[1].took is None and found.money is None


def test_a_run_without_a_plan(nodes):
    found = compare(None, nodes, RECORDS)
    assert found.lines[0].planned is None and found.lines[0].off is None and found.total.took == 150
    assert found.lines[0].stages == ()


def printed(show, *args):
    console = Console(width=120, record=True, quiet=False, file=io.StringIO())
    show(console, *args)
    return [" ".join(line.split()) for line in console.export_text().splitlines() if line.strip()]


def test_the_comparison_is_printed(nodes):
    lines = printed(print_comparison, compare(PLAN, nodes, RECORDS), PLAN, "runs/x")
    assert "fetch 2 min 50 s to 3 min 50 s +100%" in lines
    assert "pretrain.0 50 s 25 s to 2 min 2 min -50%" in lines
    assert "run 2 min 2 min to 3 min 2 min +0%" in lines
    assert "stored images 1.0 kB, planned 900 bytes (800 bytes to 1.0 kB)" in lines
    assert "price 0.30, planned 0.30 (0.20 to 0.40)" in lines
    lines = printed(print_comparison, compare(None, nodes, RECORDS), None, "runs/x")
    assert lines[-1].startswith("plan none: capfilt plan CONFIG makes one")


def test_the_plan_is_printed():
    lines = printed(print_plan, PLAN, "runs/x", "capfilt run c.yaml")
    assert "web about 5,000 5 256 75.0%" in lines
    assert "fetch 10 rows 2 min 50 s to 3 min 0.0556" in lines
    assert "report.1 10 rows – –" in lines
    assert "bottleneck fetch with 67% of the time" in lines
    assert "not known report.1" in lines
    assert "run capfilt run c.yaml" in lines
    assert not any(line.startswith("busy") for line in lines)
    busy = printed(print_plan, replace(PLAN, load=4.4), "runs/x", "run")
    assert any(line.startswith("busy other processes wanted 4.4 times the cores") for line in busy)
    single = replace(PLAN, nodes=[replace(PLAN.nodes[1], seconds=Interval(5, 5, 5))])
    assert "pretrain.0 10 rows 5 s measured once 0.00278" in printed(print_plan, single, "runs/x", "run")


def test_a_plan_is_read_back_and_a_damaged_one_is_refused(tmp_path):
    store = Store(str(tmp_path))
    assert read_plan(store) is None
    write_plan(store, PLAN)
    assert read_plan(store) == PLAN
    (tmp_path / "plan.json").write_text('{"made": 3}')
    with pytest.raises(PlanError, match=r"plan\.json: damaged .*; remove the file"):
        read_plan(store)
