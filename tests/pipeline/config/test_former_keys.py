"""Keys of earlier versions: read at their present places, with equal fingerprints, or refused in one line."""

import pytest

from capfilt.pipeline.config.former_keys import move_former_keys
from capfilt.pipeline.config.load import ConfigError, load_config, parse_config
from capfilt.pipeline.plan import plan
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from tests.tiny import tiny_data, write_config

MIXING = {"human": 2, "web": 0.5, "synthetic": 0}


def config_of(tmp_path, texts=None, **keys):
    data = tiny_data(tmp_path) | keys
    if texts is not None:
        data["pretrain"]["texts"] = texts
    return parse_config(data, "c.yaml")


def inputs(config, name="pretrain.1"):
    return Fingerprints(config, plan(config)).inputs(name)


def test_former_keys_mean_what_the_present_ones_do(tmp_path):
    former = config_of(tmp_path, mixing=MIXING, verdicts="strict")
    assert former == config_of(tmp_path, MIXING | {"verdicts": "strict"})
    assert config_of(tmp_path, {"per_image": "one"}, mixing=MIXING).pretrain.texts.human == 2
    defaults = {"mixing": {"human": 1.0, "web": 1.0, "synthetic": 1.0}, "verdicts": "default"}
    assert config_of(tmp_path, **defaults) == config_of(tmp_path)


def test_inputs_of_a_pretraining_have_what_differs_from_the_defaults_under_its_former_name(tmp_path):
    plain = inputs(config_of(tmp_path))
    assert not {"mixing", "texts", "verdicts"} & set(plain) and "texts" not in plain["pretrain"]
    assert inputs(config_of(tmp_path, mixing=MIXING)) == plain | {"mixing": MIXING}
    assert inputs(config_of(tmp_path, {"per_image": "one"})) == plain | {"texts": {"per_image": "one"}}
    sampled = config_of(tmp_path, {"sentences": "sample"})
    assert inputs(sampled) == plain | {"texts": {"sentences": "sample"}}
    assert inputs(sampled, "pretrain.0") == inputs(config_of(tmp_path), "pretrain.0")


def test_an_override_of_a_present_key_wins_over_a_former_one(tmp_path):
    path = write_config(tmp_path / "c.yaml", tiny_data(tmp_path) | {"mixing": MIXING})
    assert load_config(path, ["pretrain.texts.human=3"]).pretrain.texts.weights == MIXING | {"human": 3}
    assert load_config(path, ["pretrain.texts={}"]).pretrain.texts.human == 1
    plain = write_config(tmp_path / "d.yaml", tiny_data(tmp_path))
    assert load_config(plain, ["mixing.human=3"]).pretrain.texts.human == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixing": {"web": 2}}, r"mixing\.web is 2, and pretrain\.texts\.web, .* is 3; remove mixing\.web"),
        ({"verdicts": "loose"}, r"verdicts is 'loose', and pretrain\.texts\.verdicts, .* is 'strict'"),
        ({"mixing": 2}, r"mixing: is now pretrain\.texts, a section .*; got 2"),
        ({"mixing": {"webb": 2}}, r"pretrain\.texts\.webb: unknown key"),
    ],
)
def test_contradictions_and_mistakes_are_refused(tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, {"web": 3, "verdicts": "strict"}, **keys)
    with pytest.raises(ConfigError, match=message):
        data = tiny_data(tmp_path) | keys
        data["pretrain"]["texts"] = {"web": 3, "verdicts": "strict"}
        load_config(write_config(tmp_path / "c.yaml", data))


def test_former_keys_without_a_pretraining():
    data = {"verdicts": "default", "mixing": {"human": 1}, "run": {}}
    assert move_former_keys(data) == {"run": {}}
    with pytest.raises(ValueError, match=r"verdicts: is now pretrain.* no section pretrain"):
        move_former_keys({"verdicts": "strict"})
    assert move_former_keys({"mixing": {"human": 2}, "pretrain": 3}) == {"pretrain": 3}


def test_one_text_per_image_contradicts_a_control_that_repeats_texts(tmp_path):
    with pytest.raises(ConfigError, match=r"web_repeated .* pretrain\.texts\.per_image: one"):
        config_of(tmp_path, {"per_image": "one"}, controls=["web_repeated"])
    assert config_of(tmp_path, {"per_image": "one"}, controls=["filter_only"]).controls
