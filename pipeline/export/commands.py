"""The command that trains on an export or loads it, for each form."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from capfilt.pipeline.console.commands import duckdb_command
from capfilt.pipeline.export.finish import CARD_FILE, CROISSANT_FILE, SIZES_FILE
from capfilt.pipeline.export.target import ExportSummary
from capfilt.stages.export.config import HUMAN
from capfilt.stages.storage.layout import EXPORT_DATA, shard_digits
from capfilt.stages.storage.store import Store

WORKERS = 4
"""Processes that read for open_clip, unless there are fewer shards."""
FEW_FILES = 4
"""BLIP's config lists this many files; more are read from their folder."""


def next_commands(out: Store, summary: ExportSummary) -> Iterator[tuple[str, str]]:
    """(label, command or setting) to use an export with."""
    beside = (SIZES_FILE, CARD_FILE, CROISSANT_FILE)
    shards = len([file for file in summary.files if file.name not in beside])
    data = f"{out.url.rstrip('/')}/{EXPORT_DATA}"
    match summary.form:
        case "webdataset":
            code = (
                f"import webdataset as wds; sample = next(iter(wds.WebDataset({tar_pattern(data, shards)!r}, "
                "shardshuffle=False).decode('pil'))); print(sample['txt'], sample['json'])"
            )
            yield "load", f"python -c {shlex.quote(code)}"
        case "open_clip":
            yield from _open_clip(data, shards, summary)
        case "hf":
            yield "load", f"python -c {shlex.quote(_load_dataset(out, data))}"
        case "parquet":
            query = f"SELECT origin, count(*) FROM '{data}/*.parquet' GROUP BY 1"
            yield "look", duckdb_command(query)
        case "datacomp-uids":
            uids = shlex.quote(f"{out.url.rstrip('/')}/uids.npy")
            yield "use", f"python resharder.py -i POOL_SHARDS -o SUBSET_SHARDS -s {uids}"
        case "blip-json":
            files = [f"{data}/{shard_digits(number)}.json" for number in range(shards)]
            if shards <= FEW_FILES:
                yield "Pretrain.yaml", f"train_file: {files}"
            else:
                yield "Pretrain.yaml", f"train_file: [{files[0]!r}], laion_path: {data!r}"


def tar_pattern(data: str, shards: int) -> str:
    """The tars of an export as WebDataset names them: `data/{000000..000012}.tar`."""
    last = shard_digits(shards - 1)
    place = data if "://" not in data else f"pipe:aws s3 cp {data}" if data.startswith("s3://") else data
    pattern = f"{place}/{{{shard_digits(0)}..{last}}}.tar"
    return f"{pattern} -" if place.startswith("pipe:") else pattern


def caption_options(summary: ExportSummary) -> list[str]:
    """Options of open_clip 4 that draw one of an image's texts at each step.

    The probabilities are those of `pretrain.texts`; without weights there all are equal. open_clip divides
    them among the keys that an image has, so those of human texts matter to no other image.
    """
    texts = summary.inputs.get("texts", {})
    keys, probabilities = [], []
    for origin, most in summary.most.items():
        keys += [f"{origin}_{number}" for number in range(most)]
        weight = 1 if origin == HUMAN else texts.get(origin, 1)
        share = weight / most if texts.get("per_image") == "one" else weight
        probabilities += [f"{share:g}"] * most
    return ["--json-text-key", ";".join(keys), "--json-text-key-probs", *probabilities]


def _open_clip(data: str, shards: int, summary: ExportSummary) -> Iterator[tuple[str, str]]:
    words = ["python", "-m", "open_clip_train.main", "--dataset-type", "webdataset"]
    words += ["--train-data", tar_pattern(data, shards), "--train-num-samples", str(summary.images)]
    words += ["--workers", str(min(WORKERS, shards)), "--model", "ViT-B-32", "--batch-size", "256"]
    yield "train", shlex.join(words)
    if sum(summary.most.values()) > 1:
        yield (
            "all texts",
            f"{shlex.join(caption_options(summary))}  (open_clip 4; earlier versions read .txt)",
        )


def _load_dataset(out: Store, data: str) -> str:
    place = out.url.rstrip("/")
    files = (
        f"'parquet', data_files='{data}/*.parquet', split='train'"
        if "://" in place
        else f"{place!r}, split='train'"
    )
    return f"from datasets import load_dataset; print(load_dataset({files})[0])"
