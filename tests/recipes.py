"""The shipped recipes, and scaled-down copies: the same structure, small enough to train in a second on a
CPU."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from capfilt.pipeline.config.load import load_config
from capfilt.pipeline.config.schema import Config

FOLDER = Path(__file__).parent.parent / "configs/recipes"
RECIPES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@cache
def recipe(name: str) -> Config:
    """A shipped recipe, parsed."""
    return load_config(FOLDER / f"{name}.yaml")


def scaled_down(name: str, folder: Path) -> dict[str, Any]:
    """Config data of a scaled-down recipe, with its corpus and run directory in `folder`.

    Unchanged are the losses, schedules, augmentation, parts, prompts, token limits, the sources of each
    training and which blocks recompute activations. Smaller are the model (that of ViT-L is still the deeper
    one), the images (224 pixels become 32, 384 become 48), batch, queue, warm-up and corpora. Learning rates,
    momentum and dropout are those with which so small a model learns in ten steps.
    """
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    data["run"]["dir"] = str(folder / "run")
    data["shapes"] = {"human": 16, "web": 30, "test": 8, "noise": 0.5, "image_size": 64}
    data["shapes_dir"] = str(folder / "shapes")
    _shrink_fetch(data)
    for source in data["sources"].values():
        _shrink_source(source, folder / "shapes")
    _shrink_model(data["model"])
    for section, rate in (
        (data["pretrain"], 10),
        (data["captioner"]["finetune"], 200),
        (data["filter"]["finetune"], 300),
    ):
        _shrink_training(section, rate, data["model"]["med"]["vision"]["depth"])
    data["captioner"]["generate"]["sampling"]["max_new_tokens"] = 8
    data["evaluate"]["k"] = 4
    return data


def _shrink_fetch(section: dict[str, Any]) -> None:
    image = section["fetch"]["image"]
    section["fetch"] = {**section["fetch"], "image": {**image, "min_side": max(1, image["min_side"] // 8)}}


def _shrink_source(source: dict[str, Any], shapes: Path) -> None:
    split = shapes / source["kind"]
    file = "manifest.parquet" if source["kind"] == "web" else "annotations.json"
    source["rows"] = {"manifest": str(split / file), "shard_size": 30 // source.get("parts", 1)}
    source["images"] = str(split)
    if "fetch" in source:
        _shrink_fetch(source)


def _shrink_model(model: dict[str, Any]) -> None:
    model["vision_start"] = model["text_start"] = None  # start weights would have to be downloaded
    model["vocab_size"] = 200
    vision = model["med"]["vision"]
    vision |= {"image_size": 32, "patch_size": 8, "heads": 2}
    vision |= {"width": vision["width"] // 32, "depth": vision["depth"] // 12}
    model["med"] |= {
        "embed_dim": 32,
        "text": {
            "width": 24,
            "depth": 1,
            "heads": 2,
            "ffn": 48,
            "max_positions": 64,
            "init_std": 0.08,
            "dropout": 0.0,
        },
    }


def _shrink_training(section: dict[str, Any], rate: float, depth: int) -> None:
    section |= {"batch_size": 8, "image_size": section["image_size"] // 7 // 8 * 8}
    section |= {"decode_threads": 0, "workers": {"gpus_per_worker": 0}}
    if "queue_size" in section["objective"]:
        # With the paper's 0.995 the momentum encoder would stay the untrained model for all of the few steps.
        section["objective"] = {**section["objective"], "queue_size": 16, "momentum": 0.5}
    optimizer = section["optimizer"]
    section["optimizer"] = {
        **optimizer,
        "lr": optimizer["lr"] * rate,
        "warmup_steps": optimizer["warmup_steps"] // 1000,
    }
    if "checkpoint_layers" in section:
        section["checkpoint_layers"] = min(section["checkpoint_layers"], depth)
