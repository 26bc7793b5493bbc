"""Paths that a config names, and the refusal of relative ones inside a Ray job."""

import os

import pytest
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.config.load import ConfigError, load_config, parse_config
from capfilt.pipeline.config.paths import check_job_paths, named_paths
from tests.tiny import tiny_data, write_config

IN_A_JOB = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setenv(*IN_A_JOB)


def place(data, key, path):
    """Set a key by its dotted path; the last section is made if it is absent."""
    *parents, last = key.split(".")
    for name in parents:
        if data.get(name) is None:
            data[name] = {}
        data = data[name]
    data[last] = path


def with_checkpoints(folder):
    data = tiny_data(folder)
    for role in ("captioner", "filter"):
        data[role] |= {"checkpoint": str(folder / role), "tokenizer": str(folder / role)}
    return data


KEYS = [
    "run.dir", "shapes_dir", "sources.web.rows.manifest", "sources.human.images", "sources.web.serve",
    "captioner.checkpoint", "captioner.tokenizer", "filter.checkpoint", "filter.tokenizer",
    "model.vision_start", "model.text_start", "model.tokenizer", "fetch.image_root",
    "sources.web.fetch.image_root",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", ["data/x", "./x", "../x/y", "x/"])
def test_inside_a_job_a_relative_path_is_refused(job, tmp_path, key, path):
    data = with_checkpoints(tmp_path)
    place(data, key, path)
    with pytest.raises(ConfigError) as error:
        check_job_paths(parse_config(data, "c"))
    line = str(error.value)
    assert line.startswith(f"{key}: {path} is relative, and inside a Ray job") and "\n" not in line
    assert "s3://" in line and "absolute path" in line


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", ["/shared/x", "~/x", "s3://bucket/x"])
def test_an_absolute_path_or_an_object_store_is_accepted(job, tmp_path, key, path):
    data = with_checkpoints(tmp_path)
    place(data, key, path)
    check_job_paths(parse_config(data, "c"))


@pytest.mark.parametrize("name", ["fetch.blocked", "sources.web.fetch.blocked"])
def test_block_lists_and_manifests_are_looked_at_one_by_one(job, tmp_path, name):
    data = tiny_data(tmp_path)
    place(data, name, ["/a/list.txt", "b/list.txt"])
    with pytest.raises(ConfigError, match=f"^{name}: b/list.txt is relative"):
        check_job_paths(parse_config(data, "c"))
    data = tiny_data(tmp_path)
    place(data, "sources.web.rows.manifest", ["/a/*.parquet", "b/*.parquet"])
    with pytest.raises(ConfigError, match=r"^sources\.web\.rows\.manifest: b/\*\.parquet is relative"):
        check_job_paths(parse_config(data, "c"))


def test_names_of_models_and_shipped_files_are_no_relative_paths(job, tmp_path):
    data = tiny_data(tmp_path)
    for name in ("deit_base_patch16_224", "configs/starts/shapes-vit.safetensors"):
        data["model"]["vision_start"] = name
        check_job_paths(parse_config(data, "c"))


def test_outside_a_job_relative_paths_are_fine(monkeypatch):
    monkeypatch.delenv(IN_A_JOB[0], raising=False)
    config = load_config("configs/quickstart.yaml")
    check_job_paths(config)
    relative = {named.key for named in named_paths(config) if not named.is_absolute}
    shown = {"run.dir", "shapes_dir", "sources.human.rows.manifest", "sources.web.serve"}
    assert shown <= relative and "model.vision_start" not in relative


def test_the_clip_art_folder_counts_only_where_clip_art_is_made(tmp_path):
    keys = [named.key for named in named_paths(load_config("configs/clipart.yaml"))]
    assert "clipart_dir" in keys and "shapes_dir" not in keys


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_shipped_default_is_refused_before_anything_is_written(job, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [command, "configs/quickstart.yaml"])
    assert result.exit_code == 2
    assert result.output.startswith("error: run.dir: runs/quickstart is relative, and inside a Ray job")
    assert os.listdir(tmp_path) == []


def test_retry_by_a_relative_address_is_refused(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run" / "config.yaml", tiny_data(tmp_path))
    result = CliRunner().invoke(app, ["retry", "run"])
    assert result.exit_code == 2 and result.output.startswith("error: run.dir: run is relative")
