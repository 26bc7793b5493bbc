"""`capfilt ablate`: the runs that it starts, and what it prints and writes of them."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capfilt.pipeline.ablation.scores import flat_scores
from capfilt.pipeline.ablation.tables import TABLES
from capfilt.pipeline.cli import ablate as command
from capfilt.pipeline.cli.ablate import parse_seeds, parse_tables
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.prepare import open_run
from capfilt.pipeline.report.metrics_file import RoundMetrics, write_metrics
from capfilt.stages.storage.store import Store
from tests.tiny import tiny_data, write_config

MODELS = {"pretrain.0": 40, "human_only": 10, "filter_only": 45, "captioner_only": 42, "pretrain.1": 50}


def metrics_of(seed: int, bonus: float = 0.0, round: int = 1) -> RoundMetrics:
    retrieval = {model: {"itc_tr@1": value + bonus + 2.0 * seed} for model, value in MODELS.items()}
    return RoundMetrics(
        round=round,
        retrieval=retrieval,
        caption={model: {"cider": 100.0 + seed} for model in MODELS},
        retrieval_by_source={"rare": retrieval},
        caption_by_source={"rare": {"pretrain.1": {"cider": 7.0}}},
        noise_ratio={"web": 0.5, "synthetic": 0.25} if round else {},
    )


class FakeRuns:
    """Stands for `run_config`: writes what a finished run has of metrics and records, or fails."""

    def __init__(self) -> None:
        self.started: list[tuple[str, list[str]]] = []
        self.fails: dict[str, int] = {}

    def __call__(self, config, resume, donors=()):
        name = Path(config.run.dir).name
        self.resume = resume
        self.started.append((name, [Path(place).name for place in donors]))
        if name in self.fails:
            raise SystemExit(self.fails[name])
        run_dir = open_run(config)
        run_dir.ledger.save_config("")
        for node, counts in (("pretrain.1", {"pairs": 77}), ("bootstrap.1", self.verdicts())):
            if node in run_dir.nodes:
                result = NodeResult("", counts=counts)
                run_dir.ledger.finish(node, run_dir.fingerprints.inputs(node), result, 30.0)
        bonus = 5.0 if name.endswith("beam") else 0.0
        write_metrics(Store(config.run.dir), metrics_of(config.run.seed, bonus, min(1, config.run.rounds)))

    @staticmethod
    def verdicts():
        return {"candidates": {"web": {"kept": 1, "dropped": 1}, "synthetic": {"kept": 5, "dropped": 1}}}


@pytest.fixture
def runs(monkeypatch):
    fake = FakeRuns()
    monkeypatch.setattr(command, "run_config", fake)
    monkeypatch.setattr(command, "_start_ray", lambda *_: None)
    return fake


@pytest.fixture
def config(tmp_path):
    return str(write_config(tmp_path / "tiny.yaml", tiny_data(tmp_path)))


def call(*words):
    return CliRunner().invoke(app, ["ablate", *words])


@pytest.mark.parametrize(("text", "seeds"), [("0", [0]), ("3, 1,2", [3, 1, 2]), ("10,11", [10, 11])])
def test_seeds_are_whole_numbers(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0,", "-1", "1.5", "0,1,0", "01,1", "a", "²"])
def test_other_seeds_are_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"--seeds .*: give different whole numbers"):
        parse_seeds(text)


def test_tables_are_named_once_or_all_together():
    assert parse_tables(["decoding", "rounds", "decoding"]) == ["decoding", "rounds"]
    assert parse_tables(["rounds", "all"]) == ["rounds", *(name for name in TABLES if name != "rounds")]
    with pytest.raises(ConfigError, match=r"--table table-2: no such table; allowed: capfilt, .*, all"):
        parse_tables(["table-2"])


def test_scores_of_a_test_source_have_its_name():
    assert flat_scores(metrics_of(1))["pretrain.1"] == {
        "itc_tr@1": 52.0, "cider": 101.0, "rare itc_tr@1": 52.0, "rare cider": 7.0,
    }  # fmt: skip


def test_each_seed_and_variant_is_a_run_and_a_part_of_the_table(tmp_path, config, runs):
    place = f"{tmp_path}/runs/table 1"
    result = call(config, "--seeds", "0,2", "--set", f"run.dir={place}")
    assert result.exit_code == 0, result.output
    assert runs.started == [("seed-0", []), ("seed-0-oracle", ["seed-0"]), ("seed-2", []),
                            ("seed-2-oracle", ["seed-2"])]  # fmt: skip
    assert runs.resume == f"capfilt ablate {config} --table capfilt --seeds 0,2 --set 'run.dir={place}'"
    words = [line.split() for line in result.output.splitlines()]
    assert ["none", "42.0", "±", "2.8", "101.0", "±", "1.4", "-", "-", "-", "-"] in words
    assert ["both", "52.0", "±", "2.8", "101.0", "±", "1.4", "50.0", "±", "0.0", "25.0", "±", "0.0", "75.0",
            "±", "0.0", "77"] in words  # fmt: skip
    assert ["both", "-", "filter", "only", "+5.0", "±", "0.0", "+0.0", "±", "0.0"] in words
    assert result.output.count("human only") == 4, "a row and a difference, over all and for the test source"
    assert runs.resume in result.output and f"{place}/tables.html" in result.output


def test_the_parquet_file_has_the_figures_of_the_metrics_files(tmp_path, config, runs):
    """Computed independently: pandas over the metrics.json files."""
    assert call(config, "--table", "decoding", "--seeds", "0,1").exit_code == 0
    scores = pd.read_parquet(tmp_path / "run/tables/decoding.parquet")
    expected = []
    for seed in (0, 1):
        for row in TABLES["decoding"].rows:
            file = tmp_path / f"run/seed-{seed}-{row.variant.name}/reports/1/metrics.json"
            metrics = json.loads(file.read_text())
            flat = metrics["retrieval"][row.model] | metrics["caption"][row.model]
            expected += [(row.label, seed, name, value) for name, value in flat.items()]
    frame = pd.DataFrame(expected, columns=["row", "seed", "metric", "value"])
    both = frame.merge(scores, on=["row", "seed", "metric"], suffixes=("", "_found"))
    assert len(both) == len(frame) == 2 * 6 * 2
    assert (both.value == both.value_found).all()
    means = scores[scores.metric == "itc_tr@1"].groupby("row").value.agg(["mean", "std"])
    assert means.loc["beam"].tolist() == pytest.approx([56.0, 2**0.5])
    assert set(scores[scores.metric == "noise_synthetic"].value) == {25.0}
    assert "none" not in set(scores[scores.metric == "kept"].row)
    about = json.loads(pq.read_schema(tmp_path / "run/tables/decoding.parquet").metadata[b"capfilt.ablation"])
    assert about["command"] == runs.resume and about["seconds"] == 2 * 5 * 60


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, config, runs):
    runs.fails = {"seed-0-beam": 1}
    result = call(config, "--table", "decoding", "--table", "captions", "--seeds", "0")
    assert result.exit_code == 1
    assert f"{tmp_path}/run/seed-0-beam: failed with exit code 1; its rows are missing" in result.output
    assert [name for name, _ in runs.started].count("seed-0-beam") == 1
    rows = set(pd.read_parquet(tmp_path / "run/tables/decoding.parquet").row)
    assert rows == {row.label for row in TABLES["decoding"].rows} - {"beam"}
    assert len(set(pd.read_parquet(tmp_path / "run/tables/captions.parquet").row)) == 4


@pytest.mark.parametrize(("codes", "code"), [((2, 2), 2), ((2, 1), 1)])
def test_mistakes_of_the_user_have_their_exit_code_if_nothing_else_failed(config, runs, codes, code):
    runs.fails = dict(zip(("seed-0-beam", "seed-0-nucleus-0.5"), codes, strict=True))
    assert call(config, "--table", "decoding", "--seeds", "0").exit_code == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1,1"], "--seeds 1,1: give different whole numbers"),
        (["--table", "x"], "--table x: no such table"),
        (["--set", "pretrain.steps=0"], "pretrain.steps: "),
        (["--set", "sources.web.rows.manifest=no/such.parquet"], "no/such.parquet"),
    ],
)
def test_mistakes_start_nothing(config, runs, words, message):
    result = call(config, *words)
    assert result.exit_code == 2 and message in result.output
    assert runs.started == []


def test_ray_is_started_once_and_only_if_there_is_work(tmp_path, config, runs, monkeypatch):
    started = []
    monkeypatch.setattr(command, "_start_ray", lambda *_: started.append(1))
    assert call(config, "--table", "rounds", "--table", "captions", "--seeds", "0").exit_code == 0
    assert started == [1]
