"""A run that lacks some images, made once per test file and copied for each test."""

import shutil
from contextlib import chdir

import pytest

from tests.pipeline.maintenance.partial_run import PartialRun


@pytest.fixture(scope="module")
def partial_run_template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    with chdir(folder):  # paths in the config are relative, so that a copy has the same fingerprints
        PartialRun(folder).create()
    return folder


@pytest.fixture
def partial_run(partial_run_template, tmp_path, monkeypatch):
    shutil.copytree(partial_run_template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return PartialRun(tmp_path)
