"""What a node's fingerprint sees of the training keys, and what it must not see."""

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.plan import plan
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.ledger import difference
from tests.tiny import tiny_data


def fingerprints_of(tmp_path, change=lambda data: None):
    data = tiny_data(tmp_path)
    change(data)
    config = parse_config(data, "test")
    return Fingerprints(config, plan(config))


def changed(before, after):
    return {name for name in before.nodes if before.inputs(name) != after.inputs(name)}


def test_parts_change_what_pretraining_makes_and_not_what_is_fetched(tmp_path):
    before = fingerprints_of(tmp_path)
    after = fingerprints_of(tmp_path, lambda data: data["sources"]["web"].update(parts=3))
    assert "fetch" not in changed(before, after) and "pretrain.0" in changed(before, after)
    first = difference(before.inputs("pretrain.0"), after.inputs("pretrain.0"))
    assert first == ("sources.web.parts", 1, 3)


def test_the_sources_of_a_finetuning_belong_to_it_alone(tmp_path):
    before = fingerprints_of(tmp_path)
    after = fingerprints_of(tmp_path, lambda data: data["filter"]["finetune"].update(sources=["human"]))
    assert "filter.1" in changed(before, after)
    assert not {"fetch", "pretrain.0", "captioner.1"} & changed(before, after)


def test_recomputing_activations_changes_no_result(tmp_path):
    def change(data):
        for section in (data["pretrain"], data["captioner"]["finetune"], data["filter"]["finetune"]):
            section["checkpoint_layers"] = 1

    assert changed(fingerprints_of(tmp_path), fingerprints_of(tmp_path, change)) == set()


def test_manners_that_decide_what_is_stored_belong_to_the_fetch(tmp_path):
    def fetch(**keys):
        return lambda data: data.setdefault("fetch", {}).update(keys)

    before = fingerprints_of(tmp_path, fetch())
    ours = {"robots": False, "per_host_per_second": None, "image": {"size": 64}}
    theirs = fingerprints_of(tmp_path, fetch(**ours, backend="img2dataset"))
    assert "fetch" in changed(fingerprints_of(tmp_path, fetch(**ours)), theirs)
    for keys in ({"robots": False}, {"optout": ["noai"]}):
        assert "fetch" in changed(before, fingerprints_of(tmp_path, fetch(**keys)))
    timing = {"per_host_per_second": 1.0, "max_crawl_wait_s": 5, "host_failures": 9, "memory_bytes": 10**9}
    assert changed(before, fingerprints_of(tmp_path, fetch(**timing))) == set()


def test_block_list_is_known_by_what_it_says(tmp_path):
    def blocked(*lines):
        path = tmp_path / f"{len(lines)}{lines[0]}.txt"
        path.write_text("\n".join(lines))
        return fingerprints_of(tmp_path, lambda data: data["fetch"].update(blocked=[str(path)]))

    before = blocked("a.test", "b.test")
    assert changed(before, blocked("b.test", "# moved", "a.test")) == set()
    assert "fetch" in changed(before, blocked("a.test"))
    assert "fetch" in changed(before, fingerprints_of(tmp_path))
