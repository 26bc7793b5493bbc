"""The scene of the training tests, made once per file; pairs are read in this process."""

import pytest

from capfilt.pipeline.training import learner
from tests.local_feed import request_local
from tests.pipeline.training.training_scene import make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("training"))


@pytest.fixture(autouse=True)
def input_without_ray(monkeypatch):
    monkeypatch.setattr(learner, "request_window", request_local)
