"""The committed files of a round: its candidates, their corpus, and the files of a set of verdicts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.shards.records import CandidatesRecord
from capfilt.stages.storage.filesystems import filesystem_options
from capfilt.stages.storage.layout import (
    DEFAULT_VERDICTS,
    candidates_folder,
    corpus_folder,
    verdicts_folder,
    verdicts_shard,
)
from capfilt.stages.verdicts.sets import VerdictSet, check_current, open_set


@dataclass(frozen=True, kw_only=True)
class RoundFiles:
    """Local paths or fsspec URLs of the files that commit records name."""

    candidates: list[str]
    corpus: list[str]
    """Row files of every source."""
    verdicts: list[str]
    """Files of the set, one for each file of candidates; [] for the verdicts of the run."""
    verdict_set: VerdictSet | None
    """None for the verdicts of the run."""
    schema: pa.Schema
    """Columns of the candidates."""
    storage_options: Mapping[str, Any]
    """fsspec options of the filesystem that holds the files."""


def find_round_files(
    run_dir: RunDir, round_: int, verdicts: str = DEFAULT_VERDICTS, *, carried: bool = False
) -> RoundFiles:
    """Find the files of a round.

    Args:
        verdicts: name of a set of verdicts.
        carried: whether the schema has the columns that sources carry; this reads a file of each source.

    Raises:
        VerdictSetError: the round has no such set, or its candidates have been replaced since.
    """
    store, ledger = run_dir.store, run_dir.ledger
    web = [candidates_folder(round_, source) for source in run_dir.config.of_kind("web")]
    folders = [corpus_folder(source) for source in run_dir.config.sources]
    found = _open_set(run_dir, round_, verdicts, web)
    return RoundFiles(
        candidates=_parquet_files(run_dir, web),
        corpus=_parquet_files(run_dir, [folder for folder in folders if ledger.committed_shards(folder)]),
        verdicts=_verdict_files(run_dir, found),
        verdict_set=found,
        schema=_read_schema(run_dir, web) if carried else CANDIDATE_SCHEMA,
        storage_options=filesystem_options(store.url, store.options),
    )


def _open_set(run_dir: RunDir, round_: int, name: str, folders: Sequence[str]) -> VerdictSet | None:
    """The description of a named set that belongs to the present candidates; None for the verdicts of the
    run."""
    if name == DEFAULT_VERDICTS:
        return None
    found = open_set(run_dir.store, name, round_)
    records = (record for folder in folders for record in run_dir.ledger.records(folder))
    check_current(run_dir.store, found, [each for each in records if isinstance(each, CandidatesRecord)])
    return found


def _read_schema(run_dir: RunDir, folders: Sequence[str]) -> pa.Schema:
    """Columns of the candidates, those that a source carries among them; read from a shard of each source."""
    schema = CANDIDATE_SCHEMA
    for folder in folders:
        record = next(run_dir.ledger.records(folder), None)
        for file in () if record is None else record.files:
            own = pq.read_schema(io.BytesIO(run_dir.store.read(f"{folder}/{file.name}"))).remove_metadata()
            schema = pa.unify_schemas([schema, own], promote_options="permissive")
    return schema


def _verdict_files(run_dir: RunDir, found: VerdictSet | None) -> list[str]:
    """Addresses of the files of a set."""
    if found is None:
        return []
    return [
        run_dir.store.address(verdicts_shard(found.name, found.round, source, shard).parquet)
        for source in run_dir.config.of_kind("web")
        for shard in run_dir.ledger.committed_shards(verdicts_folder(found.name, found.round, source))
    ]


def _parquet_files(run_dir: RunDir, folders: Sequence[str]) -> list[str]:
    """Addresses of the Parquet files that the commit records in these folders name."""
    return [
        run_dir.store.address(f"{folder}/{file.name}")
        for folder in folders
        for record in run_dir.ledger.records(folder)
        for file in record.files
        if file.name.endswith(".parquet")
    ]
