"""`capfilt convert`: between layouts and back, and one error line for what is impossible."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.load import export_checkpoint, load_checkpoint, save_checkpoint
from capfilt.pipeline.cli.app import app
from tests.models.tiny_med import TOKENIZER, VISION, assert_same, build

ONE_WIDTH = replace(VISION, width=32, heads=4)


def convert(*arguments):
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    return result.exit_code, result.stderr


@pytest.mark.parametrize("parts", ["vqa", "nlvr", "captioner", "filter"])
def test_checkpoint_converts_to_another_layout_and_back(tmp_path, parts):
    TOKENIZER.save(tmp_path)
    med = build(parts=parts, vision=ONE_WIDTH)
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    assert convert(tmp_path / "ours", tmp_path / "a.pth", "--to", "blip") == (0, "")
    source = tmp_path / "a.pth"
    if parts != "nlvr":
        assert convert(tmp_path / "a.pth", tmp_path / "hf", "--to", "hf", "--tokenizer", tmp_path)[0] == 0
        source = tmp_path / "hf"
    assert convert(source, tmp_path / "back", "--to", "capfilt", "--tokenizer", tmp_path)[0] == 0
    assert_same(load_checkpoint(tmp_path / "back", parts)[0], med)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": "nlvr"}, 'transformers has no class for parts "nlvr": export to "blip" or "capfilt"'),
        ({}, 'transformers has no class for parts "pretrain": export its "captioner" or its "filter"'),
        (
            {"parts": "vqa"},
            'they are 32 and 24: export to "blip" or "capfilt"',
        ),
    ],
)
def test_impossible_conversion_is_one_line(tmp_path, changes, message):
    save_checkpoint(tmp_path / "ours", build(**changes), TOKENIZER, {})
    code, error = convert(tmp_path / "ours", tmp_path / "hf", "--to", "hf")
    assert code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "hf").exists()


def test_part_of_a_pretrained_model_converts_unless_it_would_need_random_weights(tmp_path):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    assert convert(tmp_path / "ours", tmp_path / "hf", "--to", "hf", "--parts", "captioner")[0] == 0
    assert load_checkpoint(tmp_path / "hf", "captioner")[2].format == "hf"
    code, error = convert(tmp_path / "ours", tmp_path / "a.pth", "--to", "blip", "--parts", "vqa")
    assert code == 2 and 'lacks tensors of a "vqa": finetune it first' in error and "4 missing" in error
    with pytest.raises(CheckpointError, match="finetune it first; 6 missing: text_encoder"):
        export_checkpoint(tmp_path / "ours", tmp_path / "b", to="capfilt", parts="nlvr")


def test_existing_file_is_not_overwritten(tmp_path):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    (tmp_path / "mine.pth").write_text("not a checkpoint")
    code, error = convert(tmp_path / "ours", tmp_path / "mine.pth", "--to", "blip")
    assert code == 2 and "mine.pth: already exists; name another path" in error and error.count("\n") == 1
    assert (tmp_path / "mine.pth").read_text() == "not a checkpoint"


def test_pretrained_model_without_a_tokenizer_names_the_parts_first(tmp_path):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    assert convert(tmp_path / "ours", tmp_path / "pretrain.pth", "--to", "blip")[0] == 0
    code, error = convert(tmp_path / "pretrain.pth", tmp_path / "hf", "--to", "hf")
    assert code == 2 and "--parts captioner" in error and error.count("\n") == 1
    code, error = convert(tmp_path / "pretrain.pth", tmp_path / "hf", "--to", "hf", "--parts", "captioner")
    assert code == 2 and "contains no tokenizer" in error and "--tokenizer" in error


@pytest.mark.parametrize("tokenizer", ["none", "empty"])
def test_tokenizer_that_does_not_exist_is_one_line(tmp_path, tokenizer):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    (tmp_path / "empty").mkdir()
    code, error = convert(
        tmp_path / "ours", tmp_path / "b", "--to", "capfilt", "--tokenizer", tmp_path / tokenizer
    )
    assert code == 2 and error.count("\n") == 1 and "tokenizer" in error
