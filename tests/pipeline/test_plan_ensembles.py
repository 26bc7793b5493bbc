"""Ensembles of captioners and filters in the DAG."""

import pytest

from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.plan import plan
from tests.pipeline.test_plan import TWO_ROUNDS, config_of, needs


def set_ensembles(data, captioners, filters):
    data["captioner"]["ensemble"], data["filter"]["ensemble"] = captioners, filters


def test_models_of_an_ensemble_are_trained_side_by_side_and_used_together(tmp_path):
    config = config_of(tmp_path, lambda data: set_ensembles(data, 3, 2), rounds=2)
    expected = {name: set(TWO_ROUNDS[name]) for name in TWO_ROUNDS}
    for r in (1, 2):
        for name in (f"captioner.{r}.2", f"captioner.{r}.3", f"filter.{r}.2"):
            expected[name] = {f"pretrain.{r - 1}"}
            expected[f"bootstrap.{r}"] |= {name}
    assert needs(config) == expected
    nodes = plan(config)
    assert nodes["bootstrap.2"].trained_models("captioner") == [
        "captioner.2",
        "captioner.2.2",
        "captioner.2.3",
    ]
    assert nodes["bootstrap.2"].trained_models("filter") == ["filter.2", "filter.2.2"]
    members = {name: nodes[name].member for name in ("captioner.2", "captioner.2.3", "filter.1.2")}
    assert members == {"captioner.2": 1, "captioner.2.3": 3, "filter.1.2": 2}
    assert nodes["captioner.2.3"].outputs[0] == "models/captioner.2.3"


def test_a_calibration_needs_all_filters_of_an_ensemble(tmp_path):
    def change(data):
        set_ensembles(data, 1, 2)
        data["pretrain"]["hold_out"] = 0.5
        data["filter"]["judge"] = {"threshold": "auto"}

    nodes = plan(config_of(tmp_path, change))
    assert set(nodes["calibrate.1"].needs) == {"fetch", "filter.1", "filter.1.2"}
    assert nodes["calibrate.1"].trained_models("filter") == ["filter.1", "filter.1.2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: set_ensembles(data, 0, 1), r"captioner\.ensemble"),
        (
            lambda data: (set_ensembles(data, 2, 1), data["captioner"].update(checkpoint="a")),
            r"captioner\.ensemble: .* give captioner\.finetune and no captioner\.checkpoint",
        ),
        (
            lambda data: (set_ensembles(data, 1, 2), data["filter"].update(checkpoint="a", finetune=None)),
            r"filter\.ensemble: .* give filter\.finetune and no filter\.checkpoint",
        ),
        (
            lambda data: (set_ensembles(data, 1, 2), data.update(shared_finetune=True)),
            r"filter\.ensemble: with shared_finetune there is one model",
        ),
    ],
)
def test_ensembles_that_are_not_trained_are_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, change)
