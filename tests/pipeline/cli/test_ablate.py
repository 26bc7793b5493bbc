"""`capfilt ablate`: the runs that it starts, and what it prints and writes of them."""

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from capfilt.pipeline.cli import ablate as command
from capfilt.pipeline.cli.ablate import flat_scores, parse_seeds
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.report.metrics_file import RoundMetrics, write_metrics
from capfilt.stages.storage.store import Store
from tests.tiny import tiny_data


def metrics_of(seed: int) -> RoundMetrics:
    models = {"pretrain.0": 40, "human_only": 10, "filter_only": 45, "captioner_only": 42, "pretrain.1": 50}
    retrieval = {model: {"itc_tr@1": value + 2.0 * seed} for model, value in models.items()}
    return RoundMetrics(
        round=1,
        retrieval=retrieval,
        caption={model: {"cider": 100.0} for model in models},
        retrieval_by_source={"rare": retrieval},
        caption_by_source={"rare": {"pretrain.1": {"cider": 7.0}}},
    )


@pytest.mark.parametrize(("text", "seeds"), [("0", [0]), ("3, 1,2", [3, 1, 2]), ("10,11", [10, 11])])
def test_seeds_are_whole_numbers(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0,", "-1", "1.5", "0,1,0", "01,1", "a", "²"])
def test_other_seeds_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--seeds .*: give different whole numbers"):
        parse_seeds(text)


def test_scores_of_a_test_source_have_its_name() -> None:
    assert flat_scores(metrics_of(1))["pretrain.1"] == {
        "itc_tr@1": 52.0, "cider": 100.0, "rare itc_tr@1": 52.0, "rare cider": 7.0,
    }  # fmt: skip


def test_each_seed_is_a_run_with_the_controls_and_a_part_of_the_table(tmp_path, monkeypatch) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_data(tmp_path)))
    started = []

    def run_config(run, resume):
        started.append((run.run.seed, run.run.dir, run.controls, resume))
        write_metrics(Store(run.run.dir), metrics_of(run.run.seed))

    monkeypatch.setattr(command, "run_config", run_config)
    place = f"{tmp_path}/runs/table 1"
    result = CliRunner().invoke(app, ["ablate", str(config), "--seeds", "0,2", "--set", f"run.dir={place}"])
    assert result.exit_code == 0, result.output
    resume = f"capfilt ablate {config} --table capfilt --seeds 0,2 --set 'run.dir={place}'"
    controls = ("human_only", "filter_only", "captioner_only")
    assert started == [(seed, f"{place}/seed-{seed}", controls, resume) for seed in (0, 2)]
    words = [line.split() for line in result.output.splitlines()]
    assert ["none", "42.0", "±", "2.8", "100.0", "±", "0.0"] in words
    assert ["both", "-", "filter", "only", "+5.0", "±", "0.0", "+0.0", "±", "0.0"] in words
    assert result.output.count("human only") == 4, "a row and a difference, over all and for the test source"
    rows = pq.read_table(f"{place}/ablation.parquet").to_pylist()
    assert {"seed": 2, "model": "human_only", "metric": "itc_tr@1", "value": 14.0} in rows
    assert len(rows) == 2 * (5 * 3 + 1)


def test_wrong_seeds_start_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(command, "run_config", lambda *_: pytest.fail("started"))
    result = CliRunner().invoke(app, ["ablate", "configs/quickstart.yaml", "--seeds", "1,1"])
    assert result.exit_code == 2 and "--seeds 1,1: give different whole numbers" in result.output
