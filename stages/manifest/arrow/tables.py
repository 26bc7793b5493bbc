"""Tables, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa


def join_equal(tables: Iterable[pa.Table], least_bytes: int) -> Iterator[tuple[pa.Table, int]]:
    """Consecutive tables of equally many rows as one, with that number, until they have `least_bytes`."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        if held and table.num_rows != held[0].num_rows:
            yield pa.concat_tables(held), held[0].num_rows
            held, size = [], 0
        held.append(table)
        size += table.nbytes
        del table  # not in memory while the next one is made
        if size >= least_bytes:  # at once, as the next one may be large, too
            yield pa.concat_tables(held), held[0].num_rows
            held, size = [], 0
    if held:
        yield pa.concat_tables(held), held[0].num_rows
