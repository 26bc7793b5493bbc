"""Connections to a cluster that runs already, without a running Ray."""

import os
import socket

import pytest
from typer.testing import CliRunner

from capfilt.cluster import connection as module
from capfilt.cluster.config import ClusterError
from capfilt.cluster.connection import ATTEMPTS_VARIABLE, connect
from capfilt.pipeline.cli.app import app
from tests.tiny import tiny_data, write_config


@pytest.fixture
def inits(monkeypatch):
    """Options of the calls of `ray.init`, with the number of attempts that Ray would make."""
    calls = []
    monkeypatch.setattr(
        module.ray, "init", lambda **options: calls.append((options, os.environ.get(ATTEMPTS_VARIABLE)))
    )
    monkeypatch.setattr(module.ray, "shutdown", lambda: None)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(ATTEMPTS_VARIABLE, raising=False)
    return calls


@pytest.fixture
def dead_port():
    """A port of this machine on which nothing listens: bound, so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_dead_port_is_one_line_without_a_call_of_ray(inits, dead_port, host):
    with pytest.raises(ClusterError) as error:
        connect(f"{host}:{dead_port}")
    line = str(error.value)
    assert (
        line.startswith(f"cluster.address: no Ray cluster answers at '{host}:{dead_port}' (")
        and "\n" not in line
    )
    assert "refused" in line and "`ray start --head`" in line and "cluster.address=local" in line
    assert inits == []


def test_the_variable_of_the_environment_is_named(inits, dead_port, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{dead_port}")
    with pytest.raises(
        ClusterError, match=rf"^RAY_ADDRESS: no Ray cluster answers at '127.0.0.1:{dead_port}' \("
    ):
        connect("auto")


def test_an_unknown_host_is_one_line(inits):
    with pytest.raises(
        ClusterError, match=r"^cluster.address: no Ray cluster answers at 'host.invalid:6379' \("
    ):
        connect("host.invalid:6379")
    assert inits == []


def test_a_head_that_is_just_starting_is_waited_for(inits, monkeypatch):
    answers = [
        ConnectionRefusedError(111, "refused"),
        ConnectionRefusedError(111, "refused"),
        socket.socket(),
    ]

    def create_connection(address, timeout):
        assert address == ("::1", 6379)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(module.socket, "create_connection", create_connection)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 60)
    connect("[::1]:6379")
    assert answers == [] and len(inits) == 1


def test_a_port_of_another_program_is_tried_once(inits, monkeypatch):
    """Ray 2.60 would try 20 times, each for 41 s."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect(f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv(ATTEMPTS_VARIABLE, "7")
        connect(f"127.0.0.1:{server.getsockname()[1]}")
    assert [attempts for _, attempts in inits] == ["1", "7"]
    assert os.environ[ATTEMPTS_VARIABLE] == "7"


def test_the_number_of_attempts_holds_only_for_the_connection(inits):
    connect("auto")
    assert inits[0][1] == "1" and ATTEMPTS_VARIABLE not in os.environ


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head"])
def test_an_address_of_another_form_is_left_to_ray(inits, address):
    connect(address)
    assert inits[0][0]["address"] == address


def test_the_command_ends_with_one_line_and_code_2(inits, dead_port, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{dead_port}")
    data = tiny_data(tmp_path)
    data["sources"] = {"web": data["sources"]["web"]}
    for name in ("pretrain", "captioner", "filter", "evaluate"):
        del data[name]
    result = CliRunner().invoke(app, ["run", str(write_config(tmp_path / "config.yaml", data))])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error")]
    assert f"RAY_ADDRESS: no Ray cluster answers at '127.0.0.1:{dead_port}'" in line
