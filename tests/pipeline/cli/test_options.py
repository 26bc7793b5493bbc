"""The config of an existing run directory."""

import pytest

from capfilt.pipeline.cli.options import load_run_config
from capfilt.pipeline.config.load import ConfigError
from tests.tiny import tiny_data, write_config


def test_config_of_a_run_directory_names_its_present_place(tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    write_config(moved / "config.yaml", tiny_data(tmp_path))
    config = load_run_config(str(moved), ["run.seed=5", "run.dir=elsewhere"])
    assert (config.run.dir, config.run.seed, config.run.name) == (str(moved), 5, "tiny")


@pytest.mark.parametrize(
    ("run_dir", "message"),
    [
        ("{dir}", "{dir}: not a run directory, it has no config.yaml; give the directory that run.dir named"),
        ("{dir}/none", "{dir}/none: not a run directory, "),
        ("https://host/run?token=s3cr3t", "RUN: this address contains token, "),
    ],
)
def test_what_is_no_run_directory_is_one_line(tmp_path, run_dir, message):
    with pytest.raises(ConfigError) as error:
        load_run_config(run_dir.format(dir=tmp_path))
    assert str(error.value).startswith(message.format(dir=tmp_path)) and "\n" not in str(error.value)
