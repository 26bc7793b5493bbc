"""Kept pairs by license, where the rows brought one."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from capfilt.pipeline.rundir.contents.round_files import find_round_files
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.storage.sql import open_database, open_parquet

LICENSE_NAME = re.compile(r"licen[cs]e", re.IGNORECASE)
"""A carried column with this in its name holds licenses."""
MOST_LICENSES = 50
"""Licenses of a column that a card lists."""


@dataclass(frozen=True)
class LicenseTable:
    """Kept texts of a round by the values of one column."""

    column: str
    rows: list[tuple[str | None, int, int]]
    """(license, images with a kept text, kept texts), most texts first; None: the row brought none."""
    others: int
    """Licenses that are not listed."""


def count_licenses(run_dir: RunDir, round_: int) -> list[LicenseTable]:
    """One table for each carried column that holds licenses; [] if there is none."""
    files = find_round_files(run_dir, round_, carried=True)
    columns = [
        field.name
        for field in files.schema
        if field.name not in CANDIDATE_SCHEMA.names
        and LICENSE_NAME.search(field.name)
        and (pa.types.is_string(field.type) or pa.types.is_large_string(field.type))
    ]
    if not columns:
        return []
    tables = []
    with open_database() as database:
        candidates = open_parquet(files.candidates, files.schema, files.storage_options)
        database.register("candidates", candidates)
        for column in columns:
            name = '"' + column.replace('"', '""') + '"'
            database.execute(
                f"CREATE OR REPLACE TABLE licenses AS SELECT {name} AS license, "
                "count(DISTINCT (source, key)) AS images, count(*) AS texts "
                f"FROM candidates WHERE kept GROUP BY {name}"
            )
            (total,) = database.execute("SELECT count(*) FROM licenses").fetchall()[0]
            rows = database.execute(
                f"SELECT * FROM licenses ORDER BY texts DESC, license LIMIT {MOST_LICENSES}"
            ).fetchall()
            tables.append(LicenseTable(column, rows, total - len(rows)))
    return tables
