"""Which columns an export can have beside those that every pair has."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.errors import UserError
from capfilt.stages.export.config import PAIR_SCHEMA, TEXT_COLUMNS
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store

NOT_EXPORTED = ("texts", "caption", "status", "error_message", "kept", "version", "shard", "round")
"""Columns that say nothing about an exported pair, or that it has under another name."""


class ColumnsError(UserError):
    """A column that an export cannot have."""


def available_columns(run_dir: Store, source: str, kind: str, round_: int) -> pa.Schema:
    """The columns of a source that an export can have; all shards of a source have the same."""
    fields: dict[str, pa.Field] = {}
    files = [candidates_shard(round_, source, 0).parquet] if kind == "web" else []
    for file in [*files, corpus_shard(source, 0).parquet]:
        if (data := run_dir.find(file)) is None:
            continue  # a source without shards
        for field in pq.read_schema(io.BytesIO(data)):
            fields.setdefault(field.name, field.remove_metadata())
    return pa.schema([field for name, field in fields.items() if name not in NOT_EXPORTED])


def choose_columns(available: Mapping[str, pa.Schema], wanted: Sequence[str] | None) -> pa.Schema:
    """The further columns of an export.

    Args:
        available: {source: its columns}.
        wanted: names; None: the columns that the user's own rows have brought.

    Raises:
        ColumnsError: no source has a column, or sources have it with different types.
    """
    names = list(dict.fromkeys(name for schema in available.values() for name in schema.names))
    if wanted is None:
        ours = {*CORPUS_SCHEMA.names, *CANDIDATE_SCHEMA.names}
        wanted = [name for name in names if name not in ours]
    fields = []
    for name in dict.fromkeys(wanted):
        if name in PAIR_SCHEMA.names:
            continue
        if name not in names:
            folded = {each.lower(): each for each in names}
            close = get_close_matches(name.lower(), folded, 1)
            hint = f" (did you mean {folded[close[0]]}?)" if close else ""
            further = ", ".join(n for n in names if n not in PAIR_SCHEMA.names)
            raise ColumnsError(f"--columns {name}: the run has no such column{hint}; it has {further}")
        fields.append(pa.field(name, _common_type(name, available)))
    return pa.schema(fields)


def _common_type(name: str, available: Mapping[str, pa.Schema]) -> pa.DataType:
    if name in ("image", *TEXT_COLUMNS.values()):
        raise ColumnsError(f"--columns: {name} is a name of the export itself; leave this column out")
    types = {s: schema.field(name).type for s, schema in available.items() if name in schema.names}
    if len(set(types.values())) > 1:
        kinds = ", ".join(f"{type_} in {source}" for source, type_ in types.items())
        others = "name the columns you need with --columns"
        raise ColumnsError(f"--columns: {name} is {kinds}, and cannot be one column; {others}")
    return next(iter(types.values()))
