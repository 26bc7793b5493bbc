"""Shared pieces: one embedded Ray for the whole session, and a tiny run on procedural shapes."""

import json
import os
from dataclasses import asdict

import pytest
from filelock import FileLock

from tests.tiny import tiny_data

# Set before torch is imported anywhere: with one thread results are bit-equal from run to run.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_session():
    """An embedded Ray; `cluster.session.session` inside joins it."""
    from cluster.config import ClusterConfig
    from cluster.session import session

    with session(ClusterConfig(address="local")):
        yield


@pytest.fixture(scope="session")
def finished(ray_session, tmp_path_factory):
    """(run directory, config, outcome) of a whole loop on the tiny corpus; nobody changes it. Of several
    processes that run tests the first that needs it makes it for all."""
    from rich.console import Console

    from pipeline.load import parse_config
    from pipeline.run import Outcome, run_dag

    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "finished"
    config = parse_config(tiny_data(folder), "tiny")
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "outcome.json").exists():
            made = run_dag(config, Console(quiet=True))
            assert made.failed == {}
            (folder / "outcome.json").write_text(json.dumps(asdict(made)))
    return folder / "run", config, Outcome(**json.loads((folder / "outcome.json").read_text()))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(folder, config data) of a tiny run; each session makes the corpus once."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, tiny_data(folder)
