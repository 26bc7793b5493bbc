"""The model that a command uses: a checkpoint in any layout, or the newest suitable one of a run."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from capfilt.models.config import Parts
from capfilt.pipeline.use.request import CHECKPOINT_VARIABLE, ModelRequest
from capfilt.stages.errors import UserError
from capfilt.stages.storage.artifacts import check_artifact, ensure_local
from capfilt.stages.storage.hub import is_on_hub
from capfilt.stages.storage.layout import CONFIG, model_folder, node_record, provenance_file
from capfilt.stages.storage.store import DECODE_ERRORS, Store

if TYPE_CHECKING:
    from capfilt.models.network.med import MED
    from capfilt.models.network.tokenizer import Tokenizer

Work = Literal["caption", "match", "answer"]
PARTS: dict[Work, tuple[Parts, ...]] = {
    "caption": ("captioner", "pretrain"),
    "match": ("filter", "pretrain"),
    "answer": ("vqa",),
}
"""The parts of a model that do the work, the best first."""
LACKS: dict[Work, str] = {
    "caption": 'does not write captions; give a "captioner" or a "pretrain"',
    "match": 'has no text encoder with the heads of ITC and ITM; give a "filter" or a "pretrain"',
    "answer": 'was not finetuned to answer questions; give a "vqa", which a task of kind vqa finetunes, or a '
    "released one as hf://Salesforce/blip-vqa-base",
}
_TRAINED = re.compile(r"^(?P<kind>pretrain|captioner|filter|shared|finetune)(\..+?)??(\.(?P<round>\d+))?$")
"""Nodes whose models are used; the other ones are controls."""


class ModelError(UserError):
    """No model can be used; the message names the checkpoint and says what to give."""


@dataclass(frozen=True)
class ChosenModel:
    """A checkpoint, and what the run that has made it says about it."""

    address: str
    prompt: str | None = None
    """The prompt that it was trained with; None if that is not known."""
    is_from_run: bool = False
    """Whether it was chosen among the models of a run directory."""


def choose_model(request: ModelRequest, work: Work) -> ChosenModel:
    """The checkpoint of a request, or the newest suitable one of the run directory that it names.

    Raises:
        ModelError: there is none.
        ArtifactError, ConfigError, StoreError: the address cannot be used.
    """
    from capfilt.pipeline.config.load import refuse_credentials

    given = request.checkpoint
    if not given:
        raise ModelError(
            "--checkpoint: missing; give a checkpoint (capfilt or transformers folder, BLIP or LAVIS .pth, "
            f"hf://org/name) or a run directory, or set {CHECKPOINT_VARIABLE}; `capfilt quickstart` makes a "
            "small one in runs/quickstart"
        )
    refuse_credentials(given, "--checkpoint")
    check_artifact(given, "--checkpoint")
    if request.tokenizer is not None:
        check_artifact(request.tokenizer, "--tokenizer")
    if is_on_hub(given):
        return ChosenModel(given)
    if "://" not in given:
        given = os.path.expanduser(given)
        if os.path.isfile(given):
            return ChosenModel(given)
    store = Store(given)
    if store.exists(CONFIG) and store.exists("models"):
        return _newest_of(store, given, work)
    run, _, name = given.rstrip("/").rpartition("/models/")
    return ChosenModel(given, _trained_prompt(Store(run), name) if run and "/" not in name else None)


def _newest_of(store: Store, given: str, work: Work) -> ChosenModel:
    """The model of a run that was finetuned for the work, or else pretrained, in the last round."""
    models = dict(_models_of(store))
    suitable = [name for name, parts in models.items() if parts in PARTS[work]]
    if not suitable:
        held = ", ".join(f"{name} ({parts})" for name, parts in models.items()) or "no finished model"
        raise ModelError(f"--checkpoint {given}: no model of this run {_what(work)}; it has {held}")

    def place(name: str) -> tuple[bool, int, bool, str]:
        found = _TRAINED.match(name)
        assert found is not None, "only such names are listed"
        kind = found["kind"]
        return kind != "pretrain", int(found["round"] or 0), kind == "finetune", name

    newest = max(suitable, key=place)
    return ChosenModel(posixpath.join(given, model_folder(newest)), _trained_prompt(store, newest), True)


def _what(work: Work) -> str:
    return {
        "caption": "writes captions",
        "match": "has the heads of ITC and ITM",
        "answer": "was finetuned to answer questions (docs/tasks.md, kind vqa)",
    }[work]


def _models_of(store: Store) -> Iterator[tuple[str, Parts]]:
    """(node, parts) of the models of a run whose training is done."""
    for name in store.list("models"):
        if _TRAINED.match(name) and store.exists(provenance_file(name)):
            try:
                yield name, store.read_json(f"{model_folder(name)}/config.json")["model"]["parts"]
            except (*DECODE_ERRORS, FileNotFoundError, KeyError, TypeError):
                continue  # `capfilt verify` reports damage


def _trained_prompt(store: Store, node: str) -> str | None:
    """The prompt of a training, from the record of its node."""
    try:
        return _find_prompt(store.find_json(node_record(node)))
    except DECODE_ERRORS:
        return None


def _find_prompt(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    objective = value.get("objective")
    if isinstance(objective, dict) and isinstance(objective.get("prompt"), str):
        return str(objective["prompt"])
    return next((found for each in value.values() if (found := _find_prompt(each)) is not None), None)


def load_model(chosen: ChosenModel, request: ModelRequest, work: Work) -> tuple[MED, Tokenizer, list[str]]:
    """Load a model that can do the work; the last value are the notes of its checkpoint.

    Raises:
        ModelError: it lacks the parts.
        CheckpointError: it cannot be loaded.
    """
    from capfilt.models.checkpoints.load import load_checkpoint

    path = ensure_local(chosen.address, "--checkpoint")
    words = None if request.tokenizer is None else ensure_local(request.tokenizer, "--tokenizer")
    med, tokenizer, info = load_checkpoint(path, None, image_size=request.image_size, tokenizer=words)
    if info.parts not in PARTS[work]:
        raise ModelError(f'--checkpoint {chosen.address}: this is a "{info.parts}" and {LACKS[work]}')
    return med, tokenizer, info.notes


def check_device(device: str) -> None:
    """Check that a device exists.

    Raises:
        ModelError: it does not.
    """
    import torch

    if device == "auto":
        return
    try:
        torch.empty(1, device=device)
    except Exception as error:  # no such device, no driver, no GPU: each with a type of its own
        found = "cpu" if not torch.cuda.is_available() else f"cpu, cuda ({torch.cuda.device_count()} GPUs)"
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelError(f"--device {device}: cannot be used ({reason}); here are {found}") from error
