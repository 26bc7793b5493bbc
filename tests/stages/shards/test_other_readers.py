"""The folders of Parquet files of a run, opened as folders by the readers that people use."""

import glob

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.rows import CANDIDATE_TYPE, ROW_SCHEMA, row_key, table_of, with_column
from capfilt.stages.shards.write import Provenance, Write, WriteConfig
from capfilt.stages.storage.store import Store
from tests.runs import walk

READERS = {
    "pandas": lambda folder: len(pd.read_parquet(folder)),
    "pyarrow.dataset": lambda folder: ds.dataset(folder).count_rows(),
    "pyarrow.parquet": lambda folder: pq.read_table(folder).num_rows,
    "polars": lambda folder: pl.scan_parquet(folder).collect().height,
    "duckdb": lambda folder: duckdb.sql(f"SELECT * FROM '{folder}/**/*.parquet'").fetchall().__len__(),
    "datasets": lambda folder: sum(split.num_rows for split in datasets.load_dataset(folder).values()),
}
FOLDERS = {
    "corpus": 12,
    "corpus/web": 8,
    "rounds": 18,
    "rounds/1": 18,
    "rounds/1/web": 12,
    "manifests/web/parts": 8,
}
"""Folder → rows of all Parquet files in it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two web sources with shards of four rows, three of which have candidates."""
    store = Store(str(tmp_path_factory.mktemp("run")))
    provenance = Provenance(
        captioner="c",
        filter="f",
        top_p=0.9,
        top_k=0,
        repetition_penalty=1.0,
        thresholds={"web": 0.5, "synthetic": 0.5},
    )
    config = WriteConfig(
        run_dir=store,
        corpus_fingerprints={"web": "f", "web2": "f"},
        round=1,
        round_fingerprint="r",
        provenance=provenance,
    )
    for source, shards in (("web", 2), ("web2", 1)):
        for shard in range(shards):
            Write(config)(judged_rows(source, shard))
    urls = [f"http://h/{i}.jpg" for i in range(8)]
    manifest = store.path("in.parquet")
    pq.write_table(pa.table({"url": urls, "caption": urls}), manifest)
    build_index(ManifestConfig(manifest=manifest, shard_size=4), store / "manifests/web", source="web")
    return store


def judged_rows(source, shard):
    """Four rows, the last of which failed; the others have two candidates each."""
    rows, candidates = [], []
    for number in range(4):
        row = {"key": row_key(shard, number), "source": source, "shard": shard, "url": f"u{number}"}
        image = {"status": "success", "texts": ["a dog"], "image": b"\xff\xd8\xff", "width": 8, "height": 8}
        rows.append(row | (image if number < 3 else {"status": "dns", "error_message": "no such host"}))
        texts = [{"origin": "web", "kept": True}, {"origin": "synthetic", "kept": None}]
        same = {"caption_index": 0, "text": "a dog", "flags": []}
        candidates.append([text | same for text in texts] if number < 3 else [])
    return with_column(table_of(rows, ROW_SCHEMA), "candidates", candidates, pa.list_(CANDIDATE_TYPE))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_opens_as_one_table(run, folder, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert READERS[reader](run.path(folder)) == FOLDERS[folder]


def test_every_file_has_a_place(run):
    shards = [("web", "000000"), ("web", "000001"), ("web2", "000000")]
    assert walk(run) == sorted(
        [
            *(
                f"{folder}/{source}/{name}.parquet"
                for source, name in shards
                for folder in ("corpus", "rounds/1")
            ),
            *(f"images/{source}/{name}.tar" for source, name in shards),
            *(
                f"records/{folder}/{source}/{name}.json"
                for source, name in shards
                for folder in ("corpus", "rounds/1")
            ),
            "in.parquet",
            "manifests/web/index.json",
            "manifests/web/parts/00000.parquet",
        ]
    )
    assert len(glob.glob(run.path("images/*/*.tar"))) == 3
