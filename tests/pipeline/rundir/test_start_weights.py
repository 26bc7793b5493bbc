"""Start weights and tokenizers: how they are found, identified and checked."""

import re

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.config.shipped import SHIPPED_ROOT, resolve_shipped, shipped_configs
from capfilt.pipeline.rundir.start_weights import (
    check_given_models,
    check_start_weights,
    resolve_address,
    start_identity,
)
from capfilt.stages.storage.artifacts import ArtifactError
from capfilt.stages.storage.store import Store
from tests.tiny import tiny_data

START = "configs/starts/shapes-vit.safetensors"


def test_local_start_is_identified_by_name_and_content(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights.pth").write_bytes(b"weights")
    identity = start_identity(str(tmp_path / "a/weights.pth"))
    assert re.fullmatch(r"weights\.pth \(sha256 [0-9a-f]{16}\)", identity)
    assert start_identity(str(tmp_path / "b/weights.pth")) == identity
    (tmp_path / "b/weights.pth").write_bytes(b"other weights")
    assert start_identity(str(tmp_path / "b/weights.pth")) != identity


@pytest.mark.parametrize(
    "address", [None, "hf://org/name", "s3://bucket/a", "vit_tiny_patch16_224", "no/such"]
)
def test_any_other_start_is_identified_by_its_address(address):
    assert start_identity(address) == address


def test_relative_addresses_become_absolute_if_they_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    assert resolve_address("weights.pth") == str(tmp_path / "weights.pth")
    assert resolve_address("vit_tiny_patch16_224") == "vit_tiny_patch16_224"
    assert resolve_address("s3://bucket/a") == "s3://bucket/a"
    assert resolve_address(START) == str(SHIPPED_ROOT / START)


def test_shipped_files_are_found_unless_the_working_directory_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "configs/quickstart.yaml"
    assert resolve_shipped(name) == str(SHIPPED_ROOT / name)
    assert resolve_shipped("configs/none.yaml") == "configs/none.yaml"
    assert resolve_shipped("pyproject.toml") == "pyproject.toml"
    (tmp_path / "configs").mkdir()
    (tmp_path / name).write_text("run: {}")
    assert resolve_shipped(name) == name
    assert name in shipped_configs() and "configs/recipes/vit-b-14m.yaml" in shipped_configs()


KEYS = {  # config keys of start weights, and the kind of node that needs each
    "model.vision_start": "pretrain",
    "model.text_start": "pretrain",
    "model.tokenizer": "pretrain",
    "captioner.tokenizer": "bootstrap",
    "filter.tokenizer": "bootstrap",
}


@pytest.mark.parametrize(("key", "kind"), KEYS.items())
def test_start_is_checked_only_if_a_node_needs_it(tmp_path, key, kind):
    data = tiny_data(tmp_path)
    section, name = key.split(".")
    data[section] |= {name: "no/such"} | ({} if section == "model" else {"checkpoint": "x"})
    config, run_dir = parse_config(data, "c"), Store(str(tmp_path / "run"))
    with pytest.raises(ArtifactError, match=rf"^{key}: "):
        check_start_weights(config, run_dir, {"fetch", kind})
    check_start_weights(config, run_dir, set(KEYS.values()) - {kind} | {"fetch", "captioner", "report"})


def test_tokenizer_without_a_checkpoint_is_not_needed(tmp_path):
    data = tiny_data(tmp_path)
    data["captioner"]["tokenizer"] = "no/such"
    check_start_weights(parse_config(data, "c"), Store(str(tmp_path / "run")), {"bootstrap"})


def test_timm_models_and_shipped_files_are_accepted(tmp_path):
    data, run_dir = tiny_data(tmp_path), Store(str(tmp_path / "run"))
    for start in ("vit_tiny_patch16_224", START):
        data["model"]["vision_start"] = start
        check_start_weights(parse_config(data, "c"), run_dir, {"pretrain"})


def test_timm_model_from_a_cache_that_everybody_can_change_is_refused(tmp_path, monkeypatch):
    data, cache = tiny_data(tmp_path), tmp_path / "hub"
    data["model"]["vision_start"] = "vit_tiny_patch16_224"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    config, run_dir = parse_config(data, "c"), Store(str(tmp_path / "run"))
    check_start_weights(config, run_dir, {"pretrain"})
    cache.chmod(0o757)
    with pytest.raises(ArtifactError, match=rf"^model\.vision_start: {cache} can be changed by every user"):
        check_start_weights(config, run_dir, {"pretrain"})


def test_given_checkpoints_are_opened_as_the_workers_will_open_them(tmp_path, monkeypatch):
    opened = []

    def check(openings):
        opened.extend(openings)
        return [None, "broken"]

    monkeypatch.setattr("capfilt.pipeline.rundir.start_weights.check_checkpoints", check)
    data = tiny_data(tmp_path)
    for role in ("captioner", "filter"):
        (tmp_path / role).mkdir()
        data[role]["checkpoint"] = str(tmp_path / role)
        data[role].pop("finetune")
    data["captioner"]["tokenizer"] = str(tmp_path)
    data["filter"]["judge"] = {"image_size": 48}
    with pytest.raises(ArtifactError, match=r"^filter\.checkpoint: broken$"):
        check_given_models(parse_config(data, "c"), Store(str(tmp_path / "run")))
    captioner, judge = opened
    assert (captioner.path, captioner.parts, captioner.image_size) == (
        f"{tmp_path}/captioner",
        "captioner",
        None,
    )
    assert (judge.path, judge.parts, judge.image_size) == (f"{tmp_path}/filter", "filter", 48)
    assert (captioner.tokenizer, judge.tokenizer) == (str(tmp_path), None)
