"""Metrics of a run: what is taken over from the progress display and the board, and what an end resets."""

import io
import logging

import pytest
from rich.console import Console

from capfilt.cluster import metrics as module
from capfilt.cluster.chain.efficiency import StageEfficiency, StageProcesses
from capfilt.cluster.metrics import Exporter, Family
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.metrics import families
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from tests.pipeline.metrics.received import Received


class Scene:
    """A running bootstrap whose board is set by the test."""

    def __init__(self):
        self.board, self.now, self.received = {}, 1000.0, Received()
        self.metrics = RunMetrics(self.received, clock=lambda: self.now)
        self.progress = Progress(Console(file=io.StringIO()), poll=lambda: self.board)
        self.progress.begin("bootstrap.1")

    def look(self):
        self.progress.draw()
        self.metrics.look(self.progress)


@pytest.fixture
def scene():
    return Scene()


def gauge(scene, family):
    """{values of the labels: value}."""
    return {key[1:]: value for key, value in scene.received.last.items() if key[0] == family.name}


STAGES = [StageProcesses("read", 32, False), StageProcesses("caption", 3, True, gpus=3.0)]


def test_progress_has_a_time_that_stands_still_while_nothing_is_done(scene):
    scene.look()
    assert scene.received.last == {}, "the total is not known yet"
    scene.progress.set_total("bootstrap.1", 500, unit="shards")
    for now, done in ((1001.0, 20), (1002.0, 20), (1003.0, 21), (1009.0, 21)):
        scene.now = now
        scene.progress.advance("bootstrap.1", done)
        scene.look()
    assert gauge(scene, families.PROGRESS_AT) == {("bootstrap.1",): 1003.0}
    assert gauge(scene, families.DONE) == {("bootstrap.1", "shards"): 21}
    assert gauge(scene, families.ALL) == {("bootstrap.1", "shards"): 500}


def test_efficiency_is_shown_until_the_node_ends(scene):
    scene.metrics.begin("bootstrap.1")
    measured = StageEfficiency(processes=3, images_per_second=9.0, efficiency=0.75)
    scene.metrics.set_efficiency("bootstrap.1", {"caption": measured})
    assert gauge(scene, families.EFFICIENCY) == {("bootstrap.1", "caption"): 0.75}
    scene.metrics.end("bootstrap.1")
    assert gauge(scene, families.EFFICIENCY) == {}


def test_stages_show_their_processes_gpus_and_queues(scene):
    scene.metrics.set_stages("bootstrap.1", STAGES)
    scene.board = {"bootstrap.1": {"at_work": {"caption": 2}}}
    scene.look()
    scene.metrics.set_waiting("bootstrap.1", (7, 4))
    at = [("bootstrap.1", "read"), ("bootstrap.1", "caption")]
    assert gauge(scene, families.PROCESSES) == dict(zip(at, (32, 3), strict=True))
    assert gauge(scene, families.GPUS) == dict(zip(at, (0, 3), strict=True))
    assert gauge(scene, families.AT_WORK) == dict(zip(at, (0, 2), strict=True))
    assert gauge(scene, families.WAITING) == dict(zip(at, (7, 4), strict=True))
    scene.metrics.set_waiting("bootstrap.1", (1, 2, 3))  # Ray has merged or split stages: unknown
    assert gauge(scene, families.WAITING) == dict(zip(at, (7, 4), strict=True))


def test_no_shard_waits_before_a_stage_in_the_processes_of_another(scene):
    stages = [*STAGES, StageProcesses("filter", 3, True, fused=True), StageProcesses("write", 32, False)]
    scene.metrics.set_stages("bootstrap.1", stages)
    scene.metrics.set_waiting("bootstrap.1", (7, 4, 2))
    expected = {"read": 7, "caption": 4, "filter": 0, "write": 2}
    assert gauge(scene, families.WAITING) == {("bootstrap.1", name): n for name, n in expected.items()}
    scene.metrics.set_waiting("bootstrap.1", (1, 2, 3, 4))
    assert gauge(scene, families.WAITING)["bootstrap.1", "read"] == 7, "of other stages"
    assert sum(gauge(scene, families.GPUS).values()) == 3


def test_a_node_that_has_ended_holds_nothing(scene):
    scene.metrics.begin("bootstrap.1")
    scene.metrics.set_stages("bootstrap.1", STAGES)
    assert gauge(scene, families.RUNNING) == {("bootstrap.1",): 1}
    scene.metrics.set_waiting("bootstrap.1", (7, 4))
    scene.metrics.end("bootstrap.1")
    for family in (families.RUNNING, families.PROCESSES, families.GPUS, families.AT_WORK, families.WAITING):
        assert set(gauge(scene, family).values()) == {0}, family.name
    scene.board = {"bootstrap.1": {"at_work": {"caption": 2}}}
    scene.look()
    assert set(gauge(scene, families.AT_WORK).values()) == {0}, "the board is late"


def test_a_smaller_chain_resets_the_stages_that_it_lacks(scene):
    scene.metrics.set_stages("bootstrap.1", STAGES)
    scene.metrics.set_stages("bootstrap.1", STAGES[:1])
    assert gauge(scene, families.GPUS) == {("bootstrap.1", "read"): 0, ("bootstrap.1", "caption"): 0}
    assert gauge(scene, families.PROCESSES)["bootstrap.1", "read"] == 32


def test_repeated_shards_are_counted_once_even_after_the_board_was_restarted(scene):
    for times in (1, 1, 3, 1, 2):  # between 3 and 1 the board has lost what it knew
        scene.board = {"bootstrap.1": {"repeated": {"caption": {"death": times}}}}
        scene.look()
    assert scene.received.sum(families.REPEATED.name) == {("bootstrap.1", "caption", "death"): 3 + 2}


def test_trainings_show_their_losses_speed_and_input(scene):
    values = {"step": 5, "total": 9, "loss": 2.5, "lm": 1.5, "samples_per_second": 80.0, "at": 1.0}
    values["epoch_read_mb"] = 1.5
    scene.progress.begin("pretrain.0")
    scene.metrics.begin("pretrain.0")
    scene.board = {"pretrain.0": values, "filter.1": values}
    scene.look()
    losses = {("pretrain.0", "loss"): 2.5, ("pretrain.0", "lm"): 1.5}
    assert gauge(scene, families.LOSS) == losses
    assert gauge(scene, families.SAMPLES) == {("pretrain.0",): 80.0}
    assert gauge(scene, families.READ) == {("pretrain.0",): 1.5e6}
    assert gauge(scene, families.DONE) == {("pretrain.0", "steps"): 5}


def test_a_training_that_has_ended_shows_no_losses_and_no_speed(scene):
    for node in ("captioner.1", "filter.1"):
        scene.progress.begin(node)
        scene.metrics.begin(node)
    values = {"lm": 1.5, "samples_per_second": 80.0}
    scene.board = {"captioner.1": values, "filter.1": values}
    scene.look()
    scene.metrics.end("captioner.1")
    scene.look()
    assert gauge(scene, families.LOSS) == {("filter.1", "lm"): 1.5}
    assert gauge(scene, families.SAMPLES) == {("filter.1",): 80.0}


def test_metrics_that_are_not_exported_cost_nothing(scene):
    silent = RunMetrics()
    silent.begin("n")
    silent.set_stages("n", STAGES)
    silent.set_waiting("n", (1, 2))
    silent.count_pass("n", "resized")
    silent.count_shard("n", [], {"success": 1}, {})
    silent.look(scene.progress)
    silent.end("n")


COUNTER = Family(name="rows", kind="counter", help="Rows.", labels=("node", "status"))
GAUGE = Family(name="running", kind="gauge", help="1 or 0.", labels=("node",))


class TestExporter:
    """The metrics of Ray, which here are replaced."""

    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def kind(name):
            class Metric:
                def __init__(self, *declaration):
                    calls.append((name, *declaration))

                def record(self, value, tags):
                    calls.append((value, tags))

                inc = set = record

            return Metric

        monkeypatch.setattr(module.ray_metrics, "Counter", kind("counter"))
        monkeypatch.setattr(module.ray_metrics, "Gauge", kind("gauge"))
        return calls

    def test_each_family_is_declared_once_and_has_the_label_of_the_run(self, calls):
        exporter = Exporter([COUNTER, GAUGE], {"run": "r"})
        for rows in (2, 0, 3):  # Ray refuses to add nothing
            exporter.add("rows", rows, node="fetch", status="success")
        exporter.set("running", 0, node="fetch")
        tags = {"run": "r", "node": "fetch", "status": "success"}
        assert calls == [
            ("counter", "rows", "Rows.", ("run", "node", "status")),
            (2.0, tags),
            (3.0, tags),
            ("gauge", "running", "1 or 0.", ("run", "node")),
            (0.0, {"run": "r", "node": "fetch"}),
        ]

    def test_forgotten_series_are_not_exported_again(self, calls):
        exporter = Exporter([GAUGE], {"run": "r"})
        for node in ("fetch", "report.1"):
            exporter.set("running", 1, node=node)
        exporter.forget("running", node="fetch")
        exporter.forget("other", node="report.1")
        calls.clear()
        exporter.refresh()
        assert calls == [(1.0, {"run": "r", "node": "report.1"})]

    def test_errors_are_logged_once_and_never_raised(self, calls, monkeypatch, caplog):
        def refuse(*declaration):
            raise ValueError("no more metrics")

        monkeypatch.setattr(module.ray_metrics, "Gauge", refuse)
        exporter = Exporter([GAUGE], {"run": "r"})
        with caplog.at_level(logging.WARNING):
            exporter.set("running", 1, node="a")
            exporter.set("running", 0, node="a")
        assert [r.getMessage() for r in caplog.records] == [
            "metrics are not exported (ValueError: no more metrics)"
        ]

    def test_series_have_the_names_that_prometheus_sees(self):
        assert (COUNTER.series, GAUGE.series) == ("ray_rows_total", "ray_running")
