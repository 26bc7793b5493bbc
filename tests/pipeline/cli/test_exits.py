"""Output that nobody can take ends no command."""

import os
import subprocess
import sys

import pytest

from tests.tiny import tiny_data, write_config


@pytest.fixture(params=["closed pipe", "full disk"])
def nowhere(request):
    """A file descriptor that takes nothing."""
    if request.param == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    yield descriptor
    os.close(descriptor)


def call(*words, **streams):
    return subprocess.run([sys.executable, "-m", "pipeline", *map(str, words)], timeout=120, **streams)


def test_what_cannot_be_printed_is_dropped(tmp_path, nowhere):
    config = write_config(tmp_path / "c.yaml", tiny_data(tmp_path))
    result = call("check", config, stdout=nowhere, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_mistake_keeps_its_exit_code(tmp_path, nowhere):
    result = call("check", tmp_path / "none.yaml", stdout=subprocess.PIPE, stderr=nowhere)
    assert (result.returncode, result.stdout) == (2, b"")


@pytest.mark.parametrize("place", ["capfilt.pipeline.prepare.discard", "capfilt.pipeline.execute.execute"])
def test_the_command_that_resumes_forgets_again_until_all_is_forgotten(tmp_path, monkeypatch, capsys, place):
    """Ctrl-C while `--fresh` removes files, and right after."""
    from capfilt.pipeline.cli import app as cli
    from capfilt.pipeline.cli import exits as terminal

    def interrupted(*_):
        raise KeyboardInterrupt

    def ends(code):
        raise SystemExit(code)

    config = str(write_config(tmp_path / "c.yaml", tiny_data(tmp_path)))
    monkeypatch.setattr(place, interrupted)
    monkeypatch.setattr(terminal, "exit_now", ends)
    with pytest.raises(SystemExit, match="130"):
        cli.run(config, ["run.seed=1"], None, "fetch")
    last = capsys.readouterr().err.splitlines()[-1]
    command = f"interrupted; go on with: capfilt run {config} --set run.seed=1"
    assert last == (f"{command} --fresh fetch" if place.endswith("discard") else command)
