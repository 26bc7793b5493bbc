"""What a node's fingerprint sees of the training keys, and what it must not see."""

from pipeline.inputs import Fingerprints
from pipeline.ledger import difference
from pipeline.load import parse_config
from pipeline.plan import plan
from tests.tiny import tiny_data


def prints(tmp_path, change=lambda data: None):
    data = tiny_data(tmp_path)
    change(data)
    config = parse_config(data, "test")
    return Fingerprints(config, plan(config))


def changed(before, after):
    return {name for name in before.nodes if before.inputs(name) != after.inputs(name)}


def test_parts_change_what_pretraining_makes_and_not_what_is_fetched(tmp_path):
    before = prints(tmp_path)
    after = prints(tmp_path, lambda data: data["sources"]["web"].update(parts=3))
    assert "fetch" not in changed(before, after) and "pretrain.0" in changed(before, after)
    first = difference(before.inputs("pretrain.0"), after.inputs("pretrain.0"))
    assert first == ("sources.web.parts", 1, 3)


def test_the_sources_of_a_finetuning_belong_to_it_alone(tmp_path):
    before = prints(tmp_path)
    after = prints(tmp_path, lambda data: data["filter"]["finetune"].update(sources=["human"]))
    assert "filter.1" in changed(before, after)
    assert not {"fetch", "pretrain.0", "captioner.1"} & changed(before, after)


def test_recomputing_activations_changes_no_result(tmp_path):
    def change(data):
        for section in (data["pretrain"], data["captioner"]["finetune"], data["filter"]["finetune"]):
            section["checkpoint_layers"] = 1

    assert changed(prints(tmp_path), prints(tmp_path, change)) == set()
