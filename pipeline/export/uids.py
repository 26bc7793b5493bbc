"""The uids of an export for DataComp: where they are, whether they can be used, and the sorted list."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.carried.fields import output_name
from capfilt.stages.errors import UserError
from capfilt.stages.export.tables import UID_SCHEMA
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.filesystems import filesystem_options
from capfilt.stages.storage.layout import corpus_folder, corpus_shard, exported_shard
from capfilt.stages.storage.sql import open_database, open_parquet
from capfilt.stages.storage.store import FileEntry, Store

UID_FILE = "uids.npy"
UID_COLUMN = "uid"
"""Column with the user's ids, unless the config names another."""
UID_DTYPE = np.dtype("u8,u8")
"""How DataComp's tools read uids."""
ROWS = 1 << 20
"""Uids that are written at a time."""


class UidError(UserError):
    """The rows of a run have no uids with which a subset of DataComp can be named."""


def uid_columns(run_dir: RunDir, available: Mapping[str, pa.Schema]) -> dict[str, str]:
    """{source: its column with the user's ids}.

    Args:
        available: {source: its columns}.

    Raises:
        UidError: a source has none.
    """
    columns = {}
    for source, schema in available.items():
        rows = run_dir.config.sources[source].rows
        name = UID_COLUMN if rows.id_column is None else output_name(rows, rows.id_column)
        if name not in schema.names:
            raise UidError(
                f"datacomp-uids: source {source} has no column {name}; the list needs the uids of the pool, "
                "so keep that column of the manifest when you make the run"
            )
        if not (
            pa.types.is_string(schema.field(name).type) or pa.types.is_large_string(schema.field(name).type)
        ):
            raise UidError(
                f"datacomp-uids: column {name} of source {source} is {schema.field(name).type}; allowed: "
                "text of 32 hex digits, as DataComp's uids are"
            )
        columns[source] = name
    return columns


def check_uids(run_dir: RunDir, columns: Mapping[str, str]) -> None:
    """Check that every stored image has a uid of DataComp, and no two the same.

    Raises:
        UidError: the first that has not.
    """
    tables = []
    with open_database() as database:
        for number, (source, name) in enumerate(columns.items()):
            shards = run_dir.ledger.committed_shards(corpus_folder(source))
            files = [run_dir.store.address(corpus_shard(source, shard).parquet) for shard in shards]
            schema = pa.schema([(n, pa.string()) for n in ("source", "key", "status", name)])
            options = filesystem_options(run_dir.store.url, run_dir.store.options)
            database.register(f"rows{number}", open_parquet(files, schema, options))
            quoted = '"' + name.replace('"', '""') + '"'
            tables.append(
                f"SELECT source, key, lower({quoted}) AS uid FROM rows{number} WHERE status = '{SUCCESS}'"
            )
        rows = " UNION ALL ".join(tables)
        valid = "regexp_full_match(uid, '[0-9a-f]{32}')"
        bad = database.sql(f"SELECT * FROM ({rows}) WHERE uid IS NULL OR NOT {valid} LIMIT 1").fetchone()
        if bad is not None:
            raise UidError(
                f"datacomp-uids: image {bad[0]}/{bad[1]} has the uid {bad[2]!r}; allowed: 32 hex digits, as "
                "in DataComp's metadata"
            )
        double = database.sql(
            f"SELECT uid, count(*), min(source || '/' || key), max(source || '/' || key) FROM ({rows}) "
            "GROUP BY 1 HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        if double is not None:
            raise UidError(
                f"datacomp-uids: {double[1]} images have the uid {double[0]} ({double[2]}, {double[3]}); no "
                "two may be the same"
            )


def write_uid_list(out: Store, numbers: Iterable[int], count: int) -> FileEntry:
    """Write the sorted uids of the exported shards to `uids.npy`; returns the entry of the file.

    Args:
        numbers: of the exported shards.
        count: uids in them.
    """
    files = [out.address(exported_shard(number).parquet) for number in numbers]
    parts = open_parquet(files, UID_SCHEMA, filesystem_options(out.url, out.options))
    descriptor, path = tempfile.mkstemp(prefix="capfilt-uids-")
    try:
        with os.fdopen(descriptor, "wb") as stream, open_database() as database:
            header = {"descr": np.lib.format.dtype_to_descr(UID_DTYPE), "fortran_order": False}
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": (count,)})
            database.register("parts", parts)
            found = database.sql("SELECT high, low FROM parts ORDER BY high, low").to_arrow_reader(ROWS)
            for batch in found:
                rows = np.empty(batch.num_rows, UID_DTYPE)
                rows["f0"], rows["f1"] = (batch.column(i).to_numpy() for i in (0, 1))
                stream.write(rows.tobytes())
        return out.put_file(UID_FILE, path)
    finally:
        os.unlink(path)
