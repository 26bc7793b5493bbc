"""A config of the whole method that is small enough for tests."""

from pathlib import Path
from typing import Any

import yaml


def tiny_data(folder: Path, **run: Any) -> dict[str, Any]:
    """Config data of a run that takes seconds: 24 clean, 90 web and 12 test pairs, a model of a few thousand
    weights, and six steps per training.

    Args:
        run: keys of the section `run`.
    """

    def training(**objective):
        return {
            "steps": 6,
            "batch_size": 8,
            "objective": {"queue_size": 0, "alpha": 0.0, **objective},
            "optimizer": {"lr": 1e-3, "warmup_steps": 2, "warmup_lr": 1e-6, "schedule": "cosine"},
            "augment": {"min_scale": 1.0, "hflip": False, "randaugment": False},
            "workers": {"checkpoint_every": 2},
        }

    shapes = folder / "shapes"
    sampling = {"max_new_tokens": 8}
    return {
        "run": {"dir": str(folder / "run"), "name": "tiny", **run},
        "shapes": {"human": 24, "web": 90, "test": 12, "noise": 0.5, "image_size": 32},
        "shapes_dir": str(shapes),
        "sources": {
            "human": {
                "kind": "human",
                "rows": {"manifest": str(shapes / "human/annotations.json")},
                "images": str(shapes / "human"),
            },
            "web": {
                "kind": "web",
                "rows": {
                    "manifest": str(shapes / "web/manifest.parquet"),
                    "truth_column": "truth",
                    "shard_size": 20,
                },
                "serve": str(shapes / "web"),
            },
            "test": {
                "kind": "test",
                "rows": {"manifest": str(shapes / "test/annotations.json")},
                "images": str(shapes / "test"),
            },
        },
        "fetch": {"image": {"min_side": 16, "resize": "original"}},
        "model": {
            "vocab_size": 200,
            "med": {
                "embed_dim": 16,
                "vision": {"image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2},
                "text": {"width": 16, "depth": 1, "heads": 2, "ffn": 32, "max_positions": 64, "dropout": 0.1},
            },
        },
        "pretrain": training(),
        "captioner": {
            "finetune": training(losses=["lm"]),
            "generate": {"prompt": "", "captions_per_image": 2, "sampling": sampling},
        },
        "filter": {"finetune": training(losses=["itc", "itm"])},
        "evaluate": {"k": 5, "caption": {"prompt": "", "sampling": {"strategy": "greedy", **sampling}}},
        "report": {"examples": 4},
    }


def write_config(path: Path, data: dict[str, Any]) -> Path:
    """Write config data as YAML; returns the path."""
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path
