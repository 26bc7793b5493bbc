"""Which nodes' fingerprints each config key changes: every key of the schema is in the table.

A key that changes what a node makes must change its fingerprint, or a run would resume with a mixture; a key
that does not must leave it alone, or a run could not be resumed on other machines.
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from capfilt.pipeline.config.load import parse_config, to_json_data
from capfilt.pipeline.plan import downstream, plan
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from tests.config_keys import leaf_paths
from tests.pipeline.rundir.leaf_table import CONTROLS, NEEDED, NODES, ROWS_OF_TABLE, TWO_ROUNDS

QUICKSTART = Path(__file__).parents[3] / "configs/quickstart.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that values of the table name."""
    folder = tmp_path_factory.mktemp("leaves")
    (folder / "blocked.txt").write_text("host.test\n")
    (folder / "answers.json").write_text('["yes", "no"]')
    (folder / "first.pth").write_bytes(b"first")
    (folder / "second.pth").write_bytes(b"second")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.txt").write_text("[PAD]\n")
    return folder


@cache
def base():
    """Data of the quickstart with every optional section, as JSON: YAML's aliases would share objects."""
    data = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    data["clipart"] = {}
    data["pretrain"]["hold_out"] = 0.25
    data["controls"] = CONTROLS.split()
    data["export"] = {"to": "hf"}
    files = {"file": "captions.json", "images": "images"}
    data["tasks"] = {
        "quiz": {
            "kind": "caption",
            "data": {"train": {"shapes": files}, "test": files},
            "finetune": data["captioner"]["finetune"] | {"objective": {"prompt": ""}},
            "evaluate": {"caption": {"sampling": {"strategy": "greedy"}}},
            "rounds": [1],
        }
    }
    data["sources"]["more"] = {
        "kind": "human",
        "rows": {"manifest": "more.csv"},
        "base_url": "https://host/",
        "fetch": {"image": {"min_side": 16}},
    }
    return json.dumps(data)


def put(data, path, value):
    *parents, last = path.split(".")
    for name in parents:
        data = data.setdefault(name, {})
    data[last] = value


def get(data, path):
    for name in path.split("."):
        data = data[name]
    return data


def fingerprints(folder, *changes):
    """Fingerprints of the nodes after these changes of the base, and the resolved config."""
    data = json.loads(base())
    for each in changes:
        for path, value in each.items():
            put(data, path, json.loads(json.dumps(value).replace("{dir}", str(folder))))
    config = parse_config(data, "test")
    return Fingerprints(config, plan(config)), to_json_data(config)


def own_inputs(prints, node):
    return {key: value for key, value in prints.inputs(node).items() if key != "upstream"}


def check_change(folder, path, value, expected, needed):
    """The change affects the own inputs of the `expected` nodes, and the fingerprints of all that depend on
    them."""
    before, config_before = fingerprints(folder, needed)
    after, config_after = fingerprints(folder, needed, {path: value})
    assert get(config_before, path) != get(config_after, path), "the table changes the value"
    common = [node for node in before.nodes if node in after.nodes]
    assert {node for node in common if own_inputs(before, node) != own_inputs(after, node)} == set(expected)
    affected = {later for node in expected for later in downstream(after.nodes, node)}
    assert {node for node in common if before.of(node) != after.of(node)} == affected & set(common)


@pytest.mark.parametrize("path", ROWS_OF_TABLE)
def test_key_changes_the_fingerprints_of_exactly_these_nodes(folder, path):
    value, expected = ROWS_OF_TABLE[path]
    check_change(folder, path, value, expected, NEEDED.get(path, {}))


@pytest.mark.parametrize("path", TWO_ROUNDS)
def test_key_changes_exactly_these_nodes_of_two_rounds(folder, path):
    value, expected = TWO_ROUNDS[path]
    check_change(folder, path, value, expected.split(), NEEDED.get(path, {}) | {"run.rounds": 2})


def test_table_has_every_key_of_the_config():
    sections = {
        "shapes",
        "clipart",
        "export",
        "sources.NAME.fetch",
        "tasks.NAME.finetune",
        "cluster.wait_for",
    }
    named = re.compile(r"^(sources|candidates|tasks|tasks\.NAME\.data\.train)\.(?!NAME\.)\w+\.")
    paths = {named.sub(r"\1.NAME.", named.sub(r"\1.NAME.", path)) for path in ROWS_OF_TABLE}
    assert sorted(paths - sections) == sorted(leaf_paths())


def test_base_of_the_table_has_every_kind_of_node(folder):
    assert list(fingerprints(folder)[0].nodes) == NODES.split()
