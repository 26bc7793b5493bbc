"""What a table compares: rows, each a model of a variant, and a variant is a base config with some keys set.

Variants of one seed share every node that these keys do not reach (`pipeline.rundir.takeover`), so a table
costs what its rows differ in. All models of a table are pretrained with the settings of `pretrain`; where
these have `steps`, for equally many steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from capfilt.pipeline.report.formats.values import metric_label

WEB, SHAPES_DIR = "{web}", "{shapes_dir}"
"""In an override: the name of each web source in turn, and the folder of the corpus of shapes."""


@dataclass(frozen=True)
class Variant:
    """A base config with some keys set."""

    name: str
    """Part of the name of its run directory; empty for `seed-N` itself."""
    overrides: tuple[str, ...] = ()
    """As for `--set`; one with `WEB` in it stands for one override for each web source."""
    only_shapes: bool = False
    """Whether only the corpus of shapes has what the variant needs; with other data its rows are left out."""


@dataclass(frozen=True)
class PaperScores:
    """What the BLIP paper reports for a row: on COCO, finetuned, pretrained on 14 M images; percent."""

    tr: float
    """TR@1."""
    ir: float
    """IR@1."""
    cider: float
    noise: float | None = None
    """Noise ratio of the synthetic texts."""


@dataclass(frozen=True)
class TableRow:
    """A model that a variant has pretrained."""

    label: str
    variant: Variant
    model: str = "pretrain.1"
    round: int = 1
    """The round whose report has the scores of the model."""
    paper: PaperScores | None = None
    noise: bool = True
    """Whether the noise ratios and the share of kept texts of the round belong to the row: not to a model
    that is pretrained on other texts."""


@dataclass(frozen=True)
class AblationTable:
    """The rows of a table, and the one that all others are compared with."""

    title: str
    question: str
    """What is compared, and what the paper found."""
    reference: str
    """Label of a row."""
    rows: tuple[TableRow, ...]

    @property
    def variants(self) -> list[Variant]:
        """The variants of the rows, each once."""
        return list(dict.fromkeys(row.variant for row in self.rows))


NOTHING = PaperScores(78.4, 60.7, 127.8)
CAPFILT = PaperScores(80.6, 63.1, 129.7, noise=25)
SCORE_COLUMNS = ("itc_tr@1", "itc_ir@1", "tr@1", "ir@1", "cider")
"""Metrics of a model that a table shows, over all test images and for each test source."""
TEXT_COLUMNS = ("noise_web", "noise_synthetic", "kept", "pairs")
"""Figures about the texts of a row."""


def row_without_bootstrap(variant: Variant) -> TableRow:
    """The row of MED 0: human pairs and web texts as they came."""
    return TableRow("none", variant, "pretrain.0", paper=NOTHING, noise=False)


def column_label(metric: str) -> str:
    """A metric as the terminal heads its column: "rare itc_tr@1" → "itc tr@1"."""
    return metric.rpartition(" ")[2].replace("_", " ")


def column_title(metric: str) -> str:
    """A metric as pages head its column: "rare itc_tr@1" → "ITC TR@1", "noise_web" → "noise web"."""
    name = metric.rpartition(" ")[2]
    return column_label(name) if name in TEXT_COLUMNS else metric_label(name)
