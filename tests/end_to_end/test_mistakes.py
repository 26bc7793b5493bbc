"""Mistakes of a user: each ends with one line and exit code 2."""

import json
import os
import subprocess
import sys

import pytest

from tests.tiny import tiny_data, write_config


@pytest.fixture
def data(tmp_path):
    """Config data of a chain of given checkpoints over a list of one url; no test here starts a cluster."""
    data = tiny_data(tmp_path)
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.jpg,a red square\n")
    (tmp_path / "empty.csv").write_text("url,caption\n")
    data["sources"]["web"] = {"kind": "web", "rows": {"manifest": str(tmp_path / "urls.csv")}}
    del data["shapes"], data["pretrain"], data["sources"]["human"], data["sources"]["test"]
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({}))
    data["captioner"] = data["filter"] = {"checkpoint": str(checkpoint)}
    return data


def capfilt(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def set_key(data, path, value):
    *parents, last = path.split(".")
    for name in parents:
        data = data[name]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("run.ruonds", 2, "run.ruonds: unknown key; did you mean 'rounds'?"),
        ("filter", {"checkpoint": "x", "judge": {"threshold": 1.5}}, "filter.judge.threshold"),
        (
            "captioner",
            {"checkpoint": "x", "generate": {"sampling": {"top_p": 1.5}}},
            "top_p: input should be less",
        ),
        ("sources.web.rows.manifest", "{dir}/nowhere.parquet", "sources.web.rows.manifest: no file at"),
        ("sources.web.rows.manifest", "{dir}/empty.csv", "has no rows"),
        ("sources.web.rows.url_column", "link", "no column 'link'"),
        ("captioner.checkpoint", "{dir}/no-model", "captioner.checkpoint: nothing at"),
        ("fetch.blocked", ["{dir}/no-list.txt"], "fetch.blocked: cannot read"),
        ("run.dir", "{dir}/urls.csv/run", "cannot write there"),
        ("run.dir", "{dir}", "not empty and not a capfilt run"),
    ],
)
def test_a_mistake_in_a_config_is_one_line(tmp_path, data, path, value, message):
    value = json.loads(json.dumps(value).replace("{dir}", str(tmp_path)))
    set_key(data, path, value)
    (tmp_path / "configs").mkdir()
    result = capfilt("run", write_config(tmp_path / "configs/c.yaml", data))
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2, result.stderr + result.stdout
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], result.stderr


def test_an_unreachable_bucket_is_one_line(tmp_path, data):
    set_key(data, "run.dir", "s3://capfilt-no-such-bucket/run")
    environment = os.environ | {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_MAX_ATTEMPTS": "1",
    }
    result = capfilt("run", write_config(tmp_path / "c.yaml", data), env=environment)
    assert result.returncode == 2, result.stderr
    assert "error: run.dir s3://capfilt-no-such-bucket/run: cannot " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.yaml"], "missing.yaml: no such config file"),
        (["run", "{config}", "--until", "bootstrap.7"], "--until bootstrap.7: no such node; this config has"),
        (["run", "{config}", "--fresh", "captoiner.1"], "--fresh captoiner.1: no such node; this config has"),
        (["run", "{config}", "--set", "run.seed"], "write it as key.path=value"),
        (["report", "{dir}/nothing"], "not a run directory"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path, data, arguments, message):
    config = write_config(tmp_path / "c.yaml", data)
    result = capfilt(*(a.format(config=config, dir=tmp_path) for a in arguments))
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, (
        result.stderr
    )
