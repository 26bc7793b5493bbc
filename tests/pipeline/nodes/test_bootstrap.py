"""Models of a bootstrap, and the check of images that it has downloaded before."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from capfilt.cluster.sizing import ModelLoad
from capfilt.pipeline.config.load import ConfigError, parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes import context as context_module
from capfilt.pipeline.nodes.bootstrap import BOOTSTRAP, candidate_summary, run_bootstrap
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.rundir.contents.totals import TIMED_SHARDS
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.carried.fields import ColumnsError
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts, encode
from capfilt.stages.storage.layout import index_folder
from tests.runs import writable
from tests.tiny import tiny_data


def context_of(tmp_path, change=lambda data: None, **run):
    data = tiny_data(tmp_path, **run)
    change(data)
    return RunContext(writable(parse_config(data, "test")), progress=None, board=None, stop=None)


@pytest.fixture
def shards_of(monkeypatch):
    """Runs a bootstrap node without its shards; returns its models and the sources whose images it
    downloads."""

    def call(context, name):
        seen = {}

        def run_shards(context, node, steps, folders):
            _, _, models, configs = steps.args
            seen.update(models=models, downloads=list(configs), folders=folders)

        monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_shards", run_shards)
        monkeypatch.setattr(
            "capfilt.pipeline.nodes.duplicates.mark_round",
            lambda context, node, fetched, on_record: seen.update(fetched=fetched),
        )
        result = run_bootstrap(context, context.run_dir.nodes[name])
        assert result.models == {role: model.digests for role, model in seen["models"].items()}
        return SimpleNamespace(**seen)

    return call


def give_checkpoints(tmp_path, *roles):
    """Gives these roles checkpoints and tokenizers that hold the name of the role."""

    def change(data):
        for role in roles:
            (tmp_path / role).mkdir()
            (tmp_path / role / "config.json").write_text(json.dumps({"role": role}))
            data[role] |= {"checkpoint": str(tmp_path / role), "tokenizer": str(tmp_path / role)}
        (tmp_path / "shapes/web").mkdir(parents=True)

    return change


def test_trained_models_are_those_of_the_round(tmp_path, shards_of):
    context = context_of(tmp_path, rounds=2)
    seen = shards_of(context, "bootstrap.2")
    for role, model in seen.models.items():
        assert model.checkpoint == f"{tmp_path}/run/models/{role}.2" and model.tokenizer is None
        assert model.digest == context.fingerprints.of(f"{role}.2")
    assert seen.downloads == [] and seen.fetched is False and seen.folders == {"web": "rounds/2/web"}


def test_actors_are_divided_by_the_files_of_both_models_and_by_records(tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(context_module, "divide_cluster", lambda config, load, shards: loads.append(load))
    context = context_of(tmp_path, give_checkpoints(tmp_path, "captioner", "filter"), rounds=2)

    def load_of(name):
        context.sizing(name)
        return loads[-1]

    sizes = [len((tmp_path / role / "config.json").read_bytes()) for role in ("captioner", "filter")]
    assert load_of("bootstrap.1") == ModelLoad(weights=sum(sizes))
    assert load_of("retry") is None is load_of("pretrain.1") and load_of(None) is None

    def commit(round, shard, **seconds):
        rows = RowCounts(read=0, status={})
        of_shard = {"source": "web", "shard": shard, "round": round, "fingerprint": "f", "files": ()}
        record = CandidatesRecord(**of_shard, rows=rows, candidates={}, seconds=seconds)
        context.store.put(f"records/rounds/{round}/web/{shard:06d}.json", encode(record))

    commit(1, 0, fetch=99.0, caption=3.0, filter=1.0)
    assert load_of("bootstrap.1") == ModelLoad(weights=sum(sizes), caption_share=0.75)
    give_models(context, {"captioner.2": 5, "filter.2": 7})
    assert load_of("bootstrap.2") == ModelLoad(weights=5 + 7, caption_share=0.75)
    commit(2, 0, caption=1.0, filter=4.0)
    assert load_of("bootstrap.2").caption_share == 0.2
    for shard in range(1, TIMED_SHARDS + 1):  # the first one does not count any more
        commit(2, shard, caption=1.0, filter=1.0)
    assert load_of("bootstrap.2").caption_share == 0.5


def give_models(context, sizes):
    """Models that the run has trained, by the bytes of their files."""
    for name, size in sizes.items():
        context.store.put(f"models/{name}/model.safetensors", b"x" * size)


def test_size_of_all_models_of_an_ensemble_counts_and_that_of_the_hub_is_unknown(tmp_path):
    def change(data):
        data["captioner"]["ensemble"] = 2

    context = context_of(tmp_path, change)
    give_models(context, {"captioner.1": 3, "captioner.1.2": 4, "filter.1": 5})
    assert context.model_load(context.run_dir.nodes["bootstrap.1"]).weights == 12

    def on_hub(data):
        give_checkpoints(tmp_path, "filter")(data)
        data["captioner"] |= {"checkpoint": "hf://org/name@0123456789012345678901234567890123456789"}

    context = context_of(tmp_path, on_hub)
    node = context.run_dir.nodes["bootstrap.1"]
    sources = {"captioner": ModelSource(checkpoint="hf://org/name"), "filter": ModelSource(checkpoint=".")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_module, "model_of", lambda context, node, role: sources[role])
        assert context.model_load(node).weights is None


def test_models_of_an_ensemble_are_used_together(tmp_path, shards_of):
    def change(data):
        data["captioner"]["ensemble"], data["filter"]["ensemble"] = 2, 3

    context = context_of(tmp_path, change)
    models = shards_of(context, "bootstrap.1").models
    for role, count in (("captioner", 2), ("filter", 3)):
        names = [f"{role}.1", *(f"{role}.1.{member}" for member in range(2, count + 1))]
        members = models[role].members
        assert [each.checkpoint for each in members] == [f"{tmp_path}/run/models/{name}" for name in names]
        assert models[role].digests == "+".join(context.fingerprints.of(name) for name in names)


def test_given_models_serve_the_first_round_which_downloads_the_web_images(tmp_path, shards_of):
    context = context_of(tmp_path, give_checkpoints(tmp_path, "captioner", "filter"), rounds=2)
    seen = shards_of(context, "bootstrap.1")
    for role, model in seen.models.items():
        assert model.checkpoint == model.tokenizer == f"{tmp_path}/{role}"
        assert model.digest == context.fingerprints.checkpoint(role)[:16] and len(model.digest) == 16
    assert seen.models["captioner"].digest != seen.models["filter"].digest
    assert seen.downloads == ["web"] and seen.fetched is True


def test_images_that_were_downloaded_with_other_settings_are_refused(tmp_path, shards_of):
    context = context_of(tmp_path, give_checkpoints(tmp_path, "captioner", "filter"))
    rows = RowCounts(read=0, status={})

    def commit(fingerprint):
        record = CorpusRecord(source="web", shard=0, fingerprint=fingerprint, files=(), rows=rows)
        context.store.put("records/corpus/web/000000.json", encode(record))

    commit(context.fingerprints.corpus("web"))
    shards_of(context, "bootstrap.1")
    commit("another")
    with pytest.raises(NodeFailed, match=r"corpus/web was fetched with other settings .*--fresh fetch"):
        shards_of(context, "bootstrap.1")


def test_languages_need_their_package_and_a_free_name(tmp_path, monkeypatch):
    def ask(data):
        data["filter"]["judge"] = {"language": True}
        data["sources"]["web"]["rows"] |= {"keep_columns": ["LANGUAGE", "uid"]}

    context = context_of(tmp_path, ask)
    config, store = context.config, context.store
    check_inputs = BOOTSTRAP.check_inputs
    check_inputs(config, store)  # not cut into shards yet
    with (tmp_path / "m.csv").open("w") as file:
        file.write("url,caption,LANGUAGE,uid\nhttp://h.test/1.jpg,a dog,en,1\n")
    rows = replace(config.sources["web"].rows, manifest=str(tmp_path / "m.csv"), truth_column=None)
    build_index(rows, store / index_folder("web"), source="web")
    with pytest.raises(ColumnsError, match=r"a column LANGUAGE.*rename_columns: \{LANGUAGE: web_LANG"):
        check_inputs(config, store)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"filter\.judge\.language: needs py3langid.*capfilt\[language\]"):
        check_inputs(config, store)


def test_a_run_without_languages_has_the_fingerprint_of_earlier_versions(tmp_path):
    def inputs(language):
        def ask(data):
            data["filter"]["judge"] = {"language": language}

        context = context_of(tmp_path / str(language), ask)

        return context.fingerprints.inputs("bootstrap.1")["filter"]["judge"]

    assert inputs(True)["language"] is True
    assert "language" not in inputs(False)


def test_summary_names_kept_and_judged_candidates_of_each_origin():
    counts = {"web": {"kept": 1200, "dropped": 34, "unjudged": 5}, "synthetic": {"dropped": 2}}
    assert candidate_summary(counts) == "web: kept 1,200 of 1,234, synthetic: kept 0 of 2"
