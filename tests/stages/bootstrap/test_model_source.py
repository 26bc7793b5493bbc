"""Checkpoints of captioner and filter, local and on an object store."""

import pytest

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.stages.bootstrap.caption import Caption, CaptionConfig
from capfilt.stages.bootstrap.filter import Filter, FilterConfig
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.storage.artifacts import ArtifactError
from capfilt.stages.storage.store import Store
from tests.models.tiny_med import TOKENIZER, build


def test_captioner_and_filter_are_loaded_from_a_url(healthy_s3, tmp_path):
    run_dir = Store("s3://bucket/model-source", {"endpoint_url": healthy_s3.endpoint})
    save_checkpoint(str(tmp_path), build(), TOKENIZER, {})
    for file in tmp_path.iterdir():
        run_dir.put(f"models/m/{file.name}", file.read_bytes())
    local, remote = (
        ModelSource(checkpoint=address, run_dir=run_dir, device="cpu")
        for address in (str(tmp_path), run_dir.address("models/m"))
    )
    captioners = [Caption(CaptionConfig(), model).captioners[0].med for model in (local, remote)]
    filters = [Filter(FilterConfig(), model).matcher.matchers[0].med for model in (local, remote)]
    for med, copy in (captioners, filters):
        ours, theirs = med.state_dict(), copy.state_dict()
        assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_messages_name_the_config_key(tmp_path):
    (tmp_path / "model").mkdir()
    model = ModelSource(checkpoint=str(tmp_path / "model"), tokenizer=str(tmp_path / "none"))
    assert model.local_checkpoint("filter") == str(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"^filter\.tokenizer: nothing at "):
        model.local_tokenizer("filter")
    with pytest.raises(ArtifactError, match=r"^captioner\.checkpoint: nothing at "):
        ModelSource(checkpoint=str(tmp_path / "none")).local_checkpoint("captioner")
    assert ModelSource(checkpoint="x").local_tokenizer("captioner") is None
