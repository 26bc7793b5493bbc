"""Fixtures for all tests: one embedded Ray per session, a tiny run on generated shapes, an S3 server."""

import os

import pytest

from tests.tiny import tiny_data

# Set before torch is imported anywhere. With one thread, results are bit-equal from run to run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# By default Ray gives its workers the lowest priority, so that a second test process would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")
# A call of Ray outside `ray_session` is an error. By default it would start a Ray of its own.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

NICENESS_WITHOUT_RAY = 5
"""Niceness of tests that start no Ray."""
RAY_FOLDERS = ("tests/end_to_end/", "tests/faults/", "tests/examples/test_runs")
"""Beginnings of the paths of tests that start Ray."""


def pytest_collection_modifyitems(items):
    """Run the tests that start Ray first: they take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY_FOLDERS))


def pytest_runtest_setup(item):
    """Give tests that start no Ray a lower priority, because a test process that runs beside this one may run
    Ray.

    A process cannot raise its priority again, but it runs its tests with Ray first.
    """
    if not item.nodeid.startswith(RAY_FOLDERS) and os.getpriority(os.PRIO_PROCESS, 0) < NICENESS_WITHOUT_RAY:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS_WITHOUT_RAY)


def pytest_xdist_make_scheduler(config, log):
    """Distribute tests over two processes (`-n 2`).

    All tests that start Ray run in one process, since embedded Rays that run side by side disturb each other.
    Of the others, the tests of a file run in one process, so that its fixtures are made once. (The groups of
    pytest-xdist itself have no effect under pytest 9.2.)
    """
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
    """(run directory, config, outcome) of a whole run on the tiny corpus. Tests must not change it."""
    from rich.console import Console

    from capfilt.pipeline.config.load import parse_config
    from capfilt.pipeline.metrics.run_metrics import RunMetrics
    from tests.runs import run_dag

    folder, data = tiny
    config = parse_config(data, "tiny")
    metrics = RunMetrics.exported(config.run.dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunMetrics, "exported", lambda run: metrics)
        outcome = run_dag(config, Console(quiet=True))
    assert outcome.failed == {}
    outcome.metrics = metrics
    return folder / "run", config, outcome


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(folder, config data) of a tiny run; the corpus is made once per session."""
    folder = tmp_path_factory.mktemp("tiny")
    data = tiny_data(folder)
    data["pretrain"]["hold_out"] = 0.8  # enough of 90 images for a calibration
    data["filter"]["judge"] = {"threshold": {"web": "auto", "synthetic": 0.5}}
    return folder, data


@pytest.fixture(scope="session")
def s3():
    """An S3 server that injects faults on request (tests/s3_server.py)."""
    from tests.s3_server import S3

    server = S3()
    yield server
    server.stop()


@pytest.fixture
def healthy_s3(s3, monkeypatch):
    """The S3 server without faults of this or an earlier test; the environment has its credentials, and no
    endpoint."""
    from tests.s3_server import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3.clear_faults()
    yield s3
    s3.clear_faults()
