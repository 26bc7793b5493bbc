"""Shared pieces: one embedded Ray for the whole session, and a tiny run on procedural shapes."""

import os

import pytest

from tests.tiny import tiny_data

# Set before torch is imported anywhere: with one thread results are bit-equal from run to run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers the lowest priority; the tests of the other process would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")

YIELDING = 5
"""Niceness of tests that start no Ray."""
RAY_FOLDERS = ("tests/end_to_end/", "tests/faults/")
"""Where tests start Ray."""


def pytest_collection_modifyitems(items):
    """What starts Ray first: it takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY_FOLDERS))


def pytest_runtest_setup(item):
    """What starts no Ray yields to what does, which takes longer; of two processes at most one starts Ray, and that
    first."""
    if not item.nodeid.startswith(RAY_FOLDERS) and os.getpriority(os.PRIO_PROCESS, 0) < YIELDING:
        os.setpriority(os.PRIO_PROCESS, 0, YIELDING)


def pytest_xdist_make_scheduler(config, log):
    """For two test processes (`-n 2`): all that starts Ray in one of them, since embedded Rays that run side by side get
    in each other's way; of the rest each file in one, so that its fixtures are made once. (pytest-xdist's own groups do
    nothing under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class OneRay(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "ray" if file.startswith(RAY_FOLDERS) else file

    return OneRay(config, log)


@pytest.fixture(scope="session")
def ray_session():
    """An embedded Ray; `cluster.session.session` inside joins it."""
    from capfilt.cluster.config import ClusterConfig
    from capfilt.cluster.session import session

    with session(ClusterConfig(address="local")):
        yield


@pytest.fixture(scope="session")
def finished(tiny, ray_session):
    """(run directory, config, outcome) of a whole loop on the tiny corpus; nobody changes it."""
    from rich.console import Console

    from capfilt.pipeline.config.load import parse_config
    from tests.runs import run_dag

    folder, data = tiny
    config = parse_config(data, "tiny")
    outcome = run_dag(config, Console(quiet=True))
    assert outcome.failed == {}
    return folder / "run", config, outcome


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(folder, config data) of a tiny run; each session makes the corpus once."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, tiny_data(folder)


@pytest.fixture(scope="session")
def s3():
    """An S3 server that fails as it is told (tests/s3_server.py)."""
    from tests.s3_server import S3

    server = S3()
    yield server
    server.stop()
