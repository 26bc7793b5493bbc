"""Loads, saves and exports checkpoints.

The capfilt format is a folder with `model.safetensors` (tied tensors stored once), `config.json`, the files
of the tokenizer, and `provenance.json`. Foreign formats are read strictly and written for their own loaders.
"""

from __future__ import annotations

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
from capfilt.models.checkpoints.files import (
    CONFIG,
    PROVENANCE,
    WEIGHTS,
    CheckpointError,
    explain_disk_errors,
    read_json,
    refuse_pointer,
)
from capfilt.models.checkpoints.finetune_start import from_pretrained
from capfilt.models.checkpoints.huggingface import from_hf, hf_image_processor, reject_unsupported, to_hf
from capfilt.models.checkpoints.tensors import (
    check_finite,
    check_tensors,
    complete_ties,
    fill_model,
    read_folder,
    read_pickled,
    tied_names,
)
from capfilt.models.checkpoints.weights import Weights
from capfilt.models.config import MedConfig, Parts
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer

Format = Literal["capfilt", "hf", "blip"]

FORMAT_NAME, FORMAT_VERSION = "capfilt-med", 1
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # the first that exists is read
SPECIAL_TOKENS = ("pad", "cls", "sep", "dec", "enc")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Where a loaded model comes from."""

    format: Format
    """Format of the file: "capfilt", "hf" (transformers), or "blip" (salesforce/BLIP and LAVIS)."""
    parts: Parts
    """Parts in the file, possibly more than were loaded."""
    provenance: dict[str, Any]
    """The provenance given to `save_checkpoint`; empty for foreign formats."""
    notes: list[str]
    """Missing or unsupported values of the file and their replacements, for the log."""
    initialized: list[str]
    """Randomly initialized tensors, which the pretrained model in the file lacks; they need finetuning."""


def load_checkpoint(
    path: str | Path,
    parts: Parts | None,
    image_size: int | None = None,
    tokenizer: str | Path | None = None,
    adapt: Callable[[MedConfig], MedConfig] | None = None,
) -> tuple[MED, Tokenizer, CheckpointInfo]:
    """Load a model, in float32 on the CPU and in eval mode, with its tokenizer.

    Args:
        path: a capfilt folder, a BLIP folder of transformers, or a .pth of salesforce/BLIP or LAVIS.
        parts: the model to build: the parts in the file, or any other parts if the file holds a pretrained
            model. A "vqa" or "nlvr" from a pretrained model is a start for finetuning; its new tensors are
            initialized from torch's global generator. None: the parts in the file.
        image_size: resamples the patch positions; None keeps the image size of the file.
        tokenizer: folder of the tokenizer, for a .pth, which contains none (bert-base-uncased).
        adapt: changes settings of the config that do not affect weights (dropout, drop_path,
            checkpoint_layers).

    Raises:
        CheckpointError: the file cannot provide the parts; lists all missing, unexpected and mis-shaped
            tensors.
    """
    path = Path(path)
    weights, file_format = _read_weights(path)
    stored_parts = weights.config.parts
    parts = parts or stored_parts
    if parts != stored_parts and stored_parts != "pretrain":
        raise CheckpointError(
            f'{path} is a "{stored_parts}" and cannot be loaded as a "{parts}": '
            f'use a "{parts}" or a "pretrain"'
        )
    config = replace(weights.config, parts=parts)
    if image_size is not None:
        try:
            config = replace(config, vision=replace(config.vision, image_size=image_size))
        except ValueError as error:
            raise CheckpointError(f"{path} cannot take images of {image_size} pixels: {error}") from error
    if adapt is not None:
        config = adapt(config)
    med_tokenizer = _read_tokenizer(path, tokenizer)
    check_tokenizer(med_tokenizer, weights, str(path))
    with torch.device("meta"):
        med = MED(config)
    expected, tensors, initialized = med.state_dict(), weights.tensors, list[str]()
    if parts != stored_parts and parts in ("vqa", "nlvr"):
        tensors, initialized = from_pretrained(tensors, config)
    check_tensors({name: tensor for name, tensor in tensors.items() if name in expected}, expected, str(path))
    fill_model(med, tensors, str(path))
    notes = [*weights.notes]
    if initialized:
        notes.append(f"{len(initialized)} tensors of a {parts} are randomly initialized")
    info = CheckpointInfo(
        format=file_format,
        parts=stored_parts,
        provenance=read_json(path / PROVENANCE) if (path / PROVENANCE).is_file() else {},
        notes=notes,
        initialized=initialized,
    )
    return med.eval(), med_tokenizer, info


def _read_tokenizer(path: Path, given: str | Path | None) -> Tokenizer:
    """The tokenizer of a checkpoint, or the given one."""
    folder = path if given is None else Path(given)
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        missing = f"{folder} contains no tokenizer" if given is None else f"there is no tokenizer at {folder}"
        raise CheckpointError(
            f"{missing}: give the folder of bert-base-uncased as tokenizer "
            "(captioner.tokenizer, filter.tokenizer; convert: --tokenizer)"
        )
    refuse_pointer(files[0])
    try:
        return Tokenizer.from_folder(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no usable tokenizer: {error}") from error


def check_tokenizer(tokenizer: Tokenizer, weights: Weights, source: str) -> None:
    """Check that a tokenizer can be the one that a model was trained with.

    Raises:
        CheckpointError: it has more entries than the model, or special tokens at other ids than the
            checkpoint states.
    """
    advice = "use the tokenizer that the model was trained with"
    entries, vocab_size = tokenizer.vocab_size, weights.config.text.vocab_size
    if entries > vocab_size:
        raise CheckpointError(
            f"the tokenizer of {source} has {entries} entries, the model {vocab_size}: {advice}"
        )
    for name, stated in weights.special_ids.items():
        if (own := getattr(tokenizer, f"{name}_id")) != stated:
            raise CheckpointError(
                f"the tokenizer of {source} has [{name.upper()}] at {own}, the model at {stated}: {advice}"
            )


def _read_weights(path: Path) -> tuple[Weights, Format]:
    """All tensors of a checkpoint, checked against the model that its config describes."""
    weights, file_format = _read_file(path) if path.is_file() else _read_folder(path)
    with torch.device("meta"):
        whole = MED(weights.config)
    tensors = complete_ties(whole, weights.tensors)
    check_tensors(tensors, whole.state_dict(), str(path))
    check_finite(weights.tensors, str(path))
    return replace(weights, tensors=tensors), file_format


def _read_file(path: Path) -> tuple[Weights, Format]:
    return from_blip(read_pickled(path), str(path)), "blip"


def _read_folder(path: Path) -> tuple[Weights, Format]:
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"no {CONFIG} in {path}: expected a checkpoint folder or a .pth file")
    refuse_pointer(path / CONFIG)
    config = read_json(path / CONFIG)
    tensors, metadata = read_folder(path)
    if config.get("model_type") == "blip":
        return from_hf(tensors, metadata, config, str(path)), "hf"
    if config.get("format") != FORMAT_NAME:
        raise CheckpointError(f"{path / CONFIG} describes neither a {FORMAT_NAME} nor a BLIP of transformers")
    if config.get("version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {config.get('version')}, expected {FORMAT_VERSION}")
    try:
        model = MedConfig.from_dict(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / CONFIG} has no valid model config: {error}") from error
    ids = config.get("special_ids")  # not written by earlier versions
    return Weights(config=model, tensors=tensors, special_ids=ids if isinstance(ids, dict) else {}), "capfilt"


def save_checkpoint(folder: str | Path, med: MED, tokenizer: Tokenizer, provenance: dict[str, Any]) -> None:
    """Write a checkpoint in capfilt format. Files already in the folder are replaced once all new files are
    complete.

    Args:
        folder: the checkpoint folder; created if it does not exist.
        med: the model.
        tokenizer: its tokenizer.
        provenance: anything that JSON can represent: the run, the node, the digests of the parents.

    Raises:
        ValueError: the tokenizer has more entries than the model.
    """
    vocab_size = med.config.text.vocab_size
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model only {vocab_size}: "
            "use the model's tokenizer"
        )
    first_names = tied_names(med)

    def write_files(target: Path) -> None:
        untied = {name: tensor for name, tensor in _tensors_on_cpu(med).items() if first_names[name] == name}
        save_file(untied, target / WEIGHTS, metadata={"format": "pt"})
        config = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "model": med.config.to_dict(),
            "special_ids": {name: getattr(tokenizer, f"{name}_id") for name in SPECIAL_TOKENS},
        }
        _write_json(target / CONFIG, config)
        _write_json(target / PROVENANCE, provenance)
        tokenizer.save(target)

    with explain_disk_errors(folder):
        _replace_files(Path(folder), write_files)


def export_checkpoint(
    src: str | Path,
    dst: str | Path,
    to: Format = "hf",
    parts: Parts | None = None,
    tokenizer: str | Path | None = None,
) -> None:
    """Convert a checkpoint of any format.

    Args:
        src: the checkpoint to read.
        dst: the folder to write, or the .pth file for "blip".
        to: target format: "hf" (a transformers folder), "blip" (a .pth) or "capfilt".
        parts: the parts to export, for example the captioner of a pretrained model, which transformers cannot
            represent as a whole; None exports all parts.
        tokenizer: tokenizer folder, if `src` is a .pth.

    Raises:
        CheckpointError: the target format cannot represent the model, or the checkpoint lacks tensors of
            `parts`.
    """
    src, dst = Path(src), Path(dst)
    stored, _ = _read_weights(src)
    exported = parts or stored.config.parts
    if to == "hf":  # before the search for a tokenizer, which would not help
        reject_unsupported(replace(stored.config, parts=exported))
    med, med_tokenizer, info = load_checkpoint(src, exported, tokenizer=tokenizer)
    if info.initialized:
        raise CheckpointError(
            f'{src} is a "{info.parts}" and lacks tensors of a "{exported}": finetune it first',
            missing=info.initialized,
        )
    if to == "capfilt":
        save_checkpoint(dst, med, med_tokenizer, info.provenance)
        return
    weights = Weights(config=med.config, tensors=_tensors_on_cpu(med))
    if to == "blip":
        with explain_disk_errors(dst):
            _replace_files(dst.parent, lambda target: _save_pickle(to_blip(weights), target / dst.name))
        return
    tensors, metadata, config = to_hf(weights, med_tokenizer)

    def write_files(target: Path) -> None:
        # safetensors rejects tensors that share memory, and older versions of transformers need both tied
        # tensors.
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        save_file(copies, target / WEIGHTS, metadata=metadata)
        _write_json(target / CONFIG, config)
        _write_json(target / "preprocessor_config.json", hf_image_processor(med.config.vision.image_size))
        med_tokenizer.save(target)

    with explain_disk_errors(dst):
        _replace_files(dst, write_files)


def _save_pickle(value: object, path: Path) -> None:
    with path.open("wb") as stream:  # given a path, torch would not say why it cannot write
        torch.save(value, stream)


def _tensors_on_cpu(med: MED) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in med.state_dict().items()}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _replace_files(folder: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with an empty temporary folder, then rename its files into `folder`, the config last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        write(Path(partial))
        for file in sorted(Path(partial).iterdir(), key=lambda file: (file.name == CONFIG, file.name)):
            file.replace(folder / file.name)
