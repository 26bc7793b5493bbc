"""Named tensors in and out of a model, strictly: nothing missing, nothing left over, no other shape.

The reference loads with strict=False and deletes what does not fit (salesforce/BLIP models/blip.py),
which puts random layers into production without a word.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.network.vit import interpolate_positions

POSITIONS = "visual_encoder.pos_embed"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata. CheckpointError if it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}): was it copied whole?"
        ) from error


def read_pickled(path: Path) -> dict[str, object]:
    """The dictionary in a torch file, read without running code that the file may carry."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({reason}): was it copied whole?"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: a dictionary of tensors is due")
    return content


def tied_names(model: nn.Module) -> dict[str, str]:
    """Every state-dict name to the first name of the same tensor (itself, where nothing is tied)."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name) for name, tensor in model.state_dict(keep_vars=True).items()
    }


def check_names(found: Mapping[str, Tensor], due: Mapping[str, Tensor], what: str) -> None:
    """CheckpointError unless names and shapes of `found` are those of `due` (the patch grid's size aside)."""
    misshaped = [
        f"{name} {tuple(found[name].shape)} where {tuple(due[name].shape)} is due"
        for name in due
        if name in found and not _fits(name, found[name], due[name])
    ]
    missing = [name for name in due if name not in found]
    unexpected = [name for name in found if name not in due]
    if missing or unexpected or misshaped:
        raise CheckpointError(
            f"{what} does not fit the model its config describes",
            missing=missing,
            unexpected=unexpected,
            misshaped=misshaped,
        )


def _fits(name: str, found: Tensor, due: Tensor) -> bool:
    if name == POSITIONS:
        return found.dim() == 3 and found.shape[::2] == due.shape[::2]
    return found.shape == due.shape


def complete_ties(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with those that the model knows under several names, and the file under one, under each."""
    groups: dict[str, list[str]] = {}
    for name, first in tied_names(model).items():
        groups.setdefault(first, []).append(name)
    complete = dict(tensors)
    for names in groups.values():
        stored = [name for name in names if name in tensors]
        for name in names if stored else ():
            complete.setdefault(name, tensors[stored[0]])
    return complete


def fill(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Give a model built on the meta device its weights, in float32, and keep what is tied tied.

    Patch positions are resampled to the model's grid. Tensors that share memory, and that the model does not
    tie, go apart. CheckpointError if tensors that the model ties differ.
    """
    taken: set[int] = set()
    parameters: dict[str, nn.Parameter] = {}
    due = model.state_dict()
    for name, first in tied_names(model).items():
        tensor = tensors[name]
        if name != first:
            if not torch.equal(tensor, tensors[first]):
                raise CheckpointError(f"{what}: {name} and {first} must be equal, since this model ties them")
            parameters[name] = parameters[first]
            continue
        if name == POSITIONS:
            tensor = interpolate_positions(tensor, due[name].shape[1])
        tensor = tensor.float().contiguous()
        if tensor.data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.data_ptr())
        parameters[name] = nn.Parameter(tensor)
    model.load_state_dict(parameters, assign=True)
