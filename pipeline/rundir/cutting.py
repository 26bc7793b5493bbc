"""Cuts a manifest into shards, and refuses to do so again for other rows than the run has already."""

from __future__ import annotations

import pyarrow.parquet as pq

from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.manifest.config import ManifestChanged, ManifestError
from capfilt.stages.manifest.index import Index, build_index, check_unchanged, read_shard
from capfilt.stages.shards.records import CommitRecord
from capfilt.stages.storage.layout import INDEX_RECORD, corpus_folder, index_folder
from capfilt.stages.storage.store import Store

COMPARED_SHARDS = 100
"""Shards, evenly spread, whose rows are compared with a manifest that is cut again."""
WAY_OUT = (
    "restore the manifest, or fetch it again with --fresh fetch, or use another run directory "
    "(--set run.dir=...)"
)


def cut_manifest(run_dir: RunDir, source: str) -> Index:
    """The index of a source's manifest, which is cut into shards if there is no index.

    An index that was damaged has been removed by `capfilt verify --repair`. If the manifest has changed too,
    shards that exist would get the numbers of other rows, so the new index must fit them.

    Raises:
        ManifestError: as in `build_index`, or shards of the run have other rows than the manifest has now.
    """
    folder = run_dir.store / index_folder(source)
    is_new = not folder.exists(INDEX_RECORD)
    index = build_index(run_dir.config.sources[source].rows, folder, source=source)
    if is_new and (shard := _find_other_shard(run_dir, source, index)) is not None:
        folder.remove_file(INDEX_RECORD)
        raise ManifestError(
            f"sources.{source}.rows.manifest: shard {shard} of this run has other rows than the manifest has "
            f"now, and the index by which it was cut is gone; {WAY_OUT}"
        )
    return index


def check_can_be_cut(run_dir: RunDir, source: str) -> None:
    """Check that a manifest whose index is to be removed is still the one that was cut, where that is known.

    Raises:
        ManifestError: it has changed; the index would be cut for other rows.
    """
    section = f"sources.{source}.rows"
    folder = run_dir.store / index_folder(source)
    try:
        check_unchanged(run_dir.config.sources[source].rows, folder, section)
    except ManifestChanged as error:
        raise ManifestError(
            f"{section}.manifest: the index of this source is damaged, and the manifest has changed, so that "
            f"it cannot be cut again; {WAY_OUT}"
        ) from error
    except ManifestError:  # the index does not say what it was cut from; the next run compares the rows
        return


def _find_other_shard(run_dir: RunDir, source: str, index: Index) -> int | None:
    """The first of the compared shards whose rows are not those of the index."""
    corpus = run_dir.store / corpus_folder(source)
    folder = run_dir.store / index_folder(source)
    records = list(run_dir.ledger.records(corpus_folder(source)))
    for record in records[:: max(1, len(records) // COMPARED_SHARDS)]:
        if record.shard >= index.shards:
            return record.shard
        cut = read_shard(folder, record.shard)
        if cut["tar"].null_count == cut.num_rows and cut["url"].to_pylist() != _urls(corpus, record):
            return record.shard
    return None


def _urls(corpus: Store, record: CommitRecord) -> list[str | None]:
    """The urls of a shard's rows."""
    name = next(file.name for file in record.files if file.name.endswith(".parquet"))
    with corpus.fs.open(corpus.path(name), "rb") as stream:
        return list(pq.read_table(stream, columns=["url"])["url"].to_pylist())
