"""Which settings are part of a node's fingerprint, and which are not."""

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.plan import plan
from capfilt.pipeline.rundir.changes import difference
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from tests.tiny import tiny_data


def fingerprints_of(tmp_path, change=lambda data: None):
    data = tiny_data(tmp_path)
    change(data)
    config = parse_config(data, "test")
    return Fingerprints(config, plan(config))


def changed(before, after):
    """Names of the nodes whose fingerprints differ."""
    return {name for name in before.nodes if before.of(name) != after.of(name)}


def test_parts_belong_to_pretraining_and_not_to_the_fetch(tmp_path):
    before = fingerprints_of(tmp_path)
    after = fingerprints_of(tmp_path, lambda data: data["sources"]["web"].update(parts=3))
    assert "fetch" not in changed(before, after) and "pretrain.0" in changed(before, after)
    first = difference(before.inputs("pretrain.0"), after.inputs("pretrain.0"))
    assert first == ("sources.web.parts", 1, 3)


def test_sources_of_a_finetuning_belong_to_this_finetuning_only(tmp_path):
    before = fingerprints_of(tmp_path)
    after = fingerprints_of(tmp_path, lambda data: data["filter"]["finetune"].update(sources=["human"]))
    assert "filter.1" in changed(before, after)
    assert not {"fetch", "pretrain.0", "captioner.1"} & changed(before, after)


def test_settings_that_change_only_the_speed_of_a_training_are_left_out(tmp_path):
    def change(data):
        for section in (data["pretrain"], data["captioner"]["finetune"], data["filter"]["finetune"]):
            section["checkpoint_layers"] = 1
            section["decode_threads"] = 7
            section["workers"] = {"workers": 2}

    assert changed(fingerprints_of(tmp_path), fingerprints_of(tmp_path, change)) == set()


def test_batch_sizes_of_inference_are_left_out(tmp_path):
    def change(data):
        data["captioner"]["generate"]["batch_size"] = 3
        data["filter"]["judge"] = {"batch_size": 3}
        data["evaluate"]["caption"]["batch_size"] = 3

    assert changed(fingerprints_of(tmp_path), fingerprints_of(tmp_path, change)) == set()


def test_settings_for_duplicates_belong_to_what_reads_unfiltered_texts_and_to_verdicts(tmp_path):
    before = fingerprints_of(tmp_path)
    after = fingerprints_of(tmp_path, lambda data: data.update(duplicates={"max_copies": 7}))
    own = {name for name in before.nodes if "duplicates" in before.inputs(name)}
    assert own == {"pretrain.0", "bootstrap.1"}
    assert changed(before, after) == set(before.nodes) - {"fetch"}


def test_fetch_settings_belong_to_the_corpus_if_they_determine_what_is_stored(tmp_path):
    def fetch(**keys):
        return lambda data: data.setdefault("fetch", {}).update(keys)

    before = fingerprints_of(tmp_path, fetch())
    without_limits = {"robots": False, "per_host_per_second": None, "image": {"size": 64}}
    img2dataset = fingerprints_of(tmp_path, fetch(**without_limits, backend="img2dataset"))
    assert "fetch" in changed(fingerprints_of(tmp_path, fetch(**without_limits)), img2dataset)
    for keys in ({"robots": False}, {"optout": ["noai"]}):
        assert "fetch" in changed(before, fingerprints_of(tmp_path, fetch(**keys)))
    speed = {"per_host_per_second": 1.0, "max_crawl_wait_s": 5, "host_failures": 9, "memory_bytes": 10**9}
    assert changed(before, fingerprints_of(tmp_path, fetch(**speed))) == set()


def test_block_lists_are_identified_by_their_content(tmp_path):
    def blocked(*lines):
        path = tmp_path / f"{len(lines)}{lines[0]}.txt"
        path.write_text("\n".join(lines))
        return fingerprints_of(tmp_path, lambda data: data["fetch"].update(blocked=[str(path)]))

    before = blocked("a.test", "b.test")
    assert changed(before, blocked("b.test", "# moved", "a.test")) == set()
    assert "fetch" in changed(before, blocked("a.test"))
    assert "fetch" in changed(before, fingerprints_of(tmp_path))


def test_corpus_fingerprint_is_that_of_the_inputs_of_the_fetch_node(tmp_path):
    found = fingerprints_of(tmp_path)
    assert found.inputs("fetch")["sources"] == {
        name: found.corpus_inputs(name) for name in ("human", "test", "web")
    }
    assert found.corpus("web") != found.corpus("human")
