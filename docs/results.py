"""Write docs/results.md from the tables of ablations: `python docs/results.py FOLDER…`.

Each folder is the run.dir of a `capfilt ablate`. Every figure of the page comes from its `tables/*.parquet`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's own package, installed or not

from capfilt.pipeline.ablation.markdown import render_summary  # noqa: E402
from capfilt.pipeline.ablation.page import load_summaries  # noqa: E402
from capfilt.pipeline.ablation.tables import TABLES  # noqa: E402
from capfilt.stages.storage.store import Store  # noqa: E402

COMMAND = "capfilt ablate configs/long-tail.yaml"
INTRODUCTION = """\
# Results

<!-- Written by docs/results.py; do not edit. -->

What the tables of `capfilt ablate` show; [ablation.md](ablation.md) says what each row is. Figures are the
mean over the seeds ± the standard deviation of one seed, in percent, on the held-out test images. ITC ranks
by the similarity of image and text features only. The last rows are differences within each seed: how far the
row in bold is ahead. Pairs are those of the pretraining. Noise is the share of texts of an origin that the
filter dropped, kept the share of all texts that it kept.
"""

NOTES = {
    "clipart-0": """\
Real pictures with texts of people (`configs/clipart.yaml`); no, 20 or 40 % of the texts are swapped,
beside what is wrong in Open Clip Art itself. One test image is 0.7 points, as much as retrieval by
chance, and there is one seed: differences of a few points say nothing. The image encoder has only seen
colored shapes and learns too little here: at 20 and 40 % the filter finds the noise with an AUC of 0.56
and 0.53, it drops nine of ten web texts, and every model retrieves 1 to 7 %. The tables decide nothing
either way; they would need an image encoder that knows pictures, which no package registry has.
""",
    "tables-quick": """\
The tables that no folder above has, as `make tables-quick` makes them (all tables: 20 minutes on 2 CPU
cores): 300 human and 1,000 web images, 80 steps. So short a pretraining knows next to nothing about the web:
human pairs only do better than all others, the filter cannot tell noise from matching texts, and the
threshold that is calibrated with it keeps every text. **These figures say that the tables can be made, and
nothing about the method.**
""",
}
"""What is to be said of the tables of a folder, by its name."""
SMALL_FORMS = ("tables-quick",)
"""Folders of which only the tables are shown that no folder before them has."""

PLACES = re.compile(r" --set [\w.]+=data/\S+")
"""Options of a command that only say where the corpus is: the figures do not depend on it."""


def render_page(folders: Sequence[str]) -> str:
    """The page of the tables in these folders; a table that none of them has is named with its command."""
    parts, found = [INTRODUCTION], set()
    for folder in folders:
        summaries = load_summaries(Store(folder))
        if not summaries:
            raise SystemExit(f"error: {folder}: has no tables; make them with capfilt ablate")
        if (name := Path(folder).name) in SMALL_FORMS:
            summaries = [summary for summary in summaries if summary.name not in found]
        parts.append(f"## {name}\n")
        parts += [NOTES[name]] if name in NOTES else []
        parts += [render_summary(summary) for summary in summaries]
        found |= {summary.name for summary in summaries}
    missing = [name for name in TABLES if name not in found]
    if missing:
        parts.append("## Not measured\n")
        parts.append(
            "\n".join(f"* {TABLES[name].title}: `{COMMAND} --table {name}`" for name in missing) + "\n"
        )
    return PLACES.sub("", "\n".join(parts))


if __name__ == "__main__":
    (ROOT / "docs/results.md").write_text(render_page(sys.argv[1:]), encoding="utf-8")
