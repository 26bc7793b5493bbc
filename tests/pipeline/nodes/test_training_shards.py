"""What a training reads, and by what a half-done one is known."""

from types import SimpleNamespace

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.nodes.train import training_shards
from capfilt.pipeline.plan import plan
from capfilt.stages.shards.records import CorpusRecord, RowCounts
from capfilt.stages.storage.store import FileEntry
from tests.tiny import tiny_data


def shards_of(tmp_path, sha256="ab", texts=5):
    """`training_shards` of the first pretraining on one shard of each source, the web's as told."""
    config = parse_config(tiny_data(tmp_path) | {"duplicates": {"policy": "keep"}}, "c.yaml")

    def record(source, texts, sha256):
        rows, files = RowCounts(read=texts, status={"success": texts}), (FileEntry("000000.tar", 1, sha256),)
        return CorpusRecord(source=source, shard=0, fingerprint="f", files=files, rows=rows, texts=texts)

    records = {
        "corpus/human": [record("human", 3, "cd")],
        "corpus/web": [record("web", texts, sha256)],
    }
    run = SimpleNamespace(config=config, ledger=SimpleNamespace(records=records.__getitem__))
    return training_shards(run, plan(config)["pretrain.0"])


def test_pairs_are_those_that_the_records_count(tmp_path):
    shards = shards_of(tmp_path)
    assert (shards.pairs, shards.pairs_per_epoch) == (8, 8.0)
    assert [(ref.source, ref.shard) for ref in shards.refs] == [("human", 0), ("web", 0)]


def test_a_training_on_other_data_is_another_one(tmp_path):
    """`retry` may change a shard while a training is half done: its checkpoint points into data that are gone."""
    same, again = shards_of(tmp_path).digest, shards_of(tmp_path).digest
    assert same == again
    assert len({same, shards_of(tmp_path, sha256="ac").digest, shards_of(tmp_path, texts=4).digest}) == 3
