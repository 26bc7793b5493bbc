"""Whatever does not fit what a run directory holds is refused before anything starts, in one line."""

import json
import shutil
import subprocess
import sys

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.maintenance.verify import verify_run
from capfilt.pipeline.prepare import hold_run, open_run
from capfilt.pipeline.rundir import lease
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.stages.manifest.index import ManifestError, build_index
from capfilt.stages.storage.artifacts import ArtifactError
from capfilt.stages.storage.store import Store
from tests.runs import DONE, prepared_run
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
    ready = prepared_run(config).run_dir
    build_index(config.sources["web"].rows, ready.store / "corpus/web/index", source="sources.web")
    inputs = ready.fingerprints.inputs("bootstrap.1")
    ready.ledger.start("bootstrap.1", inputs)
    if done:
        ready.ledger.finish("bootstrap.1", inputs, DONE, 1.0)


def refusal(data, kind):
    with pytest.raises(kind) as error:
        prepared_run(parse_config(data, "c.yaml"))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("done", [False, True])
def test_changed_config(data, done):
    begin(data, done)
    prepared_run(parse_config(data, "c.yaml"))
    data["captioner"]["generate"] = {"sampling": {"top_p": 0.5}}
    line = refusal(data, LedgerError)
    assert "captioner.generate.sampling.top_p = 0.9, the config now says 0.5" in line and "--fresh" in line


@pytest.mark.parametrize("done", [False, True])
def test_changed_manifest(data, tmp_path, done):
    begin(data, done)
    with open(tmp_path / "urls.csv", "a") as file:
        file.write("http://127.0.0.1:9/c.jpg,c\n")
    assert "sources.web.manifest: " in (line := refusal(data, ManifestError)) and "has changed since" in line
    ready = prepared_run(parse_config(data, "c.yaml"), fresh="fetch")  # which cuts it again
    assert not ready.run_dir.store.exists("corpus/web/index/index.json")


@pytest.mark.parametrize("done", [False, True])
def test_changed_checkpoint(data, tmp_path, done):
    begin(data, done)
    (tmp_path / "filter" / "config.json").write_text(json.dumps({"role": "another"}))
    line = refusal(data, LedgerError)
    assert (
        "checkpoints.filter = " in line and "the config now says " in line and "--fresh bootstrap.1" in line
    )


@pytest.mark.parametrize("role", ["captioner", "filter"])
def test_changed_tokenizer_of_a_given_checkpoint(data, tmp_path, role):
    (tmp_path / "words").mkdir()
    (tmp_path / "words/vocab.txt").write_text("[PAD]\na\n")
    data[role]["tokenizer"] = str(tmp_path / "words")
    begin(data)
    shutil.move(tmp_path / "words", tmp_path / "moved" / "words")
    data[role]["tokenizer"] = str(tmp_path / "moved" / "words")
    prepared_run(parse_config(data, "c.yaml"))  # another place, the same words
    (tmp_path / "moved/words/vocab.txt").write_text("[PAD]\nb\n")
    assert f'checkpoints.{role}_tokenizer = "words (sha256 ' in refusal(data, LedgerError)


def test_a_start_record_beside_an_end_record_goes(data):
    begin(data)
    config = parse_config(data, "c.yaml")
    store = Store(config.run.dir)
    started = store.read("nodes/bootstrap.1.started.json")
    begin(data, done=True)
    store.put("nodes/bootstrap.1.started.json", started)  # as a kill between the two leaves it
    assert prepared_run(config).state["bootstrap.1"] == "done"
    assert store.list("nodes") == ["bootstrap.1.json"]


class TestStarts:
    """What a pretraining starts from."""

    @pytest.fixture
    def data(self, tmp_path):
        made = tiny_data(tmp_path)
        (tmp_path / "vit.safetensors").write_bytes(b"weights")
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert/vocab.txt").write_text("[PAD]\na\n")
        made["model"] |= {
            "vision_start": str(tmp_path / "vit.safetensors"),
            "text_start": str(tmp_path / "bert"),
        }
        return made

    @pytest.mark.parametrize(
        ("key", "file"), [("vision_start", "vit.safetensors"), ("text_start", "bert/vocab.txt")]
    )
    def test_another_content_under_the_same_name(self, data, tmp_path, key, file):
        ready = prepared_run(parse_config(data, "c.yaml")).run_dir
        ready.ledger.start("pretrain.0", ready.fingerprints.inputs("pretrain.0"))
        (tmp_path / file).write_bytes(b"others")
        line = refusal(data, LedgerError)
        assert f"pretrain.0 was begun with model.{key} = " in line and "--fresh pretrain.0" in line

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("vision_start", "no/such.safetensors", "is neither a file nor a timm model"),
            ("vision_start", "no_such_vit", "is neither a file nor a timm model"),
            ("text_start", "no/such", "nothing at no/such"),
            ("tokenizer", "no/such", "nothing at no/such"),
        ],
    )
    def test_one_that_is_not_there_does_not_wait_for_the_fetch(self, data, key, value, said):
        data["model"][key] = value
        line = refusal(data, ArtifactError)
        assert line.startswith(f"model.{key}: ") and said in line

    def test_names_of_timm_and_what_is_shipped_are_found_from_anywhere(self, data, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for start in ("deit_base_patch16_224.fb_in1k", "configs/starts/shapes-vit.safetensors"):
            data["model"]["vision_start"] = start
            prepared_run(parse_config(data, "c.yaml"))


def test_a_run_is_verified_where_its_checkpoints_and_manifests_are_not(data, tmp_path):
    begin(data)
    for role in ("captioner", "filter"):
        shutil.rmtree(tmp_path / role)
    (tmp_path / "urls.csv").unlink()
    found = verify_run(open_run(parse_config(data, "c.yaml")))
    assert found.problems == [] and found.unfinished == 3  # the corpus shard, its candidates, the report


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
