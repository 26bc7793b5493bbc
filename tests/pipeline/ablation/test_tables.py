"""The definitions of the tables: what they change in a config, and that every row can be made."""

import pytest
import yaml

from capfilt.pipeline.ablation.definitions import NOTHING
from capfilt.pipeline.ablation.tables import TABLES
from capfilt.pipeline.ablation.variants import Ablation, check_runs
from capfilt.pipeline.config.load import ConfigError, load_config, to_json_data
from capfilt.pipeline.plan import plan
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from tests.tiny import tiny_data, write_config

BASE = "configs/tables-quick.yaml"
UNCHANGED = ("run.dir", "run.seed", "run.rounds", "controls")
"""Keys that say where a variant is and which of its models are made."""
CHANGED = {
    "oracle": {"sources.web.rows.manifest"},
    "beam": {"captioner.generate.sampling.strategy"},
    "nucleus-0.5": {"captioner.generate.sampling.top_p"},
    "sharing-none": {"model.med.sharing"},
    "shared": {"shared_finetune"},
    "continued": {"continue_training"},
    "captions-4": {"captioner.generate.captions_per_image"},
    "threshold-0.7": {"filter.judge.threshold"},
    "mixing-human-4": {"pretrain.texts.human"},
    "mixing-one-2-8": {f"pretrain.texts.{key}" for key in ("web", "synthetic", "per_image")},
    "mixing-sentences": {"pretrain.texts.sentences"},
    "web-share-0.5": {"captioner.web_share"},
    "captioners-2": {"captioner.ensemble"},
    "filters-2": {"filter.ensemble"},
    "ensembles-2": {"captioner.ensemble", "filter.ensemble"},
    **dict.fromkeys(("", "selection", "repetition", "rounds", "captions-1", "nucleus-0.9"), frozenset()),
    **dict.fromkeys(("decoupled", "new-model", "mixing-equal", "ensembles-1"), frozenset()),
}


def leaves(data, path=""):
    if not isinstance(data, dict) or not data:
        return {path: data}
    return {k: v for name, of in data.items() for k, v in leaves(of, f"{path}.{name}".strip(".")).items()}


@pytest.fixture(scope="module")
def ablation():
    return Ablation.load(BASE, [])


def runs_of(ablation, name):
    return {run.variant.name: run for run in ablation.runs(TABLES[name], [3])}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_model_that_its_run_makes_and_evaluates(ablation, name):
    table, runs = TABLES[name], runs_of(ablation, name)
    assert table.reference in [row.label for row in table.rows]
    assert len({row.label for row in table.rows}) == len(table.rows) > 1
    for row in table.rows:
        nodes = plan(runs[row.variant.name].config)
        assert row.model in nodes[f"evaluate.{row.round}"].needs or row.model in nodes["evaluate.1"].needs
        assert f"report.{row.round}" in nodes
        assert not row.noise or f"bootstrap.{row.round}" in nodes


def test_variants_change_the_keys_of_their_row_and_no_other(ablation):
    base = leaves(to_json_data(load_config(BASE)))
    seen = {}
    for name in TABLES:
        for variant, run in runs_of(ablation, name).items():
            changed = {k for k, v in leaves(to_json_data(run.config)).items() if base[k] != v}
            pretrain = run.config.pretrain.model_copy(update={"texts": ablation.base.pretrain.texts})
            assert run.config.run.seed == 3 and pretrain == ablation.base.pretrain
            assert seen.setdefault(variant, changed - set(UNCHANGED)) == changed - set(UNCHANGED)
    assert {name: seen[name] for name in CHANGED} == CHANGED


def test_variants_of_a_name_are_equal_in_all_tables():
    variants = {}
    for table in TABLES.values():
        for variant in table.variants:
            assert variants.setdefault(variant.name, variant) == variant


def test_run_directories_are_side_by_side(ablation):
    runs = runs_of(ablation, "decoding")
    assert runs["beam"].config.run.dir == "runs/tables-quick/seed-3-beam"
    assert runs_of(ablation, "capfilt")[""].config.run.dir == "runs/tables-quick/seed-3"


def test_variants_share_the_nodes_that_their_keys_do_not_reach(ablation):
    def prints(table, variant):
        config = runs_of(ablation, table)[variant].config
        known = Fingerprints(config, plan(config))
        return {name: known.of(name) for name in known.nodes}

    base, beam = prints("decoding", "nucleus-0.9"), prints("decoding", "beam")
    same = {name for name in base if base[name] == beam[name]}
    assert same == {"fetch", "pretrain.0", "captioner.1", "filter.1", "calibrate.1"}
    control = prints("capfilt", "")
    assert {n for n in base if base[n] == control.get(n)} == set(base) - {"evaluate.1", "report.1"}
    assert prints("sharing", "sharing-all_but_sa")["pretrain.0"] == base["pretrain.0"]
    assert prints("captioner_data", "web-share-0") == base
    assert prints("rounds", "rounds")["pretrain.1"] == base["pretrain.1"]
    assert prints("mixing", "mixing-human-2")["bootstrap.1"] == base["bootstrap.1"]
    assert prints("captioner_data", "web-share-0.5")["filter.1"] == base["filter.1"]
    assert prints("ensemble", "ensembles-1") == base
    both, captioners, filters = (
        prints("ensemble", name) for name in ("ensembles-2", "captioners-2", "filters-2")
    )
    assert {n for n in base if base[n] == both[n]} == {"fetch", "pretrain.0", "captioner.1", "filter.1"}
    assert both["captioner.1.2"] == captioners["captioner.1.2"] != both["captioner.1"]
    assert both["filter.1.2"] == filters["filter.1.2"] != both["filter.1"]
    assert both["calibrate.1"] == filters["calibrate.1"] and captioners["calibrate.1"] == base["calibrate.1"]


def test_figures_of_the_paper_are_those_of_the_same_model():
    """None, and both: the first and the last row of Table 1 with 14 M images."""
    assert (NOTHING.tr, NOTHING.ir, NOTHING.cider) == (78.4, 60.7, 127.8)
    for table in TABLES.values():
        for row in table.rows:
            if row.label == "none" and row.round == 1:
                assert row.paper == NOTHING


def test_oracle_texts_are_left_out_where_the_corpus_has_none(tmp_path):
    data = tiny_data(tmp_path)
    del data["shapes"]
    ablation = Ablation.load(str(write_config(tmp_path / "c.yaml", data)), [])
    assert "oracle texts" not in [row.label for row in ablation.rows(TABLES["capfilt"])]
    assert [run.variant.name for run in ablation.runs(TABLES["capfilt"], [0, 1])] == ["", ""]


def test_overrides_of_web_sources_are_made_for_each(tmp_path):
    data = tiny_data(tmp_path)
    data["sources"]["second"] = data["sources"]["web"]
    ablation = Ablation.load(str(write_config(tmp_path / "c.yaml", data)), [])
    (run,) = [r for r in ablation.runs(TABLES["capfilt"], [0]) if r.variant.name == "oracle"]
    manifests = {run.config.sources[name].rows.manifest for name in ("web", "second")}
    assert manifests == {f"{tmp_path}/shapes/web/oracle.parquet"}


@pytest.mark.parametrize("missing", ["pretrain", "test"])
def test_a_config_that_compares_nothing_is_refused(tmp_path, missing):
    data = tiny_data(tmp_path)
    if missing == "test":
        del data["sources"]["test"]
    else:
        del data["pretrain"]
        data |= {"captioner": {"checkpoint": "a"}, "filter": {"checkpoint": "b"}}
    with pytest.raises(ConfigError, match="give the config a section pretrain and a source of kind test"):
        Ablation.load(str(write_config(tmp_path / "c.yaml", data)), [])


def test_every_mistake_is_found_before_the_first_run(tmp_path):
    data = tiny_data(tmp_path)
    data["captioner"] = {"checkpoint": "a"}
    ablation = Ablation.load(str(write_config(tmp_path / "c.yaml", data)), [])
    with pytest.raises(ConfigError, match=r"shared_finetune: .* captioner\.checkpoint is given"):
        ablation.runs(TABLES["decoupling"], [0])
    data = tiny_data(tmp_path)
    data["sources"]["human"]["rows"]["manifest"] = "nowhere.json"
    ablation = Ablation.load(str(write_config(tmp_path / "c.yaml", data)), [])
    with pytest.raises(Exception, match=r"nowhere\.json"):
        check_runs(ablation.runs(TABLES["decoding"], [0]))
    assert not (tmp_path / "run").exists()


def test_donors_are_the_other_runs_of_the_seed(tmp_path):
    path = write_config(tmp_path / "c.yaml", tiny_data(tmp_path))
    ablation = Ablation.load(str(path), [])
    for name in ("seed-1", "seed-1-beam", "seed-1-nucleus-0.9", "seed-10-beam", "seed-2", "tables"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "config.yaml").write_text(yaml.safe_dump({}))
    (tmp_path / "run/seed-1-empty").mkdir()
    (first, *_) = ablation.runs(TABLES["decoding"], [1])
    assert [place.rpartition("/")[2] for place in ablation.donors(first)] == ["seed-1", "seed-1-beam"]
    (tmp_path / "run/config.yaml").write_text("{}")
    assert ablation.donors(first)[2:] == [f"{tmp_path}/run"]
