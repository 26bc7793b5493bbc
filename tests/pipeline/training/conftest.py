"""The scene of the training tests, made once per file; pairs are read in this process."""

import pytest

from capfilt.pipeline.training import learner
from tests.pipeline.training.training_scene import local_blocks, make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("training"))


@pytest.fixture(autouse=True)
def blocks_without_ray(monkeypatch):
    monkeypatch.setattr(learner, "stream_blocks", local_blocks)
