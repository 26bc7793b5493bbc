"""What an export consists of: its form, the columns of a pair, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from capfilt.stages.export.forms import Form, Origin
from capfilt.stages.pairs.texts import TextsConfig
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.shards.write import IMAGE_COLUMNS
from capfilt.stages.storage.layout import DEFAULT_VERDICTS
from capfilt.stages.storage.store import Store

SUFFIXES: dict[Form, str] = {
    "webdataset": "tar",
    "open_clip": "tar",
    "hf": "parquet",
    "parquet": "parquet",
    "datacomp-uids": "parquet",
    "blip-json": "json",
}
"""Endings of the files of a form. Those of `datacomp-uids` are parts of one list."""
WITH_IMAGES: tuple[Form, ...] = ("webdataset", "open_clip", "hf")
"""Forms that hold the images; the others hold texts only."""

PAIR_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("origin", pa.string()),
        ("caption_index", pa.int32()),
        ("itm_prob", pa.float32()),
        ("itc_sim", pa.float32()),
        ("captioner", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("phash", pa.string()),
    ]
)
"""Columns of an exported pair, before those that the user asks for. The pairs of an image are neighbors."""

WEIGHT = "text_weight"
"""Column with the weights of `pretrain.texts`: how often a training sees the text in an average epoch."""
WITH_WEIGHTS: tuple[Form, ...] = ("webdataset", "open_clip", "hf", "parquet")
"""Forms that have a place for weights."""
HUMAN = "human"
"""`origin` of a text that came with a human pair."""

TEXT_COLUMNS = {
    "text": "texts",
    "origin": "origins",
    "caption_index": "caption_indexes",
    "itm_prob": "itm_probs",
    "itc_sim": "itc_sims",
    "captioner": "captioners",
    WEIGHT: "text_weights",
}
"""Columns that differ between the texts of an image → their names where an image is one row."""


def is_per_text(column: str) -> bool:
    """Whether a column can differ between the texts of an image."""
    is_candidate_column = column in CANDIDATE_SCHEMA.names and column not in (*IMAGE_COLUMNS, "round")
    return column in TEXT_COLUMNS or is_candidate_column


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """An export, as the processes that write its shards need it."""

    run_dir: Store
    """The run directory."""
    out: Store
    """The folder of the export."""
    form: Form
    round: int
    """Round whose verdicts decide."""
    verdicts: str = DEFAULT_VERDICTS
    """Name of the set of verdicts that decides."""
    kinds: Mapping[str, Literal["human", "web"]]
    """{source: its kind} of the sources that are exported."""
    origins: tuple[Origin, ...] = ("web", "synthetic")
    """Origins of the candidates that are exported."""
    first_numbers: Mapping[str, int] = field(default_factory=dict)
    """{source: number of the exported shard that is made of its shard 0}."""
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Further columns of a pair, of the candidates or of the corpus."""
    uid_columns: Mapping[str, str] = field(default_factory=dict)
    """{source: column with the user's ids}; for `datacomp-uids`."""
    places: Mapping[str, str] = field(default_factory=dict)
    """{source: folder or web address to which its relative urls are joined}; for `blip-json`."""
    texts: TextsConfig | None = None
    """What the column of weights is made from; None: there is no such column."""
    fingerprint: str = ""
    """Hash of everything that determines the export."""

    @property
    def pair_schema(self) -> pa.Schema:
        """All columns of an exported pair."""
        weight = [] if self.texts is None else [pa.field(WEIGHT, pa.float64())]
        return pa.schema([*PAIR_SCHEMA, *weight, *self.columns])
