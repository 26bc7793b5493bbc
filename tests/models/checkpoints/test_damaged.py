"""Checkpoints that cannot be used, and those of other programs that can: wrappers, prefixes, files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from capfilt.models.checkpoints.check import Opening, check_checkpoints
from capfilt.models.checkpoints.files import CheckpointError, checkpoint_digest, file_digests
from capfilt.models.checkpoints.load import export_checkpoint, load_checkpoint, save_checkpoint
from tests.models.tiny_med import FILE_TEXT, FILE_VISION, TOKENIZER, assert_same, build, from_file

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A captioner in capfilt format."""
    save_checkpoint(tmp_path / "med", build(parts="captioner"), TOKENIZER, {})
    return tmp_path / "med"


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, "captioner", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def split(folder):
    """Store the weights in two files and an index, as transformers does."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for shard, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


# --- several files


def test_weights_in_several_files_load_and_are_in_the_digest(folder):
    whole = load_checkpoint(folder, "captioner")[0]
    split(folder)
    assert_same(load_checkpoint(folder, "captioner")[0], whole)
    before = checkpoint_digest(folder)
    index = "model.safetensors.index.json"
    assert list(file_digests(folder)) == ["config.json", "tokenizer.json", index, *SHARDS]
    for shard in SHARDS:
        tensors = load_file(folder / shard)
        tensors[min(tensors)] += 1
        save_file(tensors, folder / shard)
        assert checkpoint_digest(folder) != before
        before = checkpoint_digest(folder)


def test_an_index_beside_whole_weights_is_not_read_and_does_not_change_the_digest(folder):
    digest = checkpoint_digest(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert checkpoint_digest(folder) == digest
    load_checkpoint(folder, "captioner")


def test_a_missing_file_of_several_is_named(folder):
    split(folder)
    (folder / SHARDS[1]).unlink()
    for call in (checkpoint_digest, refusal):
        try:
            message = call(folder)
        except CheckpointError as error:
            message = str(error)
        assert f"lacks {SHARDS[1]}, which model.safetensors.index.json names" in message


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": "../b.safetensors"}, {"a": "/b"}, {"a": 1}])
def test_an_index_names_files_of_its_folder_only(folder, weight_map):
    split(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "has no valid weight_map" in refusal(folder)


# --- wrappers and prefixes


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("keys", [(), ("model",), ("state_dict",), ("module", "model_state_dict")])
def test_wrappers_and_prefixes_of_training_programs_are_removed(tmp_path, keys, prefix):
    TOKENIZER.save(tmp_path)
    med = from_file(parts="captioner")
    content = {f"{prefix}{name}": tensor for name, tensor in med.state_dict().items()}
    for key in keys:
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    again = load_checkpoint(tmp_path / "a.pth", "captioner", tokenizer=tmp_path)[0]
    assert_same(again, from_file(parts="captioner", embed_dim=256))


def test_prefix_of_safetensors_is_removed_only_if_every_name_has_it(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    load_checkpoint(folder, "captioner")
    first, *rest = tensors
    mixed = {first: tensors[first]} | {f"module.{name}": tensors[name] for name in rest}
    save_file(mixed, folder / "model.safetensors")
    assert f"{len(rest)} unexpected: module." in refusal(folder)


# --- damage


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(folder, name):
    (folder / name).write_text(POINTER)
    assert f"{name} is a Git LFS pointer, not the file itself: run `git lfs pull` in" in refusal(folder)


def test_a_pth_that_is_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "a.pth").write_text(POINTER)
    assert "a.pth is a Git LFS pointer" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"PK\x03\x04", b"\x80\x02}q\x00X", b"<html>", b"\x00" * 64]
)
def test_a_damaged_pth_is_one_line(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    assert "a.pth cannot be read as plain tensors" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("content", ["", "{}", "[1]", "<html>", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_one_line(folder, content):
    (folder / "tokenizer.json").write_text(content)
    assert "has no usable tokenizer" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": {"hidden_size": "x"}},
        {"vision_config": {"hidden_size": 0}},
        {"vision_config": 3},
        {"text_config": {"num_attention_heads": 0}},
        {"text_config": []},
    ],
)
def test_a_damaged_config_of_transformers_is_one_line(folder, tmp_path, change):
    export_checkpoint(folder, tmp_path / "hf", to="hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    del config["capfilt"]
    (tmp_path / "hf/config.json").write_text(json.dumps(config | change))
    refusal(tmp_path / "hf")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_encoder.norm.bias"][3] = value
    save_file(tensors, folder / "model.safetensors")
    message = refusal(folder)
    assert "has NaN or infinite weights" in message and "1 not finite: visual_encoder.norm.bias" in message


# --- tokenizers


def move_dec(folder, steps=-1):
    """State [DEC] at another id than the tokenizer has."""
    config = json.loads((folder / "config.json").read_text())
    ids = config["text_config"] if "text_config" in config else config["special_ids"]
    ids["bos_token_id" if "text_config" in config else "dec"] += steps
    config.pop("capfilt", None)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("to", ["capfilt", "hf"])
def test_a_tokenizer_with_dec_at_another_id_is_refused(folder, tmp_path, to):
    export_checkpoint(folder, tmp_path / "copy", to=to)
    load_checkpoint(tmp_path / "copy", "captioner")
    move_dec(tmp_path / "copy")
    dec = TOKENIZER.dec_id
    assert f"has [DEC] at {dec}, the model at {dec - 1}: use the tokenizer" in refusal(tmp_path / "copy")


def test_defaults_of_transformers_outside_the_vocabulary_say_nothing(folder, tmp_path):
    export_checkpoint(folder, tmp_path / "hf", to="hf")
    move_dec(tmp_path / "hf", steps=30_000)
    load_checkpoint(tmp_path / "hf", "captioner")


def test_a_pth_needs_the_tokenizer_of_its_size(tmp_path):
    TOKENIZER.save(tmp_path)
    text = FILE_TEXT.__class__(**{**vars(FILE_TEXT), "vocab_size": TOKENIZER.vocab_size + 3})
    med = build(parts="captioner", vision=FILE_VISION, text=text)
    torch.save({"model": med.state_dict()}, tmp_path / "a.pth")
    assert "has [DEC] at" in refusal(tmp_path / "a.pth", tokenizer=tmp_path)


def test_a_checkpoint_of_an_earlier_version_states_no_special_ids(folder):
    config = json.loads((folder / "config.json").read_text())
    assert set(config.pop("special_ids")) == {"pad", "cls", "sep", "dec", "enc"}
    (folder / "config.json").write_text(json.dumps(config))
    load_checkpoint(folder, "captioner")


def test_a_folder_without_a_tokenizer_is_one_line(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "contains no tokenizer: give the folder of bert-base-uncased" in refusal(folder)
    assert "there is no tokenizer at" in refusal(folder, tokenizer=tmp_path)


def test_image_size_that_does_not_fit_the_patches_is_one_line(folder):
    assert "cannot take images of 33 pixels" in refusal(folder, image_size=33)


def test_child_process_reports_each_checkpoint(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise SystemExit(7)")  # of the user; never imported
    (tmp_path / "a.pth").write_bytes(b"x")
    bad, good, other, dialogs = check_checkpoints(
        [
            Opening(path=str(tmp_path / "a.pth"), parts="filter"),
            Opening(path=str(folder), parts="captioner"),
            Opening(path=str(folder), parts="filter"),
            Opening(path=str(folder), parts="captioner", for_dialogs=True),
        ]
    )
    assert bad.startswith(f"{tmp_path}/a.pth cannot be read as plain tensors") and good is None
    assert 'cannot be loaded as a "filter"' in other
    assert dialogs.startswith(f'{folder}: the model is a "captioner" and ranks no answers of dialogs')
