"""A run that lacks some images, made once per test file and copied for each test."""

import shutil
from contextlib import chdir

import pytest

from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.nodes.report import REPORT_FILES
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.stages.rows import CANDIDATE_SCHEMA, table_of
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, encode
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import candidates_shard
from tests.pipeline.maintenance.partial_run import PartialRun


@pytest.fixture(scope="module")
def partial_run_template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    with chdir(folder):  # paths in the config are relative, so that a copy has the same fingerprints
        PartialRun(folder).create()
    return folder


@pytest.fixture
def partial_run(partial_run_template, tmp_path, monkeypatch):
    shutil.copytree(partial_run_template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return PartialRun(tmp_path)


@pytest.fixture
def done_run(partial_run):
    """The run as if it were done: a bootstrap that has downloaded images and found no candidates, and its
    report."""
    no_rows = encode_parquet(table_of([], CANDIDATE_SCHEMA))
    inputs = {"sources": {"web": partial_run.run_dir.fingerprints.corpus_inputs("web")}}
    for shard in range(3):
        place = candidates_shard(1, "web", shard)
        record = CandidatesRecord(
            source="web",
            shard=shard,
            round=1,
            fingerprint=fingerprint(inputs),
            files=(partial_run.store.put(place.parquet, no_rows),),
            rows=RowCounts(read=3, status={"success": 3}),
            candidates={},
        )
        partial_run.store.put(place.record, encode(record))
    done = NodeResult("", counts={"rows": 9, "status": {"success": 9}})
    partial_run.ledger.finish("bootstrap.1", inputs, done, 1.0)
    for file in REPORT_FILES:
        partial_run.store.put(f"reports/1/{file}", b"")
    return partial_run
