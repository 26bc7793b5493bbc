"""Paths inside a run directory."""

import pytest

from capfilt.stages.storage import layout
from capfilt.stages.storage.layout import ShardFiles, shard_of_record


def test_files_of_a_shard():
    files = layout.corpus_shard("web", 12)
    assert files == ShardFiles("corpus/web", 12)
    assert (files.name, files.stem) == ("000012", "corpus/web/000012")
    assert (files.record, files.parquet, files.tar) == (
        "records/corpus/web/000012.json",
        "corpus/web/000012.parquet",
        "images/web/000012.tar",
    )
    assert layout.candidates_shard(2, "web", 12).record == "records/rounds/2/web/000012.json"
    assert layout.staged_shard("web", 12).record == "replacing/web/000012.json"


def test_files_of_nodes_and_rounds():
    assert layout.index_folder("web") == "manifests/web"
    assert layout.provenance_file("filter.1") == "models/filter.1/provenance.json"
    assert (layout.node_record("fetch"), layout.start_record("fetch"), layout.failure_log("fetch")) == (
        "nodes/fetch.json",
        "nodes/fetch.started.json",
        "nodes/fetch.failure.log",
    )
    assert (layout.training_folder("pretrain.0"), layout.log_folder("pretrain.0")) == (
        "train/pretrain.0",
        "logs/pretrain.0",
    )
    assert (layout.metrics_file(1), layout.lease_file(3)) == ("reports/1/metrics.json", "lease/000003.json")


@pytest.mark.parametrize(
    ("file_name", "shard"),
    [
        ("000012.json", 12),
        ("1000000.json", 1_000_000),
        ("000012.parquet", None),
        ("000012", None),
        ("index.json", None),
        (".json", None),
        ("-1.json", None),
    ],
)
def test_the_shard_of_a_record(file_name, shard):
    assert shard_of_record(file_name) == shard
