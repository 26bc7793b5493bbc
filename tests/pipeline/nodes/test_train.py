"""What a training reads, what it starts from, and how a half-done training is identified."""

from types import SimpleNamespace

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes import train
from capfilt.pipeline.nodes.train import run_training, training_shards
from capfilt.pipeline.nodes.training_data import find_top_itc
from capfilt.pipeline.plan import plan
from capfilt.stages.rows import CANDIDATE_SCHEMA, table_of
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.store import FileEntry, Store
from tests.local_run import local_run
from tests.tiny import tiny_data


def corpus_record(source, texts, sha256="ab", shard=0):
    rows, files = RowCounts(read=texts, status={"success": texts}), (FileEntry("000000.tar", 1, sha256),)
    return CorpusRecord(source=source, shard=shard, fingerprint="f", files=files, rows=rows, texts=texts)


def candidates_record(kept, dropped=9, shard=0):
    return CandidatesRecord(
        source="web",
        shard=shard,
        round=1,
        fingerprint="f",
        files=(FileEntry("000000.parquet", 1, "ef"),),
        rows=RowCounts(read=9, status={"success": 9}),
        candidates={"web": {"kept": kept - 1, "dropped": dropped}, "synthetic": {"kept": 1}},
    )


def shards_of(tmp_path, node="pretrain.0", parts=1, change=lambda data: None, **records):
    """`training_shards` of a node.

    Args:
        change: of the config's data.
        records: folder, with "_" for "/", → commit records.
    """
    data = tiny_data(tmp_path) | {"duplicates": {"policy": "keep"}}
    data["controls"] = ["human_only", "filter_only", "captioner_only", "web_repeated"]
    change(data)
    data["sources"]["web"]["parts"] = parts
    config = parse_config(data, "c.yaml")
    found = {"corpus/human": [corpus_record("human", 3, "cd")], "corpus/web": [corpus_record("web", 5)]}
    found |= {name.replace("_", "/"): value for name, value in records.items()}
    context = SimpleNamespace(config=config, ledger=SimpleNamespace(records=found.__getitem__))
    return training_shards(context, plan(config)[node])


def test_first_pretraining_reads_all_texts(tmp_path):
    shards = shards_of(tmp_path)
    assert (shards.pairs, shards.pairs_per_epoch) == (8, 8.0)
    assert [(ref.source, ref.shard, ref.kind) for ref in shards.refs] == [
        ("human", 0, "human"),
        ("web", 0, "web"),
    ]


def test_later_pretrainings_read_kept_candidates_of_their_round(tmp_path):
    shards = shards_of(tmp_path, "pretrain.1", rounds_1_web=[candidates_record(4)], corpus_web=[])
    assert shards.pairs == 3 + 4


@pytest.mark.parametrize(
    ("control", "pairs"), [("human_only", 3), ("filter_only", 3 + 3), ("captioner_only", 3 + 4 + 9)]
)
def test_controls_read_other_texts_than_the_method(tmp_path, control, pairs):
    shards = shards_of(tmp_path, control, rounds_1_web=[candidates_record(4)])
    assert shards.pairs == pairs
    assert [ref.source for ref in shards.refs] == ["human"] + ["web"] * (control != "human_only")


def test_finetunings_read_human_sources_only(tmp_path):
    assert [ref.source for ref in shards_of(tmp_path, "captioner.1").refs] == ["human"]


def test_a_finetuning_reads_the_share_of_the_human_pairs_that_is_not_validated_on(tmp_path):
    def validate(data):
        data["captioner"]["finetune"]["validation"] = {"share": 0.25}
        data["captioner"]["web_share"] = 0.5

    human = [corpus_record("human", 8, shard=shard) for shard in range(3)]
    shards = shards_of(tmp_path, "captioner.1", change=validate, corpus_human=human)
    assert (shards.pairs, shards.pairs_per_epoch) == (3 * 6 + 5, 2 * 3 * 6)
    assert shards_of(tmp_path, "filter.1", change=validate, corpus_human=human).pairs == 3 * 8


def test_web_texts_are_repeated_to_as_many_pairs_as_the_filter_has_kept(tmp_path):
    shards = shards_of(tmp_path, "web_repeated", rounds_1_web=[candidates_record(6), candidates_record(4)])
    assert shards.weights == {"web": 2.0}
    assert (shards.pairs, shards.pairs_per_epoch) == (3 + 5, 3 + 10)
    assert [ref.source for ref in shards.refs] == ["human", "web"]


@pytest.mark.parametrize("node", ["pretrain.1", "filter_only", "captioner_only"])
def test_pairs_of_an_origin_can_occur_more_or_less_often(tmp_path, node):
    def mix(data):
        data["mixing"] = {"human": 2, "web": 0.5, "synthetic": 0}

    kept = {"pretrain.1": 3, "filter_only": 3, "captioner_only": 12}[node]  # web texts
    shards = shards_of(tmp_path, node, change=mix, rounds_1_web=[candidates_record(4)])
    assert shards.weights == {"human": 2, "web": 0.5, "synthetic": 0}
    assert shards.pairs == 3 + kept, "pairs that never occur do not count"
    assert shards.pairs_per_epoch == 2 * 3 + 0.5 * kept


@pytest.mark.parametrize("node", ["pretrain.0", "human_only", "captioner.1"])
def test_the_mixture_concerns_pretrainings_on_candidates_only(tmp_path, node):
    mixed = shards_of(tmp_path, node, change=lambda data: data.update(mixing={"human": 2}))
    assert mixed == shards_of(tmp_path, node) and mixed.weights == {}


@pytest.mark.parametrize(
    ("share", "texts", "parts"),
    [(0.25, 10, 3), (0.5, 1, 1), (0.75, 4, 1), (0.5, 100, 3)],  # never more parts than the 3 shards
)
def test_a_share_of_web_pairs_for_the_captioner_is_read_from_few_shards(tmp_path, share, texts, parts):
    def set_share(data):
        data["captioner"]["web_share"] = share

    records = [corpus_record("web", texts, shard=shard) for shard in range(3)]
    shards = shards_of(tmp_path, "captioner.1", change=set_share, corpus_web=records)
    web = [ref for ref in shards.refs if ref.source == "web"]
    assert {ref.parts for ref in web} == {parts} and len(web) == 3
    web_per_epoch = 3 * texts * shards.weights["web"] / parts
    assert web_per_epoch / (3 + web_per_epoch) == pytest.approx(share)
    assert shards.pairs_per_epoch == pytest.approx(3 + web_per_epoch)
    others = shards_of(tmp_path, "filter.1", change=set_share, corpus_web=records)
    assert [ref.source for ref in others.refs] == ["human"]


def test_other_weights_are_another_content(tmp_path):
    def digest(**mixing):
        candidates = [candidates_record(4)]
        return shards_of(
            tmp_path, "pretrain.1", change=lambda data: data.update(mixing=mixing), rounds_1_web=candidates
        ).digest

    assert len({digest(), digest(human=2), digest(human=3)}) == 3 and digest(human=1) == digest()


def test_shards_without_pairs_are_left_out(tmp_path):
    shards = shards_of(tmp_path, corpus_web=[corpus_record("web", 0), corpus_record("web", 1, shard=1)])
    assert [(ref.source, ref.shard) for ref in shards.refs] == [("human", 0), ("web", 1)]


def test_epoch_reads_one_part_of_a_source_that_trains_in_parts(tmp_path):
    records = [corpus_record("web", 4, shard=shard) for shard in range(3)]
    shards = shards_of(tmp_path, parts=3, corpus_web=records)
    assert (shards.pairs, shards.pairs_per_epoch) == (3 + 12, 3 + 4.0)
    assert sorted(ref.part for ref in shards.refs if ref.source == "web") == [0, 1, 2]


def test_digest_depends_on_the_content_of_the_shards(tmp_path):
    """A checkpoint of a half-done training refers to shards, which `capfilt retry` may replace."""
    same, again = shards_of(tmp_path).digest, shards_of(tmp_path).digest
    assert same == again
    other_bytes = shards_of(tmp_path, corpus_web=[corpus_record("web", 5, "ac")]).digest
    fewer_texts = shards_of(tmp_path, corpus_web=[corpus_record("web", 4)]).digest
    assert len({same, other_bytes, fewer_texts}) == 3


MEMBERS = ("captioner.1.2", "captioner.1.3", "filter.1.2", "filter.1.3")


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Runs a training node on this many pairs, up to the point at which its job would start; returns the
    job."""

    class Started(Exception):
        pass

    def fit(job):
        raise Started(job)

    def call(pairs, node="pretrain.0", **section):
        data = tiny_data(tmp_path) | {"duplicates": {"policy": "keep"}}
        data["pretrain"] |= {"steps": None} | section
        data["captioner"]["ensemble"] = data["filter"]["ensemble"] = 3
        context = local_run(parse_config(data, "c.yaml"))
        context.store.put("records/corpus/human/000000.json", b"")
        shards = train.TrainingShards([], pairs, float(pairs), {}, "digest")
        monkeypatch.setattr(train, "training_shards", lambda context, node: shards)
        monkeypatch.setattr("capfilt.cluster.training.trainer.fit", fit)
        monkeypatch.setattr("capfilt.pipeline.training.vocabulary.ensure_tokenizer", lambda run_dir: "tokens")
        context.progress.begin(node)
        with pytest.raises(Started) as started:
            run_training(context, context.run_dir.nodes[node])
        return started.value.args[0]

    return call


@pytest.mark.parametrize("pairs", [0, 1])
def test_training_needs_two_pairs(training, pairs):
    with pytest.raises(
        NodeFailed, match=rf"pretrain\.0: {pairs} training pairs; a training needs at least 2"
    ):
        training(pairs, epochs=1)
    assert training(2, epochs=1).node == "pretrain.0"


@pytest.mark.parametrize(
    ("pairs", "epochs", "per_epoch", "steps"),
    [(7, 3, 1, 3), (8, 3, 1, 3), (15, 3, 1, 3), (16, 3, 2, 6), (16, 0.1, 2, 1), (16, 0.75, 2, 2)],
)
def test_steps_follow_from_pairs_epochs_and_batch_size(training, pairs, epochs, per_epoch, steps):
    spec = training(pairs, epochs=epochs).build.args[0]  # batches of 8
    assert (spec.steps_per_epoch, spec.total_steps) == (per_epoch, steps)


def test_given_steps_are_used_and_the_job_is_named_by_config_and_data(training):
    job = training(16, steps=5, epochs=None)
    spec = job.build.args[0]
    assert (spec.total_steps, spec.seed, spec.round, spec.start, spec.tokenizer) == (5, 0, 0, None, "tokens")
    assert job.name.startswith("pretrain.0-") and job.name == training(16, steps=5, epochs=None).name
    assert job.name != training(16, steps=6, epochs=None).name


def test_later_rounds_have_other_seeds_and_finetunings_start_from_the_last_pretraining(training):
    spec = training(16, "captioner.1", steps=5, epochs=None).build.args[0]
    assert (spec.seed, spec.round, spec.tokenizer, spec.kind) == (1, 0, "", "captioner")
    assert spec.start.endswith("run/models/pretrain.0") and spec.provenance["start"] == "models/pretrain.0"
    others = {training(16, name, steps=5, epochs=None).build.args[0].seed for name in MEMBERS}
    assert len(others) == 2 and not others & set(range(10_000))
    spec = training(16, "pretrain.1", steps=5, epochs=None).build.args[0]
    assert (spec.seed, spec.round, spec.start) == (1, 1, None)


@pytest.mark.parametrize(
    ("similarities", "kept", "chosen"),
    [
        ([0.1, 0.2, 0.3, 0.4], 2, [0.3, 0.4]),
        ([0.4, 0.1, 0.3, 0.2], 1, [0.4]),
        ([0.1, 0.2, 0.3, 0.4], 4, [0.1, 0.2, 0.3, 0.4]),
        ([0.1, 0.3, 0.3, 0.4], 2, [0.3, 0.3, 0.4]),  # equal ones belong together
        ([0.1, 0.2, 0.3, 0.4], 0, []),
    ],
)
def test_the_top_share_by_itc_is_as_large_as_the_share_that_the_filter_keeps(
    tmp_path, similarities, kept, chosen
):
    store = Store(str(tmp_path))
    rows = [
        {"source": "web", "shard": i % 2, "origin": "web", "kept": i < kept, "itc_sim": similarity}
        for i, similarity in enumerate(similarities)
    ]
    rows += [
        {"source": "web", "shard": 0, "origin": "synthetic", "kept": True, "itc_sim": 0.9},
        {"source": "web", "shard": 0, "origin": "web", "kept": None, "itc_sim": 0.8},
    ]
    store.put("rounds/1/web/000000.parquet", encode_parquet(table_of(rows, CANDIDATE_SCHEMA)))
    config = parse_config(tiny_data(tmp_path) | {"controls": ["itc_top"]}, "c.yaml")
    ledger = SimpleNamespace(records=lambda folder: [candidates_record(4)])
    context = SimpleNamespace(config=config, store=store, ledger=ledger)
    top = find_top_itc(context, plan(config)["itc_top"])
    assert sum(top.texts.values()) == len(chosen)
    if chosen:
        assert top.least == pytest.approx(min(chosen))
    by_shard = {
        shard: sum(1 for i, s in enumerate(similarities) if s in chosen and i % 2 == shard)
        for shard in (0, 1)
    }
    assert {shard: top.texts.get(("web", shard), 0) for shard in (0, 1)} == by_shard
