"""A small sample of a manifest, cut into a few shards of different sizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import pyarrow as pa

from capfilt.pipeline.preflight.rows import size_of
from capfilt.stages.carried.values import ShardValues
from capfilt.stages.manifest.columns import ColumnReader
from capfilt.stages.manifest.cut import index_table
from capfilt.stages.manifest.files import ManifestFile
from capfilt.stages.manifest.records import read_rows
from capfilt.stages.manifest.row import ManifestRow

WHOLE_BYTES = 1 << 26
"""Up to this size of its files, a manifest is read whole; every row is equally likely to be drawn."""
DRAWN_FILES, FIRST_ROWS = 8, 20_000
"""Of a larger one, so many files are drawn, and rows from the first ones of each."""
SHARDS = (1, 1, 1, 1, 4, 4, 4)
"""Relative sizes of the shards that a sample is cut into. Different sizes tell the cost of a shard from that
of a row."""
TARS = 4
"""Image tars that are drawn; each is a shard."""

Change = Callable[[int, ManifestRow], ManifestRow]
"""Gives the row that takes the place of a drawn one, by its number."""


@dataclass(frozen=True)
class Sample:
    """Draws rows of a manifest; called like `stages.manifest.cut.iter_shards`, in whose place it stands.

    A manifest of image tars gives some of its tars.
    """

    rows: int
    seed: int = 0
    change: Change | None = None
    """Applied to every drawn row; None takes them as they are."""

    def __call__(
        self, reader: ColumnReader, files: Sequence[ManifestFile], section: str, values: ShardValues
    ) -> Iterator[pa.Table]:
        draw, config = random.Random(self.seed), reader.config
        rows = self._draw([file for file in files if file.format != "tar"], reader, section, draw)
        if self.change is not None:
            rows = [self.change(number, row) for number, row in enumerate(rows)]
        left = iter(rows)
        for size in shard_sizes(len(rows)):
            part = list(islice(left, size))
            for row in part:
                values.add(row.pop("carried", None)) if values.fields else None
            yield index_table(part, config, values)
        tars = [file for file in files if file.format == "tar"]
        for tar in sorted(draw.sample(tars, min(TARS, len(tars))), key=str):
            values.add(None)
            yield index_table([{"tar": tar.fs.unstrip_protocol(tar.path)}], config, values)

    def _draw(
        self, files: Sequence[ManifestFile], reader: ColumnReader, section: str, draw: random.Random
    ) -> list[ManifestRow]:
        """At most `rows` rows, each as likely as any other that is looked at."""
        limit: int | None = None
        if sum(map(size_of, files)) > WHOLE_BYTES:
            files, limit = draw.sample(list(files), min(DRAWN_FILES, len(files))), FIRST_ROWS
        drawn: list[ManifestRow] = []
        seen = 0
        for file in files:
            for row in islice(read_rows(file, reader.config, section, reader), limit):
                seen += 1
                # Reservoir sampling (Vitter's algorithm R).
                if len(drawn) < self.rows:
                    drawn.append(row)
                elif (place := draw.randrange(seen)) < self.rows:
                    drawn[place] = row
        draw.shuffle(drawn)
        return drawn


def shard_sizes(rows: int) -> list[int]:
    """Sizes of the shards of a sample: all of its rows, in shards as unequal as `SHARDS`; empty ones are left
    out."""
    edges = [round(rows * sum(SHARDS[:number]) / sum(SHARDS)) for number in range(len(SHARDS) + 1)]
    return [end - start for start, end in pairwise(edges) if end > start]
