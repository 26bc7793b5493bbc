"""Run directories: places that cannot be one, and commands that are given one by its address."""

import errno
import os

import pytest
from typer.testing import CliRunner

from capfilt.models.disk_errors import ADVICE
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.rundir.probe import check_writable
from capfilt.stages.storage.store import Store, StoreError
from tests.s3_server import ENVIRONMENT
from tests.tiny import tiny_data, write_config


def test_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"run\.dir .*file/run: cannot write there"):
        check_writable(Store(str(tmp_path / "file" / "run")))


@pytest.mark.parametrize("code", ADVICE)
def test_disk_that_takes_no_data_is_named_with_what_to_do(code, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError) as error:
        check_writable(Store(str(tmp_path / "run")))
    line = str(error.value)
    assert line.startswith(f"run.dir {tmp_path}/run: cannot write there (") and line.endswith(
        f"; {ADVICE[code]}"
    )
    assert os.strerror(code) in line


def test_store_that_returns_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "read", lambda self, name: b"")
    with pytest.raises(StoreError, match="what is read there is not what was written"):
        check_writable(Store(str(tmp_path / "run")))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_named_as_such(code, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(code, os.strerror(code), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"run\.dir .*: this file system has no hard links") as error:
        check_writable(Store(str(tmp_path / "run")))
    assert "s3://" in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path / "run") == []


@pytest.fixture
def on_s3(s3, tmp_path, monkeypatch):
    """Address of a run directory that was just begun, on a server that the environment does not name."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3.clear_faults()
    data = tiny_data(tmp_path)
    data["run"] |= {"dir": "s3://bucket/begun", "storage_options": {"endpoint_url": s3.endpoint}}
    config = write_config(tmp_path / "config.yaml", data)
    Store("s3://bucket/begun", {"endpoint_url": s3.endpoint}).put("config.yaml", config.read_bytes())
    return "s3://bucket/begun"


def call(*words):
    return CliRunner().invoke(app, words)


def test_commands_open_a_run_directory_with_the_options_they_are_given(s3, on_s3):
    options = ("--set", f"run.storage_options.endpoint_url={s3.endpoint}")
    verified = call("verify", on_s3, *options)
    assert verified.exit_code == 0 and verified.output.startswith("0 shards, 0 rows, 0.0 MB: 0 differences")
    reported = call("report", on_s3, *options)
    assert reported.exit_code == 2 and "no round is bootstrapped yet" in reported.output
    checked = call("check", f"{on_s3}/config.yaml", *options)
    assert checked.exit_code == 0 and "bootstrap.1" in checked.output


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "run.storage_options=minio",
            "error: --set run.storage_options: this is a section; set its keys",
        ),
        ("run.storage_options.secret=abc", "error: --set run.storage_options.secret: this is a credential"),
    ],
)
def test_options_that_are_none_are_one_line(tmp_path, override, said):
    result = call("verify", str(tmp_path), "--set", override)
    assert result.exit_code == 2 and result.output.startswith(said) and "abc" not in result.output
