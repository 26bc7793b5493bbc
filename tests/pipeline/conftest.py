"""The scene of `capfilt retry`'s tests; made once in a file, copied for each test."""

import shutil
from contextlib import chdir

import pytest

from tests.pipeline.maintenance.retry_scene import Scene


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    with chdir(folder):  # paths are relative: they are in the fingerprint, and a copy has the same
        Scene(folder).make()
    return folder


@pytest.fixture
def scene(template, tmp_path, monkeypatch):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Scene(tmp_path)
