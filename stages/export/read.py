"""Reads the pairs of a shard that are exported: kept candidates of a web source, texts of a human one."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.export.config import HUMAN, TEXT_COLUMNS, WEIGHT, ExportConfig, is_per_text
from capfilt.stages.pairs.texts import TextsConfig, weigh_texts
from capfilt.stages.shards.attempts import listed_file
from capfilt.stages.shards.commit import read_commit
from capfilt.stages.shards.records import CandidatesRecord
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.sets import read_kept


def read_pairs(config: ExportConfig, source: str, shard: int) -> tuple[pa.Table, int]:
    """The pairs of a shard, and the number of images that it has.

    Returns:
        Pairs (`config.pair_schema`), those of an image side by side; and the stored images of the shard, with
        and without a pair.
    """
    if config.kinds[source] == "human":
        rows = _read_human(config, source, shard)
    else:
        rows = _read_kept(config, source, shard)
    pairs, images = rows
    if config.texts is not None:
        pairs = pairs.append_column(WEIGHT, pa.array(_weights(pairs, config.texts), pa.float64()))
    columns = [_column(pairs, each) for each in config.pair_schema]
    return pa.Table.from_arrays(columns, schema=config.pair_schema), images


def read_verdicts(config: ExportConfig, source: str, shard: int, columns: Sequence[str]) -> pa.Table:
    """The candidates of a shard with these columns, and the verdicts that decide about them in `kept`.

    Every reader of verdicts in an export goes through this function.
    """
    place = candidates_shard(config.round, source, shard)
    record = read_commit(config.run_dir, place.record)
    assert isinstance(record, CandidatesRecord), "the folder holds candidates"
    path = listed_file(place, record, "parquet")
    candidates = _read_columns(config.run_dir, path, [*columns, "kept"])
    kept = read_kept(config.run_dir, config.verdicts, record, candidates)
    return candidates.set_column(candidates.schema.get_field_index("kept"), "kept", kept)


def _read_kept(config: ExportConfig, source: str, shard: int) -> tuple[pa.Table, int]:
    candidates = read_verdicts(config, source, shard, config.pair_schema.names)
    images = pc.count_distinct(candidates["key"]).as_py()
    wanted = pc.is_in(candidates["origin"], pa.array(config.origins, pa.string()))
    kept = candidates.filter(pc.and_(pc.fill_null(candidates["kept"], False), wanted))
    missing = [name for name in config.columns.names if name not in kept.column_names]
    if missing:
        rows = _read_columns(config.run_dir, corpus_shard(source, shard).parquet, ["key", *missing])
        places = pc.index_in(kept["key"], value_set=rows["key"].combine_chunks())
        for name in rows.column_names[1:]:
            kept = kept.append_column(name, rows[name].take(places))
    return kept, images


def _read_human(config: ExportConfig, source: str, shard: int) -> tuple[pa.Table, int]:
    path = corpus_shard(source, shard).parquet
    rows = _read_columns(config.run_dir, path, [*config.pair_schema.names, "texts", "status"])
    rows = rows.filter(pc.equal(rows["status"], SUCCESS))
    rows = rows.filter(pc.is_valid(rows["texts"])).combine_chunks()
    images, texts = rows.num_rows, rows["texts"].combine_chunks()
    parents = pc.list_parent_indices(texts)
    lengths = pc.list_value_length(texts).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if images else np.zeros(0, np.int64)
    numbers = np.arange(len(parents)) - starts[parents.to_numpy()]
    pairs = rows.drop_columns(["texts", "status"]).take(parents)
    pairs = pairs.append_column("text", pc.list_flatten(texts))
    pairs = pairs.append_column("caption_index", pa.array(numbers, pa.int32()))
    pairs = pairs.append_column("origin", pa.array([HUMAN] * len(numbers), pa.string()))
    has_words = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(pairs["text"])), 0)
    return pairs.filter(pc.fill_null(has_words, False)), images


def group_by_image(pairs: pa.Table) -> pa.Table:
    """One row per image: columns that can differ between its texts become lists, some with another name
    (`TEXT_COLUMNS`)."""
    pairs = pairs.combine_chunks()
    keys = pairs["key"].to_numpy(zero_copy_only=False)
    is_first = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, bool)
    starts = np.flatnonzero(is_first)
    offsets = pa.array(np.append(starts, len(keys)), pa.int32())
    columns = {}
    for name in pairs.column_names:
        values = pairs[name].combine_chunks() if pairs.num_rows else pa.array([], pairs[name].type)
        if is_per_text(name):
            columns[TEXT_COLUMNS.get(name, name)] = pa.ListArray.from_arrays(offsets, values)
        else:
            columns[name] = values.take(pa.array(starts))
    return pa.table(columns)


def _weights(pairs: pa.Table, texts: TextsConfig) -> list[float]:
    """How often a training sees each pair in an average epoch; the pairs of an image are neighbors."""
    weights: list[float] = []
    rows = zip(pairs["key"].to_pylist(), pairs["origin"].to_pylist(), strict=True)
    for _, group in groupby(rows, key=itemgetter(0)):
        weights += weigh_texts([origin for _, origin in group], texts.weights, texts.per_image)
    return weights


def count_origins(pairs: pa.Table) -> dict[str, int]:
    """{origin: pairs}."""
    counts = pc.value_counts(pairs["origin"]).to_pylist()
    return {each["values"]: each["counts"] for each in sorted(counts, key=lambda each: each["values"])}


def _column(table: pa.Table, field: pa.Field) -> pa.Array:
    """A column of the table as the field says; nulls where the table has none."""
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    return table[field.name].cast(field.type)


def _read_columns(store: Store, path: str, names: Iterable[str]) -> pa.Table:
    """These columns of a Parquet file; names that it lacks are left out."""
    with pq.ParquetFile(io.BytesIO(store.read(path))) as file:
        present = set(file.schema_arrow.names)
        return file.read([name for name in dict.fromkeys(names) if name in present])
