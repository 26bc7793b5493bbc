"""Which nodes a config gives, what they need, and which part of the DAG a command selects."""

import pytest
import yaml

from capfilt.pipeline.config.load import ConfigError, dump_config, parse_config
from capfilt.pipeline.plan import UnknownNode, check_node, downstream, plan, select
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from tests.tiny import tiny_data


def config_of(tmp_path, change=lambda data: None, **run):
    data = tiny_data(tmp_path, **run)
    change(data)
    return parse_config(data, "test")


def needs(config):
    return {name: set(node.needs) for name, node in plan(config).items()}


def give_both_checkpoints(data):
    data["captioner"] = {"checkpoint": "a"}
    data["filter"] = {"checkpoint": "b"}


TWO_ROUNDS = {
    "fetch": set(),
    "pretrain.0": {"fetch"},
    "captioner.1": {"pretrain.0"},
    "filter.1": {"pretrain.0"},
    "bootstrap.1": {"captioner.1", "filter.1"},
    "pretrain.1": {"fetch", "bootstrap.1"},
    "evaluate.1": {"pretrain.0", "pretrain.1"},
    "report.1": {"bootstrap.1", "evaluate.1"},
    "captioner.2": {"pretrain.1"},
    "filter.2": {"pretrain.1"},
    "bootstrap.2": {"captioner.2", "filter.2", "bootstrap.1"},
    "pretrain.2": {"fetch", "bootstrap.2"},
    "evaluate.2": {"evaluate.1", "pretrain.2"},
    "report.2": {"bootstrap.2", "evaluate.2", "report.1"},
}


def test_two_rounds_of_the_whole_method(tmp_path):
    nodes = plan(config_of(tmp_path, rounds=2))
    assert {name: set(node.needs) for name, node in nodes.items()} == TWO_ROUNDS
    assert {name: node.round for name, node in nodes.items()} == {
        name: int(name.partition(".")[2] or 0) for name in TWO_ROUNDS
    }
    assert {name: node.sources for name, node in nodes.items() if node.sources} == {
        "fetch": ("human", "test", "web"),
        "bootstrap.1": ("web",),
        "bootstrap.2": ("web",),
    }


def test_nodes_come_after_those_that_they_need(tmp_path):
    planned = set()
    for name, node in plan(config_of(tmp_path, rounds=3)).items():
        assert set(node.needs) <= planned
        planned.add(name)


def test_continued_training_needs_the_model_of_the_round_before(tmp_path):
    config = config_of(tmp_path, lambda data: data.update(continue_training=True), rounds=2)
    continued = {name: set(TWO_ROUNDS[name]) for name in TWO_ROUNDS}
    continued["pretrain.1"] |= {"pretrain.0"}
    continued["pretrain.2"] |= {"pretrain.1"}
    assert needs(config) == continued


def test_without_rounds_a_model_is_pretrained_and_evaluated(tmp_path):
    nodes = plan(config_of(tmp_path, rounds=0))
    assert {name: set(node.needs) for name, node in nodes.items()} == {
        "fetch": set(), "pretrain.0": {"fetch"}, "evaluate.0": {"pretrain.0"}, "report.0": {"evaluate.0"},
    }  # fmt: skip
    assert {node.round for node in nodes.values()} == {0}
    assert nodes["fetch"].sources == ("human", "test", "web")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["sources"].pop("test"), "run.rounds: 0 .* a source of kind test"),
        (lambda data: (data.pop("pretrain"), give_both_checkpoints(data)), "run.rounds: 0 .* give pretrain"),
        (
            lambda data: data.update(controls=["human_only"]),
            "controls: .* run.rounds is 0",
        ),
    ],
)
def test_what_cannot_be_evaluated_without_rounds_is_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, change, rounds=0)


def test_a_shared_finetuning_stands_for_captioner_and_filter(tmp_path):
    config = config_of(tmp_path, lambda data: data.update(shared_finetune=True), rounds=2)
    expected = {name: set(TWO_ROUNDS[name]) for name in TWO_ROUNDS}
    for r in (1, 2):
        expected[f"shared.{r}"] = expected.pop(f"captioner.{r}")
        del expected[f"filter.{r}"]
        expected[f"bootstrap.{r}"] = expected[f"bootstrap.{r}"] - {f"captioner.{r}", f"filter.{r}"} | {
            f"shared.{r}"
        }
    assert needs(config) == expected
    section = config.training("shared")
    assert section.objective.losses == ("itc", "itm", "lm") and section.steps == 6


def test_a_shared_finetuning_has_the_settings_of_the_filter_and_the_prompt_of_the_captioner(tmp_path):
    def change(data):
        data["shared_finetune"] = True
        data["captioner"]["finetune"]["objective"] |= {"prompt": "a picture of ", "label_smoothing": 0.3}
        data["filter"]["finetune"] |= {"steps": 9, "batch_size": 4}

    config = config_of(tmp_path, change)
    shared, judge = config.training("shared"), config.training("filter")
    assert (shared.objective.prompt, shared.objective.label_smoothing) == ("a picture of ", 0.3)
    assert shared.model_copy(update={"objective": judge.objective}) == judge
    assert shared.objective.queue_size == judge.objective.queue_size
    assert config.trains_on("shared") == ["human"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shared_finetune": True, "filter": {"checkpoint": "b"}}, "filter.checkpoint is given"),
        ({"shared_finetune": True, "captioner": {"checkpoint": "b"}}, "captioner.checkpoint is given"),
        ({"captioner": {"checkpoint": "b", "web_share": 0.1}}, "web_share: no captioner is finetuned"),
        ({"captioner.web_share": 1}, "captioner.web_share: .*less than 1"),
        ({"captioner.web_share": 0.1, "shared_finetune": True}, "web_share: with shared_finetune"),
        ({"mixing": {"human": 0, "web": 0, "synthetic": 0}}, "pretrain.texts: .* are all 0"),
        ({"mixing": {"human": 101}}, "pretrain.texts.human: .*100"),
    ],
)
def test_variants_that_contradict_the_config_are_refused(tmp_path, change, message):
    def apply(data):
        for key, value in change.items():
            section, _, name = key.rpartition(".")
            (data[section] if section else data)[name] = value

    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, apply)


def test_controls_are_pretrained_in_the_first_round_and_evaluated_with_it(tmp_path):
    controls = ["human_only", "filter_only", "captioner_only"]
    nodes = plan(config_of(tmp_path, lambda data: data.update(controls=controls), rounds=2))
    found = {name: set(node.needs) for name, node in nodes.items()}
    assert found == TWO_ROUNDS | {
        "human_only": {"fetch"},
        "filter_only": {"fetch", "bootstrap.1"},
        "captioner_only": {"fetch", "bootstrap.1"},
        "evaluate.1": {"pretrain.0", "pretrain.1", *controls},
    }
    assert {nodes[name].round for name in controls} == {1}, "they start from the weights of pretrain.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"controls": ["none"]},
            "controls.0.*'web_repeated' or 'itc_top'",
        ),
        (
            {"controls": ["human_only", "human_only"]},
            "controls: human_only, human_only: name each control once",
        ),
        ({"controls": ["human_only"], "test": False}, "controls: .* give a source of kind test"),
        (
            {"controls": ["human_only"], "pretrain": None},
            "controls: .* settings of pretrain; give that section",
        ),
        ({"controls": ["human_only"], "reads": ["web"]}, "human_only needs a source of kind human"),
    ],
)
def test_controls_that_cannot_be_trained_or_compared_are_refused(tmp_path, change, message):
    def apply(data):
        data["controls"] = change["controls"]
        if change.get("test") is False:
            del data["sources"]["test"]
        if "pretrain" in change:
            del data["pretrain"]
            give_both_checkpoints(data)
        if "reads" in change:
            data["pretrain"]["sources"] = change["reads"]

    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, apply)


def test_without_test_sources_nothing_is_evaluated(tmp_path):
    found = needs(config_of(tmp_path, lambda data: data["sources"].pop("test")))
    assert "evaluate.1" not in found and found["report.1"] == {"bootstrap.1"}


def test_with_both_checkpoints_and_no_pretraining_only_the_candidates_are_made(tmp_path):
    def change(data):
        give_both_checkpoints(data)
        del data["pretrain"]

    config = config_of(tmp_path, change)
    assert needs(config) == {
        "bootstrap.1": set(),
        "calibrate.1": {"bootstrap.1"},
        "report.1": {"bootstrap.1", "calibrate.1"},
    }


def test_automatic_threshold_is_found_between_download_and_judging(tmp_path):
    def change(data):
        give_both_checkpoints(data)
        data["filter"]["judge"] = {"threshold": {"web": "auto", "synthetic": 0.5}}
        del data["pretrain"]

    nodes = plan(config_of(tmp_path, change))
    assert {name: set(node.needs) for name, node in nodes.items()} == {
        "fetch": set(),
        "calibrate.1": {"fetch"},
        "bootstrap.1": {"calibrate.1"},
        "report.1": {"bootstrap.1", "calibrate.1"},
    }
    assert nodes["fetch"].sources == ("web",)


@pytest.mark.parametrize(("hold_out", "pairs", "planned"), [(0.0, 9, False), (0.1, 9, True), (0.1, 0, False)])
def test_trained_filter_is_calibrated_if_images_are_held_out(tmp_path, hold_out, pairs, planned):
    def change(data):
        data["pretrain"]["hold_out"] = hold_out
        data["filter"]["calibrate"] = {"pairs": pairs}

    nodes = plan(config_of(tmp_path, change, rounds=2))
    assert {"calibrate.1", "calibrate.2"} & set(nodes) == (
        {"calibrate.1", "calibrate.2"} if planned else set()
    )
    if planned:
        assert set(nodes["calibrate.2"].needs) == {"filter.2", "fetch"}


def test_filter_whose_ancestors_read_no_web_images_is_calibrated_on_all(tmp_path):
    config = config_of(tmp_path, lambda data: data["pretrain"].update(sources=["human"]))
    assert "calibrate.1" in plan(config) and config.held_out_for(1) == 0


@pytest.mark.parametrize(
    ("hold_out", "pairs", "message"),
    [
        (0.0, 9, r"auto needs web images .* before filter\.1 .* pretrain\.hold_out"),
        (0.1, 0, r"calibrate\.pairs is 0"),
    ],
)
def test_automatic_threshold_needs_a_calibration(tmp_path, hold_out, pairs, message):
    def change(data):
        data["pretrain"]["hold_out"] = hold_out
        data["filter"] |= {"calibrate": {"pairs": pairs}, "judge": {"threshold": "auto"}}

    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, change)


def test_with_both_checkpoints_the_bootstrap_downloads_the_web_images(tmp_path):
    nodes = plan(config_of(tmp_path, give_both_checkpoints))
    assert nodes["fetch"].sources == ("human", "test") and nodes["bootstrap.1"].sources == ("web",)
    assert "pretrain.0" not in nodes and set(nodes["evaluate.1"].needs) == {"pretrain.1"}


def test_given_checkpoints_serve_the_first_round_only(tmp_path):
    def change(data):
        for role in ("captioner", "filter"):
            data[role]["checkpoint"] = "a"

    found = needs(config_of(tmp_path, change, rounds=2))
    assert {"captioner.1", "filter.1"}.isdisjoint(found)
    assert found["captioner.2"] == found["filter.2"] == {"pretrain.1"}


@pytest.mark.parametrize(("given", "trained"), [("captioner", "filter"), ("filter", "captioner")])
def test_with_one_checkpoint_the_other_model_is_trained(tmp_path, given, trained):
    found = needs(config_of(tmp_path, lambda data: data[given].update(checkpoint="a")))
    assert f"{given}.1" not in found and found["bootstrap.1"] == {f"{trained}.1"}
    assert found["pretrain.0"] == {"fetch"}


def test_until_selects_what_a_node_needs_and_downstream_what_needs_the_node(tmp_path):
    nodes = plan(config_of(tmp_path))
    assert list(select(nodes, until="captioner.1")) == ["fetch", "pretrain.0", "captioner.1"]
    assert select(nodes, until=None) == nodes
    assert downstream(nodes, "bootstrap.1") == ["bootstrap.1", "pretrain.1", "evaluate.1", "report.1"]


def test_unknown_nodes_are_refused_with_the_nodes_there_are(tmp_path):
    nodes = plan(config_of(tmp_path))
    with pytest.raises(UnknownNode, match=r"--until bootstrap.9: no such node; this config has fetch, "):
        select(nodes, until="bootstrap.9")
    with pytest.raises(UnknownNode, match=r"^--fresh report\.2: no such node; .*report\.1$"):
        check_node(nodes, "report.2", "--fresh")


class TestDownloadOnly:
    """A config with sources and no models."""

    @staticmethod
    def without_models(data):
        for section in ("pretrain", "captioner", "filter", "evaluate"):
            data.pop(section, None)

    def test_only_fetch_is_planned_for_all_sources(self, tmp_path):
        config = config_of(tmp_path, self.without_models)
        (node,) = plan(config).values()
        assert (node.name, node.needs, node.sources) == ("fetch", (), ("human", "web", "test"))
        assert select(plan(config), until="fetch") == plan(config)

    def test_corpus_has_the_fingerprint_that_a_later_bootstrap_expects(self, tmp_path):
        def add_checkpoints(data):
            self.without_models(data)
            give_both_checkpoints(data)

        configs = [config_of(tmp_path, change) for change in (self.without_models, add_checkpoints)]
        first, second = (Fingerprints(config, plan(config)).corpus("web") for config in configs)
        assert first == second
        assert list(plan(configs[1])) == ["bootstrap.1", "calibrate.1", "report.1"]

    def test_resolved_config_says_the_same(self, tmp_path):
        config = config_of(tmp_path, self.without_models)
        assert list(plan(parse_config(yaml.safe_load(dump_config(config)), "config.yaml"))) == ["fetch"]

    @pytest.mark.parametrize(
        ("section", "value"),
        [
            ("captioner", {"checkpoint": "c"}),
            ("filter", {"checkpoint": "c"}),
            ("captioner", {"generate": {"prompt": "a "}}),
            ("filter", {"judge": {"threshold": 0.25}}),
        ],
    )
    def test_one_model_is_a_mistake(self, tmp_path, section, value):
        def change(data):
            self.without_models(data)
            data[section] = value

        with pytest.raises(ConfigError, match=r"give (captioner|filter)\.checkpoint"):
            config_of(tmp_path, change)

    def test_several_rounds_of_nothing_are_a_mistake(self, tmp_path):
        with pytest.raises(ConfigError, match=r"run\.rounds: 2, but there is nothing to train"):
            config_of(tmp_path, self.without_models, rounds=2)
