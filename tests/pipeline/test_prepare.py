"""What is refused in one line before anything starts, and what `--fresh` removes."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.maintenance.verify import verify_run
from capfilt.pipeline.plan import UnknownNode
from capfilt.pipeline.prepare import check_sources, discard, hold_run, open_run
from capfilt.pipeline.rundir import lease
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.stages.manifest.index import ManifestError, build_index
from capfilt.stages.storage.artifacts import ArtifactError
from capfilt.stages.storage.store import Store
from tests.killing import Killed
from tests.runs import NO_RESULT, prepared_run, walk, writable
from tests.tiny import tiny_data, write_config

OLD_INPUTS = {"filter": {"judge": {"threshold": 0.5}}}


@pytest.fixture(autouse=True)
def unopened_checkpoints(monkeypatch):
    """Given checkpoints are not opened: those of these tests hold a config only."""
    monkeypatch.setattr("capfilt.pipeline.nodes.bootstrap.check_given_models", lambda config, run_dir: None)


@pytest.fixture
def data(tmp_path):
    """A config with given checkpoints and a list of two urls, which pretrains nothing."""
    data = tiny_data(tmp_path)
    (tmp_path / "urls.csv").write_text(
        "url,caption\nhttp://127.0.0.1:9/a.jpg,a\nhttp://127.0.0.1:9/b.jpg,b\n"
    )
    data["sources"] = {"web": {"kind": "web", "rows": {"manifest": str(tmp_path / "urls.csv")}}}
    for name in ("shapes", "pretrain", "evaluate"):
        del data[name]
    for role in ("captioner", "filter"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "config.json").write_text(json.dumps({"role": role}))
        data[role] = {"checkpoint": str(tmp_path / role)}
    data["filter"]["calibrate"] = {"pairs": 0}
    return data


def begin(data, done=False):
    """Bring the run directory into the state in which the bootstrap has begun, or is done, without its
    work."""
    config = parse_config(data, "c.yaml")
    run_dir = prepared_run(config).run_dir
    build_index(config.sources["web"].rows, run_dir.store / "manifests/web", source="sources.web")
    inputs = run_dir.fingerprints.inputs("bootstrap.1")
    run_dir.ledger.start("bootstrap.1", inputs)
    if done:
        run_dir.ledger.finish("bootstrap.1", inputs, NO_RESULT, 1.0)


def refusal(data, kind):
    """The one line with which `prepare` refuses a config."""
    with pytest.raises(kind) as error:
        prepared_run(parse_config(data, "c.yaml"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_source_without_texts_is_refused_unless_an_earlier_version_has_cut_it(data, tmp_path):
    (tmp_path / "urls.csv").write_text("url\nhttp://127.0.0.1:9/a.jpg\n")
    config = parse_config(data, "c.yaml")
    with pytest.raises(ManifestError, match=r"^sources\.web\.rows\.caption_column: no column of texts in"):
        check_sources(config)
    build_index(config.sources["web"].rows, Store(config.run.dir) / "manifests/web", source="web")
    check_sources(config)


@pytest.mark.parametrize("done", [False, True])
def test_changed_config_is_refused(data, done):
    begin(data, done)
    prepared_run(parse_config(data, "c.yaml"))
    data["captioner"]["generate"] = {"sampling": {"top_p": 0.5}}
    line = refusal(data, LedgerError)
    assert "captioner.generate.sampling.top_p = 0.9, the config now says 0.5" in line and "--fresh" in line


@pytest.mark.parametrize("done", [False, True])
def test_changed_manifest_is_refused_until_fetch_is_fresh(data, tmp_path, done):
    begin(data, done)
    with open(tmp_path / "urls.csv", "a") as file:
        file.write("http://127.0.0.1:9/c.jpg,c\n")
    assert (
        "sources.web.rows.manifest: " in (line := refusal(data, ManifestError))
        and "has changed since" in line
    )
    run_dir = prepared_run(parse_config(data, "c.yaml"), fresh=["fetch"]).run_dir
    assert not run_dir.store.exists("manifests/web/index.json")


@pytest.mark.parametrize("done", [False, True])
def test_changed_checkpoint_is_refused(data, tmp_path, done):
    begin(data, done)
    (tmp_path / "filter" / "config.json").write_text(json.dumps({"role": "another"}))
    line = refusal(data, LedgerError)
    assert "another content of filter.checkpoint than there is now at " in line
    assert "--fresh bootstrap.1" in line


@pytest.mark.parametrize("role", ["captioner", "filter"])
def test_changed_tokenizer_of_a_given_checkpoint_is_refused_but_it_may_move(data, tmp_path, role):
    (tmp_path / "words").mkdir()
    (tmp_path / "words/vocab.txt").write_text("[PAD]\na\n")
    data[role]["tokenizer"] = str(tmp_path / "words")
    begin(data)
    shutil.move(tmp_path / "words", tmp_path / "moved" / "words")
    data[role]["tokenizer"] = str(tmp_path / "moved" / "words")
    prepared_run(parse_config(data, "c.yaml"))
    (tmp_path / "moved/words/vocab.txt").write_text("[PAD]\nb\n")
    assert f"another content of {role}.tokenizer = words; redo it" in refusal(data, LedgerError)


@pytest.mark.parametrize("role", ["captioner", "filter"])
def test_missing_tokenizer_of_a_given_checkpoint_is_refused_unless_the_bootstrap_is_done(data, role):
    data[role]["tokenizer"] = "no/such"
    assert refusal(data, ArtifactError).startswith(f"{role}.tokenizer: nothing at no/such")
    config = parse_config(data, "c.yaml")
    run_dir = writable(config)
    run_dir.ledger.finish("bootstrap.1", run_dir.fingerprints.inputs("bootstrap.1"), NO_RESULT, 1.0)
    run_dir.ledger.save_config("")
    assert list(prepared_run(config).todo) == ["report.1"]


def test_start_record_of_a_done_node_is_removed(data):
    begin(data)
    config = parse_config(data, "c.yaml")
    store = Store(config.run.dir)
    started = store.read("nodes/bootstrap.1.started.json")
    begin(data, done=True)
    store.put("nodes/bootstrap.1.started.json", started)  # a process killed between the two steps leaves it
    assert prepared_run(config).state["bootstrap.1"] == "done"
    assert store.list("nodes") == ["bootstrap.1.json"]


def test_until_limits_what_is_to_do(data):
    config = parse_config(data, "c.yaml")
    assert list(prepared_run(config).todo) == ["bootstrap.1", "report.1"]
    prepared = prepared_run(config, until="bootstrap.1")
    assert list(prepared.todo) == list(prepared.selected) == ["bootstrap.1"]
    assert prepared.state == {"bootstrap.1": "new", "report.1": "new"}
    begin(data, done=True)
    assert prepared_run(config, until="bootstrap.1").todo == {}


class TestStartWeights:
    """Files that a pretraining starts from."""

    @pytest.fixture
    def data(self, tmp_path):
        data = tiny_data(tmp_path)
        (tmp_path / "vit.safetensors").write_bytes(b"weights")
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert/vocab.txt").write_text("[PAD]\na\n")
        data["model"] |= {
            "vision_start": str(tmp_path / "vit.safetensors"),
            "text_start": str(tmp_path / "bert"),
        }
        return data

    @pytest.mark.parametrize(
        ("key", "file"), [("vision_start", "vit.safetensors"), ("text_start", "bert/vocab.txt")]
    )
    def test_other_content_under_the_same_name_is_refused(self, data, tmp_path, key, file):
        run_dir = prepared_run(parse_config(data, "c.yaml")).run_dir
        run_dir.ledger.start("pretrain.0", run_dir.fingerprints.inputs("pretrain.0"))
        (tmp_path / file).write_bytes(b"others")
        line = refusal(data, LedgerError)
        assert f"pretrain.0 was begun with another content of model.{key} = " in line
        assert "--fresh pretrain.0" in line

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("vision_start", "no/such.safetensors", "is neither a file nor a timm model"),
            ("vision_start", "no_such_vit", "is neither a file nor a timm model"),
            ("text_start", "no/such", "nothing at no/such"),
            ("tokenizer", "no/such", "nothing at no/such"),
        ],
    )
    def test_missing_files_are_refused_before_the_fetch(self, data, key, value, message):
        data["model"][key] = value
        line = refusal(data, ArtifactError)
        assert line.startswith(f"model.{key}: ") and message in line

    def test_names_of_timm_models_and_shipped_files_are_accepted(self, data, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for start in ("deit_base_patch16_224.fb_in1k", "configs/starts/shapes-vit.safetensors"):
            data["model"]["vision_start"] = start
            prepared_run(parse_config(data, "c.yaml"))


def test_run_is_verified_without_its_checkpoints_and_manifests(data, tmp_path):
    begin(data)
    for role in ("captioner", "filter"):
        shutil.rmtree(tmp_path / role)
    (tmp_path / "urls.csv").unlink()
    found = verify_run(open_run(parse_config(data, "c.yaml")))
    assert found.problems == [] and found.unfinished == 3  # the corpus shard, its candidates, the report


def test_second_process_is_refused_while_the_first_holds_the_run_directory(data, tmp_path, monkeypatch):
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


class TestDiscard:
    """`--fresh NODE`."""

    @pytest.fixture
    def run_dir(self, tmp_path):
        """The run directory of the whole method, in which every node is done."""
        return self.finished(parse_config(tiny_data(tmp_path), "c.yaml"))

    @pytest.fixture
    def with_checkpoints(self, tmp_path):
        """The same with given checkpoints, so that the bootstrap downloads the web images, and a fetch node
        the others."""
        data = tiny_data(tmp_path)
        for role in ("captioner", "filter"):
            data[role] = {"checkpoint": str(tmp_path / role)}
        data["filter"]["calibrate"] = {"pairs": 0}
        return self.finished(parse_config(data, "c.yaml"))

    def finished(self, config):
        run_dir = writable(config)
        store = run_dir.store
        for source in config.sources:
            store.put_json(f"records/corpus/{source}/000000.json", {"shard": 0})
            store.put_json(f"manifests/{source}/index.json", {})
        for name, node in run_dir.nodes.items():
            run_dir.ledger.finish(name, OLD_INPUTS, NO_RESULT, 1.0)
            if node.kind.judges:
                for source in node.sources:
                    store.put_json(f"records/rounds/{node.round}/{source}/000000.json", {"shard": 0})
            if node.kind.trains:
                store.put_json(f"models/{name}/provenance.json", {})
                store.put(f"train/{name}/{name}-0123/step_000002/state.pt", b"state of a half-done training")
                store.put(f"logs/{name}/steps.jsonl", b"{}")
        store.put("models/tokenizer/tokenizer.json", b"{}")
        return run_dir

    def files(self, run_dir):
        return {name for name in walk(run_dir.store) if not name.startswith("lease/")}

    def test_training_is_removed_with_its_state_and_the_first_one_with_the_vocabulary(self, run_dir):
        discard(run_dir, ["pretrain.1"])
        assert not {name for name in self.files(run_dir) if "pretrain.1" in name}
        assert {"models/tokenizer/tokenizer.json", "nodes/captioner.1.json"} <= self.files(run_dir)
        discard(run_dir, ["pretrain.0"])
        assert self.files(run_dir) == {
            *(
                place.format(source)
                for source in run_dir.config.sources
                for place in ("records/corpus/{}/000000.json", "manifests/{}/index.json")
            ),
            "nodes/fetch.json",
        }

    def test_several_nodes_are_removed_with_what_needs_one_of_them(self, run_dir):
        before = {name for name in self.files(run_dir) if name.startswith("nodes/")}
        discard(run_dir, ["filter.1", "captioner.1"])
        after = {name for name in self.files(run_dir) if name.startswith("nodes/")}
        gone = {name.removeprefix("nodes/").removesuffix(".json") for name in before - after}
        assert {"captioner.1", "filter.1", "bootstrap.1", "pretrain.1"} <= gone
        assert {"nodes/fetch.json", "nodes/pretrain.0.json"} <= after

    @pytest.mark.parametrize("without", [(), ("pretrain", "evaluate")])
    def test_fetch_means_the_images_of_all_sources_that_the_nodes_download(self, with_checkpoints, without):
        run_dir = with_checkpoints
        if without:
            run_dir.store.remove("")
            data = {k: v for k, v in run_dir.config.model_dump().items() if k not in without}
            run_dir = self.finished(type(run_dir.config).model_validate(data))
            assert "fetch" not in run_dir.nodes
        discard(run_dir, ["fetch"])
        kept = {name.rsplit("/", 1)[0] for name in self.files(run_dir)}
        not_downloaded = ("human", "test") if without else ()
        expected = {
            f"{place}/{source}" for place in ("records/corpus", "manifests") for source in not_downloaded
        }
        assert {folder for folder in kept if folder.startswith(("records/", "manifests/"))} == expected
        assert not any(folder.startswith(("rounds", "nodes", "records/rounds")) for folder in kept)

    def test_bootstrap_is_removed_without_the_images_that_it_downloaded(self, with_checkpoints):
        discard(with_checkpoints, ["bootstrap.1"])
        files = self.files(with_checkpoints)
        assert "records/corpus/web/000000.json" in files
        assert not {f for f in files if f.startswith(("rounds/", "records/rounds/"))}

    def test_unknown_nodes_are_refused_and_nothing_is_removed(self, run_dir):
        before = self.files(run_dir)
        with pytest.raises(UnknownNode, match=r"--fresh bootstrap\.7: no such node"):
            discard(run_dir, ["captioner.1", "bootstrap.7"])
        assert self.files(run_dir) == before

    def test_process_that_has_lost_the_lease_removes_nothing(self, run_dir):
        class LostLease:
            def confirm(self):
                raise Killed

        before = self.files(run_dir)
        with pytest.raises(Killed):
            discard(replace(run_dir, held=LostLease()), ["fetch"])
        assert self.files(run_dir) == before
        assert json.loads(run_dir.store.read("nodes/fetch.json"))["inputs"] == OLD_INPUTS
