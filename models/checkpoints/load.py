"""Checkpoints: ours, and BLIP's as others store them, read strictly and written so that others can read them.

Ours is a folder: `model.safetensors` (tied tensors once), `config.json`, the tokenizer's files,
`provenance.json`.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from capfilt.models.checkpoints.blip import from_blip, to_blip
from capfilt.models.checkpoints.files import CONFIG, PICKLED_WEIGHTS, PROVENANCE, WEIGHTS, CheckpointError
from capfilt.models.checkpoints.finetune_start import from_pretrained
from capfilt.models.checkpoints.huggingface import from_hf, hf_image_processor, to_hf
from capfilt.models.checkpoints.pretrained_start import load_text_start, load_vision_start
from capfilt.models.checkpoints.tensors import (
    check_names,
    complete_ties,
    fill,
    read_pickled,
    read_safetensors,
    tied_names,
)
from capfilt.models.checkpoints.weights import Weights
from capfilt.models.config import MedConfig, Parts
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer

__all__ = [
    "CheckpointInfo",
    "export_checkpoint",
    "load_checkpoint",
    "load_text_start",
    "load_vision_start",
    "save_checkpoint",
]

Format = Literal["capfilt", "hf", "blip"]

FORMAT_NAME, FORMAT_VERSION = "capfilt-med", 1


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Where a loaded model comes from."""

    format: Format
    """Who wrote it: we, transformers, or salesforce/BLIP."""
    parts: Parts
    """What the file holds, which may be more than was loaded."""
    provenance: dict[str, Any]
    """What was given to `save_checkpoint`; empty for others' files."""
    notes: list[str]
    """What the file lacks or says wrongly, and what is used instead. Worth logging."""
    new: list[str]
    """Tensors that the file's pretrained model does not have, and that were drawn at random: finetune them."""


def load_checkpoint(
    path: str | Path,
    parts: Parts,
    image_size: int | None = None,
    tokenizer: str | Path | None = None,
    adapt: Callable[[MedConfig], MedConfig] | None = None,
) -> tuple[MED, Tokenizer, CheckpointInfo]:
    """A model in float32 on the CPU, in eval mode, with its tokenizer.

    `path` is a folder of ours, a transformers BLIP folder, or a salesforce/LAVIS .pth; the last needs the
    folder of its `tokenizer` (bert-base-uncased). `parts` says what to build: the same as the file holds, or
    any out of a pretrained model; a "vqa" or "nlvr" of one is a start for finetuning, for some of whose
    tensors torch's generator may be asked (`info.new`). `image_size` resamples the patch positions; `adapt`
    changes what does not touch weights (dropout, drop_path, checkpoint_layers). CheckpointError names every
    tensor that is missing, left over or of another shape.
    """
    path = Path(path)
    weights, form = _read(path)
    holds = weights.config.parts
    if parts != holds and holds != "pretrain":
        raise CheckpointError(
            f"{path} holds a {holds}, no {parts} can be made of it: give a {parts} or a pretrain"
        )
    config = replace(weights.config, parts=parts)
    if image_size is not None:
        config = replace(config, vision=replace(config.vision, image_size=image_size))
    if adapt is not None:
        config = adapt(config)
    words = Tokenizer.from_folder(tokenizer or (path if path.is_dir() else _no_tokenizer(path)))
    if words.vocab_size > config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {path} has {words.vocab_size} entries, the model {config.text.vocab_size}: "
            "give the one it was trained with"
        )
    with torch.device("meta"):
        med = MED(config)
    due, tensors, new = med.state_dict(), weights.tensors, list[str]()
    if parts != holds and parts in ("vqa", "nlvr"):
        tensors, new = from_pretrained(tensors, config)
    check_names({name: tensor for name, tensor in tensors.items() if name in due}, due, str(path))
    fill(med, tensors, str(path))
    provenance = _read_json(path / PROVENANCE) if (path / PROVENANCE).is_file() else {}
    notes = [*weights.notes, *([f"{len(new)} tensors of a {parts} are new and random"] if new else [])]
    info = CheckpointInfo(format=form, parts=holds, provenance=provenance, notes=notes, new=new)
    return med.eval(), words, info


def _no_tokenizer(path: Path) -> Path:
    raise CheckpointError(
        f"{path} comes without a tokenizer: give the folder of bert-base-uncased's as tokenizer"
    )


def _read(path: Path) -> tuple[Weights, Format]:
    """All tensors of a checkpoint, checked against the model that its own config describes."""
    weights, form = _read_file(path) if path.is_file() else _read_folder(path)
    with torch.device("meta"):
        whole = MED(weights.config)
    tensors = complete_ties(whole, weights.tensors)
    check_names(tensors, whole.state_dict(), str(path))
    return replace(weights, tensors=tensors), form


def _read_file(path: Path) -> tuple[Weights, Format]:
    return from_blip(read_pickled(path), str(path)), "blip"


def _read_folder(path: Path) -> tuple[Weights, Format]:
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"no {CONFIG} in {path}: give a checkpoint folder or a .pth file")
    config = _read_json(path / CONFIG)
    if (path / WEIGHTS).is_file():
        tensors, metadata = read_safetensors(path / WEIGHTS)
    elif (path / PICKLED_WEIGHTS).is_file():
        tensors, metadata = _only_tensors(read_pickled(path / PICKLED_WEIGHTS)), {}
    else:
        raise CheckpointError(f"neither {WEIGHTS} nor {PICKLED_WEIGHTS} in {path}: was it copied whole?")
    if config.get("model_type") == "blip":
        return from_hf(tensors, metadata, config, str(path)), "hf"
    if config.get("format") != FORMAT_NAME:
        raise CheckpointError(f"{path / CONFIG} describes neither a {FORMAT_NAME} nor a transformers BLIP")
    if config.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has version {config.get('version')} of the format, this program reads {FORMAT_VERSION}"
        )
    try:
        model = MedConfig.from_dict(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / CONFIG} describes no model ({error}): was it edited?") from error
    return Weights(config=model, tensors=tensors), "capfilt"


def _only_tensors(content: dict[str, object]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def save_checkpoint(folder: str | Path, med: MED, tokenizer: Tokenizer, provenance: dict[str, Any]) -> None:
    """Writes our format, and replaces what the folder held only once the new files are whole.

    `provenance` is anything JSON can hold: the run, the node, the parents' digests. ValueError if the
    tokenizer has more entries than the model.
    """
    known = med.config.text.vocab_size
    if tokenizer.vocab_size > known:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {known}: they are no pair"
        )
    first_names = tied_names(med)

    def write(place: Path) -> None:
        once = {name: tensor for name, tensor in _tensors(med).items() if first_names[name] == name}
        save_file(once, place / WEIGHTS, metadata={"format": "pt"})
        config = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "model": med.config.to_dict()}
        _write_json(place / CONFIG, config)
        _write_json(place / PROVENANCE, provenance)
        tokenizer.save(place)

    _replace_files(Path(folder), write)


def export_checkpoint(
    src: str | Path,
    dst: str | Path,
    to: Format = "hf",
    parts: Parts | None = None,
    tokenizer: str | Path | None = None,
) -> None:
    """Rewrites a checkpoint of any format as "hf" (a transformers folder), "blip" (a .pth) or "capfilt".

    `parts` takes a captioner or filter out of a pretrained model, as transformers needs it; left out, all
    there is. `tokenizer` is needed where `src` is a .pth. CheckpointError where the other format cannot hold
    the model, or where `parts` has tensors that the checkpoint lacks.
    """
    src, dst = Path(src), Path(dst)
    held = parts or _read(src)[0].config.parts
    med, words, info = load_checkpoint(src, held, tokenizer=tokenizer)
    if info.new:
        raise CheckpointError(
            f"{src} holds a {info.parts}, and a {held} has tensors that only finetuning gives: finetune it first",
            missing=info.new,
        )
    if to == "capfilt":
        save_checkpoint(dst, med, words, info.provenance)
        return
    weights = Weights(config=med.config, tensors=_tensors(med))
    if to == "blip":
        _replace_files(dst.parent, lambda place: torch.save(to_blip(weights), place / dst.name))
        return
    tensors, metadata, config = to_hf(weights, words)

    def write(place: Path) -> None:
        # safetensors refuses tensors that share memory, and older transformers wants tied ones twice.
        apart = {name: tensor.clone() for name, tensor in tensors.items()}
        save_file(apart, place / WEIGHTS, metadata=metadata)
        _write_json(place / CONFIG, config)
        _write_json(place / "preprocessor_config.json", hf_image_processor(med.config.vision.image_size))
        words.save(place)

    _replace_files(dst, write)


def _tensors(med: MED) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in med.state_dict().items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error}): was it copied whole?") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: an object is due")
    return content


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _replace_files(folder: Path, write: Callable[[Path], None]) -> None:
    """Runs `write` on a fresh folder, then moves its files into `folder` by renames, the config last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        write(Path(partial))
        for file in sorted(Path(partial).iterdir(), key=lambda file: (file.name == CONFIG, file.name)):
            file.replace(folder / file.name)
