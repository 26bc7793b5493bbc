"""How a message names what has changed since a node was made."""

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.prepare import open_run, states
from capfilt.pipeline.rundir.changes import describe_change
from capfilt.pipeline.rundir.ledger import LedgerError
from tests.runs import NO_RESULT


def config_of(tmp_path):
    for role in ("captioner", "filter"):
        folder = tmp_path / role
        folder.mkdir(exist_ok=True)
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            (folder / name).write_text(f"{role} {name}")
    data = {
        "run": {"dir": str(tmp_path / "run")},
        "sources": {"web": {"kind": "web", "rows": {"manifest": "urls.csv"}}},
        "captioner": {"checkpoint": str(tmp_path / "captioner")},
        "filter": {"checkpoint": str(tmp_path / "filter")},
    }
    return parse_config(data, "test")


def begin(config, done):
    run_dir = open_run(config)
    inputs = run_dir.fingerprints.inputs("bootstrap.1")
    run_dir.ledger.start("bootstrap.1", inputs, run_dir.fingerprints.given("bootstrap.1"))
    if done:
        run_dir.ledger.finish("bootstrap.1", inputs, NO_RESULT, 1.0)
        run_dir.ledger.reopen("bootstrap.1")  # as a retry does
        run_dir.ledger.finish("bootstrap.1", inputs, NO_RESULT, 1.0)


@pytest.mark.parametrize("done", [True, False])
def test_changed_checkpoint_is_named_with_its_files(tmp_path, done):
    config = config_of(tmp_path)
    begin(config, done)
    folder = tmp_path / "captioner"
    (folder / "model.safetensors").write_text("longer than it was before")
    (folder / "config.json").write_text("CAPTIONER CONFIG.JSON"[: len("captioner config.json")])
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("new")
    with pytest.raises(LedgerError) as raised:
        states(open_run(config))
    line = str(raised.value)
    assert f"another content of captioner.checkpoint than there is now at {folder} (" in line
    assert "config.json has other content of the same size" in line
    assert "model.safetensors had 27 bytes and has 25" in line
    assert "tokenizer.json was removed, vocab.txt was added" in line
    assert "--fresh bootstrap.1" in line and "\n" not in line


def test_unchanged_checkpoint_at_another_place_is_the_same(tmp_path):
    config = config_of(tmp_path)
    begin(config, True)
    (tmp_path / "captioner").rename(tmp_path / "moved")
    captioner = config.captioner.model_copy(update={"checkpoint": str(tmp_path / "moved")})
    moved = config.model_copy(update={"captioner": captioner})
    assert states(open_run(moved))["bootstrap.1"] == "done"
    (tmp_path / "moved/model.safetensors").write_text("x")
    with pytest.raises(LedgerError) as raised:
        states(open_run(moved))
    assert f"captioner.checkpoint at {tmp_path}/captioner than there is now at {tmp_path}/moved (" in str(
        raised.value
    )


def test_checkpoint_of_one_file_and_record_of_an_earlier_version():
    before, now = ({"checkpoints": {"filter": digest}} for digest in ("aa", "bb"))
    old, new = (
        {"filter": {"address": "/m.pth", "files": [{"name": "", "bytes": size, "sha256": str(size)}]}}
        for size in (1000, 2000)
    )
    assert describe_change(before, now, old, new) == (
        "another content of filter.checkpoint than there is now at /m.pth (the file had 1,000 bytes and has "
        "2,000)"
    )
    assert describe_change(before, now, {}, new) == (
        "another content of filter.checkpoint than there is now at /m.pth"
    )


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (
            {"model": {"vision_start": "vit.safetensors (sha256 00ff)"}},
            {"model": {"vision_start": "vit.safetensors (sha256 11ff)"}},
            "another content of model.vision_start = vit.safetensors",
        ),
        (
            {"model": {"vision_start": "a (sha256 00ff)"}},
            {"model": {"vision_start": None}},
            'model.vision_start = "a (sha256 00ff)", the config now says null',
        ),
        (
            {"checkpoints": {"filter_tokenizer": "bert (sha256 00ff)"}},
            {"checkpoints": {"filter_tokenizer": "bert (sha256 11ff)"}},
            "another content of filter.tokenizer = bert",
        ),
        (
            {"sources": {"web": {"fetch": {"blocked": "aa"}}}},
            {"sources": {"web": {"fetch": {"blocked": "bb"}}}},
            "other block lists than sources.web.fetch.blocked names now",
        ),
        ({"seed": 1}, {"seed": 2}, "seed = 1, the config now says 2"),
    ],
)
def test_other_changes(before, now, text):
    assert describe_change(before, now, {}, {}) == text
