"""`capfilt plan` through Ray: plan, run, and the run beside its plan."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.activity import hidden_activity
from capfilt.pipeline.estimate.record import PlanError, read_plan
from capfilt.pipeline.probe.run import PlanRequest, make_plan
from capfilt.stages.storage.store import Store
from tests.runs import run_dag, walk
from tests.tiny import write_config

REQUEST = PlanRequest(rows=42, steps=4, cpu_price=1.0)


def test_plan_run_compare(tiny, tmp_path, ray_session):
    _, data = tiny
    data = json.loads(json.dumps(data))
    # A chain, a training and an evaluation; the fewer nodes start processes, the shorter.
    data["run"] |= {"dir": str(tmp_path / "run"), "rounds": 0}
    del data["captioner"], data["filter"], data["pretrain"]["hold_out"]
    config = parse_config(data, "tiny")
    made = make_plan(config, REQUEST, Console(quiet=True), hidden_activity())
    store = Store(config.run.dir)
    assert walk(store) == ["plan.json"] and not (tmp_path / "run.probe").exists()
    assert read_plan(store) == made
    assert {name: (source.rows, source.probed_rows) for name, source in made.sources.items()} == {
        "human": (24, 24),
        "web": (90, 42),
        "test": (12, 12),
    }
    assert all(each.seconds is not None and each.seconds.value > 0 for each in made.nodes)
    assert {each.node: each.units for each in made.nodes if each.unit in ("steps", "rows")} == {
        "fetch": 126,
        "pretrain.0": 6,
    }
    outcome = run_dag(config, Console(quiet=True))
    assert outcome.failed == {}
    shown = CliRunner().invoke(app, ["plan", config.run.dir, "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert [line["name"] for line in found["lines"]] == [each.node for each in made.nodes]
    for line in found["lines"]:
        record = json.loads((tmp_path / "run/nodes" / f"{line['name']}.json").read_text())
        assert line["took"] == record["seconds"]
    assert found["total"]["took"] > 0 and found["total"]["planned"]["value"] == made.seconds.value
    planned, counted = found["bytes"]["images"]
    assert planned["value"] == pytest.approx(counted, rel=0.2)
    table = CliRunner().invoke(app, ["plan", config.run.dir]).output
    assert "planned" in table and "plan is off by" in table
    with pytest.raises(PlanError, match="this run is done; capfilt plan"):
        make_plan(config, REQUEST, Console(quiet=True), hidden_activity())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--rows", "3"], "error: --rows 3: give a number of at least 14"),
        (["--steps", "0"], "error: --steps 0: give a number of at least 2"),
        (["--gpus", "1000"], "error: --gpus 1000: the machine that measures"),
        (["--set", "run.speed=1"], "run.speed: unknown key"),
    ],
)
def test_mistake_is_one_line_with_code_2_and_leaves_nothing(tiny, tmp_path, ray_session, words, part):
    _, data = tiny
    data = data | {"run": {"dir": str(tmp_path / "run")}}
    path = write_config(tmp_path / "c.yaml", data)
    result = CliRunner().invoke(app, ["plan", str(path), *words])
    assert result.exit_code == 2, result.output
    assert part in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("target", ["missing.yaml", "no/run/here"])
def test_neither_config_nor_run(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["plan", target])
    assert result.exit_code == 2 and target in result.stderr
    assert list(tmp_path.iterdir()) == []
