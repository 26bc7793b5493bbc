"""The run with copies of images that the tests of counting and marking share."""

import shutil

import pytest

from tests.pipeline.nodes.duplicates_run import CORPUS, config_of, context_of, write_shards


@pytest.fixture(scope="module")
def unmarked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unmarked")
    write_shards(folder, CORPUS)
    return folder


@pytest.fixture
def context(unmarked, tmp_path):
    """A run with its corpus and candidates, which are not marked."""
    shutil.copytree(unmarked, tmp_path / "run")
    return context_of(config_of(tmp_path / "run"))
