"""`capfilt submit` and `capfilt stop` on a real head that requires a token: Ray's job API itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.killing import default_signals
from tests.tiny import tiny_data, write_config

TOKEN = "0123456789abcdef" * 4


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def head():
    """Address of the dashboard of a head that requires `TOKEN`. Sockets need a folder with a short path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
    }
    ports = {name: free_port() for name in ("port", "dashboard-port", "dashboard-agent-listen-port")}
    with tempfile.TemporaryDirectory(prefix="cf-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = [f"--{name}={port}" for name, port in ports.items()]
        options += ["--num-cpus=4", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        process = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--head", f"--temp-dir={folder}", *options],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield f"http://127.0.0.1:{ports['dashboard-port']}"
        process.terminate()
        try:
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def call(*words, token=TOKEN):
    """Start the program as on a machine that has this token."""
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_API_SERVER_ADDRESS": ""}
    with default_signals():
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, words)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def write_download(folder):
    """A config that only downloads: 90 images in 5 shards."""
    data = tiny_data(folder)
    data["sources"] = {"web": data["sources"]["web"]}
    for name in ("pretrain", "captioner", "filter", "evaluate"):
        del data[name]
    return write_config(folder / "config.yaml", data)


def submit_until_it_answers(config, head):
    """Submit; a head that has just been started does not answer at once."""
    while True:
        process = call("submit", config, "--address", head)
        first = process.stdout.readline()
        if "no Ray dashboard answers" not in first:
            return process, first
        process.wait()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_is_submitted_left_and_followed_again(head, tmp_path):
    config, run = write_download(tmp_path), tmp_path / "run"
    process, first = submit_until_it_answers(config, head)
    lines = [first]
    while "cutting the manifest" not in lines[-1] and "started" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and f"capfilt submit {config} --address {head}" in rest, rest
    size = float(first.partition("(")[2].partition(" MB uploaded")[0])
    assert 0.5 < size < 5
    refused = call("submit", config, "--address", head, token="f" * 64)
    output, _ = refused.communicate(timeout=120)
    assert refused.returncode == 2 and "the cluster refuses the token" in output, output
    again = call("submit", config, "--address", head)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0 and "90 success" in output, output
    job = json.loads((run / "lease/job.json").read_text())
    assert job["job"] in first and job["address"] == head
    assert job["command"] == f"capfilt submit {config} --address {head}"
    ended = call("stop", run)
    output, _ = ended.communicate(timeout=120)
    assert ended.returncode == 2 and "has ended (SUCCEEDED)" in output, output
