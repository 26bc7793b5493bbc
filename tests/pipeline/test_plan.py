import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.plan import UnknownNode, downstream, plan, select
from tests.tiny import tiny_data


def config_of(tmp_path, change=lambda data: None, **run):
    data = tiny_data(tmp_path, **run)
    change(data)
    return parse_config(data, "test")


def needs(config):
    return {name: set(node.needs) for name, node in plan(config).items()}


def test_whole_loop_of_two_rounds(tmp_path):
    assert needs(config_of(tmp_path, rounds=2)) == {
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


def released(data):
    data["captioner"] = {"checkpoint": "a"}
    data["filter"] = {"checkpoint": "b"}


def test_with_both_checkpoints_and_no_pretraining_one_pass_is_all(tmp_path):
    def change(data):
        released(data)
        del data["pretrain"]

    config = config_of(tmp_path, change)
    assert needs(config) == {"bootstrap.1": set(), "report.1": {"bootstrap.1"}}


def test_with_both_checkpoints_the_web_is_fetched_by_the_bootstrap(tmp_path):
    nodes = plan(config_of(tmp_path, released))
    assert nodes["fetch"].sources == ("human", "test") and nodes["bootstrap.1"].sources == ("web",)
    assert "pretrain.0" not in nodes and set(nodes["evaluate.1"].needs) == {"pretrain.1"}


def test_captioner_given_alone_leaves_the_filter_to_training(tmp_path):
    def change(data):
        data["captioner"]["checkpoint"] = "a"

    found = needs(config_of(tmp_path, change))
    assert "captioner.1" not in found and found["bootstrap.1"] == {"filter.1"}


def test_until_takes_what_a_node_needs_and_fresh_what_needs_it(tmp_path):
    nodes = plan(config_of(tmp_path))
    assert list(select(nodes, until="captioner.1")) == ["fetch", "pretrain.0", "captioner.1"]
    assert set(downstream(nodes, "bootstrap.1")) == {"bootstrap.1", "pretrain.1", "evaluate.1", "report.1"}
    with pytest.raises(UnknownNode, match=r"--until bootstrap.9: no such node; this config has fetch, "):
        select(nodes, until="bootstrap.9")
