"""Pretraining on a named set of verdicts: which nodes, the check before a run, counts and fingerprints."""

from types import SimpleNamespace

import pytest

from capfilt.pipeline.config.load import ConfigError, parse_config
from capfilt.pipeline.nodes.train import training_shards
from capfilt.pipeline.plan import plan
from capfilt.pipeline.prepare import open_run
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.pipeline.rundir.verdict_sets import check_verdict_sets, verdicts_of
from capfilt.stages.verdicts.sets import VerdictSetError
from tests.judged_run import JudgedRun, make
from tests.tiny import tiny_data

COMMAND = "capfilt run x.yaml"


@pytest.fixture
def run(tmp_path):
    return JudgedRun(tmp_path / "run").create()


def pretraining(run, tmp_path, **keys):
    data = tiny_data(tmp_path, rounds=2)
    data["run"]["dir"] = run.store.url
    web = data["sources"].pop("web")
    data["sources"] |= {"a": web, "b": web}
    data["pretrain"]["texts"] = keys.pop("texts", {})
    return parse_config(data | {"controls": ["human_only", "filter_only", "captioner_only"]} | keys, "x.yaml")


def test_nodes_that_read_verdicts_read_those_of_the_set(run, tmp_path):
    config = pretraining(run, tmp_path, texts={"verdicts": "strict"})
    named = {name for name, node in plan(config).items() if verdicts_of(config, node) == "strict"}
    assert named == {"pretrain.1", "pretrain.2", "filter_only"}


def check(run, config, *names):
    nodes = plan(config)
    check_verdict_sets(open_run(config), {name: nodes[name] for name in names}, COMMAND)


def test_missing_stale_and_early_sets_are_refused_with_the_commands_that_help(run, tmp_path):
    config = pretraining(run, tmp_path, texts={"verdicts": "strict"})
    check(run, config, "pretrain.0", "captioner.1", "human_only", "captioner_only")
    with pytest.raises(VerdictSetError, match=r"round 1 of .* has no verdict set strict; .* capfilt rejudge"):
        check(run, config, "pretrain.1")
    make(run, "strict", keep=("itm >= 0.8",))
    check(run, config, "pretrain.1", "filter_only")
    with pytest.raises(LedgerError, match=r"x\.yaml --until bootstrap.2, then capfilt rejudge .* --round 2"):
        check(run, config, "pretrain.1", "pretrain.2")
    run.write("a", 1, seed=99)
    with pytest.raises(VerdictSetError, match="make it again with capfilt rejudge"):
        check(run, config, "pretrain.1")
    check(run, pretraining(run, tmp_path), "pretrain.1", "pretrain.2")


def test_name_of_a_set_is_checked_with_the_config(run, tmp_path):
    with pytest.raises(ConfigError, match="verdicts"):
        pretraining(run, tmp_path, texts={"verdicts": "a/b"})


def test_fingerprint_has_the_name_and_the_policy_of_the_set(run, tmp_path):
    def inputs(**keys):
        config = pretraining(run, tmp_path, **keys)
        return Fingerprints(config, plan(config)).inputs("pretrain.1")

    assert "verdicts" not in inputs()
    missing = inputs(verdicts="strict")
    make(run, "strict", keep=("itm >= 0.8",))
    made = inputs(verdicts="strict")
    policy = {"keep": ["itm >= 0.8"], "drop": [], "drop_flags": []}
    assert missing["verdicts"] == {"name": "strict", "policy": None}
    assert made["verdicts"] == {"name": "strict", "policy": policy}
    assert inputs() | {"verdicts": made["verdicts"]} == made


@pytest.mark.parametrize("name", ["pretrain.1", "filter_only", "captioner_only"])
def test_pairs_are_counted_by_the_set(run, tmp_path, name):
    make(run, "strict", keep=("itm >= 0.8",))

    def shards(**keys):
        config = pretraining(run, tmp_path, **keys)
        context = SimpleNamespace(config=config, ledger=run.run_dir.ledger, store=run.store)
        return training_shards(context, plan(config)[name])

    origins = {"pretrain.1": ("web", "synthetic"), "filter_only": ("web",)}.get(name)
    judged = [row for row in run.rows if row["kept"] is not None]
    kept = sum(not origins or (row["itm_prob"] >= 0.8 and row["origin"] in origins) for row in judged)
    strict, own = shards(verdicts="strict"), shards()
    assert strict.pairs == kept
    assert (strict.digest != own.digest) is (origins is not None)


@pytest.mark.parametrize("name", ["pretrain.1", "filter_only", "captioner_only", "itc_top"])
@pytest.mark.parametrize("weights", [{}, {"web": 0}])
def test_images_are_counted_where_each_is_one_pair(run, tmp_path, name, weights):
    make(run, "strict", keep=("itm >= 0.8",))
    for verdicts in ("default", "strict"):
        texts = {"per_image": "one", "verdicts": verdicts, **weights}
        config = pretraining(run, tmp_path, texts=texts, controls=[name] if name != "pretrain.1" else [])
        context = SimpleNamespace(config=config, ledger=run.run_dir.ledger, store=run.store)
        shards = training_shards(context, plan(config)[name])
        is_strict = verdicts == "strict" and name in ("pretrain.1", "filter_only")
        judged = [row for row in run.rows if row["kept"] is not None]
        chosen = {
            "captioner_only": judged,
            "itc_top": [r for r in judged if r["origin"] == "web" and r["itc_sim"] >= shards.min_itc],
        }.get(name, [r for r in judged if (r["itm_prob"] >= 0.8 if is_strict else r["kept"])])
        origins = ("web",) if name == "filter_only" else ("web", "synthetic")
        origins = [origin for origin in origins if weights.get(origin, 1)]
        images = {(row["source"], row["key"]) for row in chosen if row["origin"] in origins}
        assert shards.pairs == shards.pairs_per_epoch == len(images)
