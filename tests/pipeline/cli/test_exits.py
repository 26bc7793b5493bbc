"""Exit codes and error lines, also when the output cannot be written."""

import os
import subprocess
import sys

import pytest

from capfilt.pipeline.cli import exits
from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.cli.run import run
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.rundir.lease import LeaseError
from tests.tiny import tiny_data, write_config


@pytest.fixture(params=["closed pipe", "full disk"])
def broken_output(request):
    """A file descriptor to which every write fails."""
    if request.param == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    yield descriptor
    os.close(descriptor)


def call(*words, **streams):
    return subprocess.run([sys.executable, "-m", "pipeline", *map(str, words)], timeout=120, **streams)


def test_output_that_cannot_be_written_is_dropped(tmp_path, broken_output):
    config = write_config(tmp_path / "c.yaml", tiny_data(tmp_path))
    result = call("check", config, stdout=broken_output, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"")


def test_mistake_keeps_its_exit_code_without_stderr(tmp_path, broken_output):
    result = call("check", tmp_path / "none.yaml", stdout=subprocess.PIPE, stderr=broken_output)
    assert (result.returncode, result.stdout) == (2, b"")


@pytest.fixture
def exit_raises(monkeypatch):
    """`exit_now` raises SystemExit instead of ending the test process."""

    def exit_now(code):
        raise SystemExit(code)

    monkeypatch.setattr(exits, "exit_now", exit_now)


def test_every_line_of_an_error_of_the_user_is_marked(capsys):
    with pytest.raises(SystemExit, match="2"), UserErrors():
        raise ConfigError("one\ntwo")
    assert capsys.readouterr().err == "error: one\nerror: two\n"


def test_error_cannot_control_the_terminal(capsys):
    with pytest.raises(SystemExit, match="2"), UserErrors():
        raise ConfigError("columns: a\x1b[2Jb\x0bc\x85d [/x]")
    assert capsys.readouterr().err == "error: columns: a\\x1b[2Jb\\x0bc\\x85d [/x]\n"


def test_lost_lease_exits_without_joining_threads(capsys, monkeypatch):
    codes = []
    monkeypatch.setattr(exits, "exit_now", codes.append)
    with pytest.raises(SystemExit, match="2"), UserErrors():
        raise LeaseError("taken over")
    assert codes == [2] and capsys.readouterr().err == "error: taken over\n"


def test_defect_is_raised(capsys):
    with pytest.raises(KeyError), UserErrors():
        raise KeyError("a defect")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("resume", "line"), [("capfilt x", "interrupted; resume with: capfilt x"), (None, "interrupted")]
)
def test_ctrl_c_prints_the_command_that_resumes(capsys, exit_raises, resume, line):
    with pytest.raises(SystemExit, match="130"), UserErrors(resume):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines()[-1] == line


@pytest.mark.parametrize("place", ["capfilt.pipeline.prepare.discard", "capfilt.pipeline.execute.execute"])
def test_resume_command_repeats_fresh_until_the_old_outputs_are_removed(
    tmp_path, monkeypatch, capsys, exit_raises, place
):
    """Ctrl-C while `--fresh` removes files, and right after."""

    def interrupt(*_):
        raise KeyboardInterrupt

    config = str(write_config(tmp_path / "c.yaml", tiny_data(tmp_path)))
    monkeypatch.setattr(place, interrupt)
    with pytest.raises(SystemExit, match="130"):
        run(config, ["run.seed=1"], None, ["fetch", "filter.1"])
    last = capsys.readouterr().err.splitlines()[-1]
    command = f"interrupted; resume with: capfilt run {config} --set run.seed=1"
    assert last == (f"{command} --fresh fetch --fresh filter.1" if place.endswith("discard") else command)
