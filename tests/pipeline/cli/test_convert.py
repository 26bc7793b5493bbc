"""`capfilt convert`: between layouts and back, and one line for what cannot be."""

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


@pytest.mark.parametrize("parts", ["vqa", "nlvr"])
def test_the_command_line_converts_there_and_back(tmp_path, parts):
    TOKENIZER.save(tmp_path)
    med = build(parts=parts, vision=ONE_WIDTH)
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    assert convert(tmp_path / "ours", tmp_path / "a.pth", "--to", "blip") == (0, "")
    source = tmp_path / "a.pth"
    if parts == "vqa":
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
def test_directions_that_are_impossible_are_told_in_a_line(tmp_path, changes, message):
    save_checkpoint(tmp_path / "ours", build(**changes), TOKENIZER, {})
    code, said = convert(tmp_path / "ours", tmp_path / "hf", "--to", "hf")
    assert code == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "hf").exists()


def test_a_part_of_a_pretrained_model_converts_but_never_with_random_weights(tmp_path):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    assert convert(tmp_path / "ours", tmp_path / "hf", "--to", "hf", "--parts", "captioner")[0] == 0
    assert load_checkpoint(tmp_path / "hf", "captioner")[2].format == "hf"
    code, said = convert(tmp_path / "ours", tmp_path / "a.pth", "--to", "blip", "--parts", "vqa")
    assert code == 2 and 'lacks tensors of a "vqa": finetune it first' in said and "4 missing" in said
    with pytest.raises(CheckpointError, match="finetune it first; 6 missing: text_encoder"):
        export_checkpoint(tmp_path / "ours", tmp_path / "b", to="capfilt", parts="nlvr")


def test_what_is_there_is_never_overwritten(tmp_path):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    (tmp_path / "mine.pth").write_text("something of mine")
    code, said = convert(tmp_path / "ours", tmp_path / "mine.pth", "--to", "blip")
    assert code == 2 and "mine.pth: exists already; name another place" in said and said.count("\n") == 1
    assert (tmp_path / "mine.pth").read_text() == "something of mine"
