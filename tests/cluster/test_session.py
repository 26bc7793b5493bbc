"""Which Ray a session connects to, and what the user reads when there is none. Without a running Ray."""

import ctypes
import logging
import os
import signal
import socket
import warnings
from types import SimpleNamespace

import pytest
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker

from capfilt.cluster import session as module
from capfilt.cluster.config import ClusterConfig, ClusterError
from capfilt.cluster.session import MINIMUM_FREE_BYTES, MINIMUM_LOGICAL_CPUS, TOKEN_VARIABLES, session
from tests.killing import default_signals


class FakeRay:
    """Stands for `ray.init`, which fails with the given errors before it succeeds."""

    def __init__(self, *errors, initialized=False):
        self.errors, self.initialized = list(errors), initialized
        self.starts, self.shutdowns = [], 0

    def init(self, **options):
        self.starts.append(options)
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self):
        self.shutdowns += 1


IDLE_PROCESSES = "RAY_num_workers_soft_limit"


@pytest.fixture
def connect(monkeypatch):
    """Enter a session on a fake Ray."""
    ours = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_BACKEND_LOG_LEVEL", *TOKEN_VARIABLES)
    for name in (*ours, IDLE_PROCESSES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a start sets variables of Ray
    levels = {name: logging.getLogger(name).level for name in ("ray", "ray.train", "ray.data")}

    def enter(fake, environment=None, **config):
        os.environ.update(environment or {})
        monkeypatch.setattr(module.ray, "is_initialized", lambda: fake.initialized)
        monkeypatch.setattr(module.ray, "init", fake.init)
        monkeypatch.setattr(module.ray, "shutdown", fake.shutdown)
        with session(ClusterConfig(**config)):
            pass
        return fake

    yield enter
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def listener():
    """Address of a port that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["auto", "local"])
def test_without_a_cluster_ray_starts_in_this_process(connect, monkeypatch, address):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6), raising=False)
    (options,) = connect(FakeRay(), address=address, object_store_gb=1.5).starts
    assert options["address"] == "local" and options["num_cpus"] == 6
    assert options["object_store_memory"] == 1_500_000_000
    assert options["include_dashboard"] is False
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ[IDLE_PROCESSES] == "8"
    connect(FakeRay(), {IDLE_PROCESSES: "3"}, address=address)
    assert os.environ[IDLE_PROCESSES] == "3", "what the user sets stays"


def test_a_ray_started_here_has_a_token_of_its_own_and_leaves_none_behind(connect):
    connect(FakeRay())
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64 and "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize("name", TOKEN_VARIABLES)
def test_settings_of_the_environment_for_authentication_stay(connect, name):
    connect(FakeRay(), {name: "x"})
    assert {each for each in TOKEN_VARIABLES if each in os.environ} == {name} and os.environ[name] == "x"


@pytest.mark.parametrize("address", ["local", "auto"])
def test_core_of_ray_prints_nothing_on_the_terminal_unless_asked_to(connect, address):
    connect(FakeRay(), address=address)
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "fatal"
    connect(FakeRay(), {"RAY_BACKEND_LOG_LEVEL": "debug"}, address=address)
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "debug"


def test_a_given_cluster_gets_no_token_of_ours(connect, listener):
    connect(FakeRay(), address=listener)
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_warnings_of_ray_are_not_shown_and_others_are():
    def warn(module):
        warnings.warn_explicit("fewer shards than actors", UserWarning, "file.py", 1, module=module)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with module._ray_warnings_ignored():
            warn("ray.data._internal.execution.operators.actor_pool_map_operator")
            assert shown == []
            warn("raymond")
            warn("capfilt.stages.rows")
        assert len(shown) == 2
        warn("ray.data")
        assert len(shown) == 3


def test_a_chain_has_room_on_a_machine_of_few_cores(connect, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(1), raising=False)
    (options,) = connect(FakeRay()).starts
    assert options["num_cpus"] == MINIMUM_LOGICAL_CPUS and options["object_store_memory"] is None


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"])
def test_the_cluster_of_the_environment_is_used(connect, name):
    (options,) = connect(FakeRay(), {name: "x"}).starts
    assert options["address"] == "auto" and "num_cpus" not in options


def test_local_ignores_the_cluster_of_the_environment(connect):
    (options,) = connect(FakeRay(), {"RAY_ADDRESS": "x"}, address="local").starts
    assert options["address"] == "local"


def test_a_given_address_is_used(connect, listener):
    fake = connect(FakeRay(), address=listener)
    assert fake.starts[0]["address"] == listener and fake.shutdowns == 1


def test_an_existing_connection_is_used_and_left_open(connect):
    fake = connect(FakeRay(initialized=True))
    assert fake.starts == [] and fake.shutdowns == 0


def test_a_slow_start_is_repeated_once(connect):
    fake = connect(FakeRay(TimeoutError("30 s")))
    assert len(fake.starts) == 2


def test_a_failed_start_is_one_line(connect):
    fake = FakeRay(TimeoutError("30 s"), OSError("no space\nin /tmp"))
    with pytest.raises(ClusterError, match=r"^Ray cannot be started on this machine \(no space\)$"):
        connect(fake)


@pytest.mark.parametrize("free", [MINIMUM_FREE_BYTES - 1, MINIMUM_FREE_BYTES])
def test_a_full_temporary_folder_is_named_with_the_remedy(connect, monkeypatch, tmp_path, free):
    asked = []
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: asked.append(place) or usage)
    fake = FakeRay()
    if free >= MINIMUM_FREE_BYTES:
        assert connect(fake, {"RAY_TMPDIR": str(tmp_path)}).starts
    else:
        said = rf"its temporary folder, {tmp_path}, has 49 MB free, and needs 50 MB; free space"
        with pytest.raises(ClusterError, match=said):
            connect(fake, {"RAY_TMPDIR": str(tmp_path)})
        assert not fake.starts
    assert asked == [str(tmp_path)]


def test_a_long_temporary_folder_is_named_with_the_remedy(connect):
    """The error of Ray 2.60 (`ray._private.utils.validate_socket_filepath`)."""
    said = "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x/ray/session"
    with pytest.raises(ClusterError) as error:
        connect(FakeRay(OSError(said), OSError(said)), {"TMPDIR": "/x" * 60})
    assert str(error.value).startswith(
        f"Ray cannot be started: the path of the temporary folder, {'/x' * 60}, is"
    )
    assert "set RAY_TMPDIR to a short one" in str(error.value) and "\n" not in str(error.value)


def test_ray_in_this_process_uses_the_loopback_address_while_it_starts(connect):
    class Looks(FakeRay):
        def init(self, **options):
            super().init(**options)
            self.supports_clusters = ray_constants.ENABLE_RAY_CLUSTER

    embedded = connect(Looks())
    assert embedded.starts[0]["_node_ip_address"] == "127.0.0.1" and not embedded.supports_clusters
    assert ray_constants.ENABLE_RAY_CLUSTER
    connected = connect(Looks(), address="auto", environment={"RAY_ADDRESS": "auto"})
    assert "_node_ip_address" not in connected.starts[0] and connected.supports_clusters


@pytest.mark.parametrize("address", ["local", "auto"])
def test_ray_does_not_replace_the_handler_of_sigterm(connect, address):
    """Neither that of Python nor, beneath it, that of the process; the program sets its handler before."""

    class SetsHandlers(FakeRay):
        def init(self, **options):
            ray_utils.set_sigterm_handler(lambda signum, frame: None)
            self.handler = signal.getsignal(signal.SIGTERM)
            ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))  # SIG_IGN, beneath Python's

    received, before = [], ray_utils.set_sigterm_handler

    def ours(signum, frame):
        received.append(signum)

    with default_signals():
        signal.signal(signal.SIGTERM, ours)
        fake = connect(SetsHandlers(), {"RAY_ADDRESS": "auto"}, address=address)
        assert fake.handler == signal.getsignal(signal.SIGTERM) == ours
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM] and ray_utils.set_sigterm_handler is before


@pytest.mark.parametrize("address", ["local", "auto"])
def test_what_nodes_report_is_logged_and_not_printed(connect, capfd, caplog, address):
    message = {"lines": ["WARNING: 10 PYTHON worker processes"], "pid": "raylet", "is_err": False}

    class Reports(FakeRay):
        def init(self, **options):
            ray_worker.print_to_stdstream(message, ignore_prefix=False)

    before = ray_worker.print_to_stdstream
    with caplog.at_level(logging.DEBUG, "capfilt.cluster.session"):
        connect(Reports(), {"RAY_ADDRESS": "auto"}, address=address)
    assert caplog.messages == ["raylet: WARNING: 10 PYTHON worker processes"]
    assert capfd.readouterr() == ("", "") and ray_worker.print_to_stdstream is before


def test_ray_address_local_starts_ray_in_this_process(connect):
    (options,) = connect(FakeRay(), {"RAY_ADDRESS": "local"}).starts
    assert options["address"] == "local" and "num_cpus" in options


@pytest.mark.parametrize("address", ["local", "auto"])
def test_stderr_is_back_after_a_start(connect, capfd, address):
    class Greets(FakeRay):
        def init(self, **options):
            os.write(2, b"greeting of the core\n")

    connect(Greets(), {"RAY_ADDRESS": "auto"}, address=address)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
