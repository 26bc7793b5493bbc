"""Finds ids of rows that are missing or double, exactly and with bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.dataset as ds

from capfilt.stages.carried.fields import ColumnsError
from capfilt.stages.rows import CARRIED
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.sql import open_database

SHOWN = 3
"""Ids in the message."""


def check_ids(files: Sequence[str], name: str, key: str, options: Mapping[str, Any] | None = None) -> None:
    """Check that every row of an index has an id, and no two rows the same one.

    The ids are counted by a hash of 128 bits, 16 bytes an id, in DuckDB, which spills to disk beyond its
    memory limit.

    Args:
        files: addresses of the index's Parquet files.
        name: the carried column with the ids.
        key: dotted path of the config key, for the message.
        options: fsspec options of the files.

    Raises:
        ColumnsError: ids are missing or double; the message counts them and shows some.
    """
    fs, _ = open_filesystem(files[0], options)
    dataset = ds.dataset([fs._strip_protocol(file) for file in files], filesystem=fs, format="parquet")
    column = {"id": ds.field(CARRIED, name)}
    is_row = ds.field("tar").is_null()  # the rows of an image tar are unknown until it is read
    with open_database() as sql:
        sql.register("ids", dataset.scanner(columns=column, filter=is_row).to_reader())
        sql.execute(
            "CREATE TABLE hashes AS SELECT CASE WHEN trim(id::VARCHAR) <> '' "
            "THEN md5_number(id::VARCHAR) END AS hash FROM ids"
        )
        (missing,) = sql.execute("SELECT count(*) FROM hashes WHERE hash IS NULL").fetchone() or (0,)
        sql.execute(
            "CREATE TABLE doubles AS SELECT hash, count(*) AS n FROM hashes WHERE hash IS NOT NULL "
            "GROUP BY hash HAVING n > 1"
        )
        double, rows = sql.execute("SELECT count(*), coalesce(sum(n), 0) FROM doubles").fetchone() or (0, 0)
        if not missing and not double:
            return
        sql.register("ids", dataset.scanner(columns=column, filter=is_row).to_reader())
        shown = sql.execute(
            "SELECT any_value(id::VARCHAR) AS id FROM ids JOIN doubles ON md5_number(id::VARCHAR) = hash "
            f"GROUP BY hash ORDER BY id LIMIT {SHOWN}"
        ).fetchall()
    problems = []
    if double:
        examples = ", ".join(repr(id_[:60]) for (id_,) in shown)
        problems.append(f"{double:,} ids are on {rows:,} rows, such as {examples}")
    if missing:
        problems.append(f"{missing:,} rows have none")
    raise ColumnsError(
        f"{key}: {name!r} is no id of the rows: {'; '.join(problems)}; give every row its own, or remove the "
        "key (keep_columns carries the column without this check)"
    )
