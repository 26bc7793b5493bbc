"""Bring tables of ablations into docs/results.md: `python docs/results.py FOLDER…`.

Each folder is the run.dir of a `capfilt ablate`. Its tables replace those of the same folder on the page; all
others stay, since some take hours. Every figure comes from a `tables/*.parquet`.
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

MISSING = "Not measured"
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
    "long-tail": """\
Tables with one seed show large differences only: one seed deviates by 1 to 4 points from the mean in the
tables with three. They were made on several machines, whose arithmetic differs, so that rows of the same
settings and seed differ, too (*none* of seed 0: ITC TR@1 20.2 and 21.0). What they say: a threshold of 0.2
or 0.3 is best; the paper's 0.5, at which the filter drops most texts with rare words, loses 14 points of
ITC TR@1; 0.05, which keeps most of the noise, loses 28. A top share by ITC similarity is far behind the ITM
head. More rounds help. More texts per image, ensembles, web pairs in the captioner's finetuning and other
mixtures gain nothing, and which layers are shared makes no difference that one seed could show. All texts
have one sentence, so that the last row of the mixtures is the first one.
""",
    "clipart-0": """\
Real pictures with texts of people (`configs/clipart.yaml`); no, 20 or 40 % of the texts are swapped,
beside what is wrong in Open Clip Art itself. One test image is 0.7 points, as much as retrieval by
chance, and there is one seed: differences of a few points say nothing. The image encoder has only seen
colored shapes and learns too little here: at 20 and 40 % the filter finds the noise with an AUC of 0.56
and 0.53, it drops nine of ten web texts, and every model retrieves 1 to 7 %. The tables decide nothing
either way; they would need an image encoder that knows pictures, which no package registry has.
""",
}
"""What is to be said of the tables of a folder, by its name."""

PLACES = re.compile(r" --set [\w.]+=data/\S+")
"""Options of a command that only say where the corpus is: the figures do not depend on it."""


Sections = dict[str, dict[str, str]]
"""{folder: {title of a table: its section}}"""


def render_page(folders: Sequence[str], page: str = "") -> str:
    """A page with its tables and those of the folders; a table that is nowhere is named with its command."""
    sections = read_sections(page)
    for folder in folders:
        summaries = load_summaries(Store(folder))
        if not summaries:
            raise SystemExit(f"error: {folder}: has no tables; make them with capfilt ablate")
        of_folder = sections.setdefault(Path(folder).name, {})
        of_folder |= {each.table.title: PLACES.sub("", render_summary(each)) for each in summaries}
    parts = [INTRODUCTION]
    for folder, tables in sections.items():
        parts += [f"## {folder}\n", *([NOTES[folder]] if folder in NOTES else [])]
        parts += [tables[table.title] for table in TABLES.values() if table.title in tables]
    found = {title for tables in sections.values() for title in tables}
    missing = [name for name, table in TABLES.items() if table.title not in found]
    if missing:
        lines = [f"* {TABLES[name].title}: `{COMMAND} --table {name}`" for name in missing]
        parts += [f"## {MISSING}\n", "\n".join(lines) + "\n"]
    return "\n".join(parts)


def read_sections(page: str) -> Sections:
    """The tables of a page."""
    sections: Sections = {}
    for block in page.split("\n## ")[1:]:
        folder, *tables = block.split("\n### ")
        name = folder.partition("\n")[0]
        if name != MISSING:
            sections[name] = {each.partition("\n")[0]: f"### {each.strip()}\n" for each in tables}
    return sections


if __name__ == "__main__":
    path = ROOT / "docs/results.md"
    path.write_text(render_page(sys.argv[1:], path.read_text(encoding="utf-8")), encoding="utf-8")
