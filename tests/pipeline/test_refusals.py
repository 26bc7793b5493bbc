"""Whatever does not fit what a run directory holds is refused before anything starts, in one line."""

import json
import subprocess
import sys

import pytest

from pipeline import lease
from pipeline.ledger import LedgerError
from pipeline.load import parse_config
from pipeline.prepare import hold_run, prepare
from stages.manifest import ManifestError, build_index
from stages.store import Store
from tests.tiny import tiny_data, write_config


@pytest.fixture
def data(tmp_path):
    """A chain of given checkpoints over a list of two urls."""
    made = tiny_data(tmp_path)
    (tmp_path / "urls.csv").write_text(
        "url,caption\nhttp://127.0.0.1:9/a.jpg,a\nhttp://127.0.0.1:9/b.jpg,b\n"
    )
    made["sources"] = {"web": {"kind": "web", "rows": {"manifest": str(tmp_path / "urls.csv")}}}
    for name in ("shapes", "pretrain", "evaluate"):
        del made[name]
    for role in ("captioner", "filter"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "config.json").write_text(json.dumps({"role": role}))
        made[role] = {"checkpoint": str(tmp_path / role)}
    return made


def begin(data, done=False):
    """The state after a node was begun, or done, without the work."""
    config = parse_config(data, "c.yaml")
    ready = prepare(config)
    build_index(config.sources["web"].rows, ready.store / "corpus/web/index", source="sources.web")
    inputs = ready.prints.inputs("bootstrap.1")
    ready.ledger.start("bootstrap.1", inputs)
    if done:
        ready.ledger.finish("bootstrap.1", inputs, seconds=1.0)


def refusal(data, kind):
    with pytest.raises(kind) as error:
        prepare(parse_config(data, "c.yaml"))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("done", [False, True])
def test_changed_config(data, done):
    begin(data, done)
    prepare(parse_config(data, "c.yaml"))
    data["captioner"]["generate"] = {"sampling": {"top_p": 0.5}}
    line = refusal(data, LedgerError)
    assert "captioner.generate.sampling.top_p = 0.9, the config now says 0.5" in line and "--fresh" in line


@pytest.mark.parametrize("done", [False, True])
def test_changed_manifest(data, tmp_path, done):
    begin(data, done)
    with open(tmp_path / "urls.csv", "a") as file:
        file.write("http://127.0.0.1:9/c.jpg,c\n")
    assert "sources.web.manifest: " in (line := refusal(data, ManifestError)) and "has changed since" in line
    ready = prepare(parse_config(data, "c.yaml"), fresh="fetch")  # which cuts it again
    assert not ready.store.exists("corpus/web/index/index.json")


@pytest.mark.parametrize("done", [False, True])
def test_changed_checkpoint(data, tmp_path, done):
    begin(data, done)
    (tmp_path / "filter" / "config.json").write_text(json.dumps({"role": "another"}))
    line = refusal(data, LedgerError)
    assert (
        "checkpoints.filter = " in line and "the config now says " in line and "--fresh bootstrap.1" in line
    )


def test_two_drivers_at_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    config = write_config(tmp_path / "c.yaml", data)
    with hold_run(parse_config(data, "c.yaml"), print):
        result = subprocess.run(
            [sys.executable, "-m", "pipeline", "run", str(config)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2 and len(lines) == 1, result.stderr + result.stdout
    assert "another run is at work there (process " in lines[0] and "--set run.dir" in lines[0]
    assert Store(data["run"]["dir"]).list("nodes") == []
