"""Strict reading of tensors into a model: no missing, unexpected or mis-shaped tensor is accepted.

The reference loads with strict=False and drops tensors that do not fit (salesforce/BLIP models/blip.py),
which can leave layers randomly initialized without an error.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from capfilt.models.checkpoints.files import (
    PICKLED_WEIGHTS,
    WEIGHTS,
    CheckpointError,
    refuse_pointer,
    weight_files,
)
from capfilt.models.network.vit import interpolate_positions

POSITIONS = "visual_encoder.pos_embed"
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
"""Keys under which training programs (BLIP, PyTorch Lightning, DeepSpeed) store the state dict."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and PyTorch Lightning put before the name of every tensor."""


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a folder's weights, in one file or several, and the metadata of safetensors.

    Raises:
        CheckpointError: there are no weights, or a file cannot be read.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"neither {WEIGHTS} nor {PICKLED_WEIGHTS} in {folder}: check that the folder is complete"
        )
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        if file.suffix == ".safetensors":
            stored, of_file = read_safetensors(file)
            metadata |= of_file
        else:
            content = unwrap(read_pickled(file))
            stored = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if twice := sorted(stored.keys() & tensors.keys()):
            raise CheckpointError(f"{folder} stores {twice[0]} in two files: remove those of other models")
        tensors |= stored
    return strip_prefixes(tensors), metadata


def unwrap(content: Mapping[str, object]) -> Mapping[str, object]:
    """The state dict in the dictionary of a training program, which may lie several levels deep."""
    while inner := next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None):
        assert isinstance(inner, Mapping)
        content = inner
    return content


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what a wrapper of the model has put before every name."""
    stripped = dict(tensors)
    while prefix := next((p for p in PREFIXES if stripped and all(n.startswith(p) for n in stripped)), None):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}): check that the file is complete"
        ) from error


def read_pickled(path: Path) -> dict[str, object]:
    """The dictionary in a torch file, read without executing pickled code.

    Raises:
        CheckpointError: the file cannot be read, or needs code to be executed.
    """
    refuse_pointer(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything in the unpickler
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({reason}): check that the file is complete"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}: expected a dictionary of tensors")
    return content


def tied_names(model: nn.Module) -> dict[str, str]:
    """Map every state-dict name to the first name of the same tensor (an untied tensor to itself)."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name) for name, tensor in model.state_dict(keep_vars=True).items()
    }


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Check that names and shapes of `tensors` are the expected ones, except for the size of the patch grid.

    Raises:
        CheckpointError: lists all tensors that are missing, unexpected or mis-shaped.
    """
    misshaped = [
        f"{name} {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and not _has_expected_shape(name, tensors[name], expected[name])
    ]
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected or misshaped:
        raise CheckpointError(
            f"{source} does not match the model that its config describes",
            missing=missing,
            unexpected=unexpected,
            misshaped=misshaped,
        )


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that no tensor holds NaN or an infinite number, with which every output would be NaN.

    Raises:
        CheckpointError: lists the tensors that do.
    """
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"{source} has NaN or infinite weights; its training has diverged, use another checkpoint",
            not_finite=bad,
        )


def _has_expected_shape(name: str, tensor: Tensor, expected: Tensor) -> bool:
    if name == POSITIONS:
        return tensor.dim() == 3 and tensor.shape[::2] == expected.shape[::2]
    return tensor.shape == expected.shape


def complete_ties(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the tensors that the file stores under only one of the names that the model ties."""
    groups: dict[str, list[str]] = {}
    for name, first in tied_names(model).items():
        groups.setdefault(first, []).append(name)
    complete = dict(tensors)
    for names in groups.values():
        stored = [name for name in names if name in tensors]
        for name in names if stored else ():
            complete.setdefault(name, tensors[stored[0]])
    return complete


def fill_model(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Assign tensors, as float32, to a model on the meta device, preserving the model's ties.

    Patch positions are resampled to the model's grid. Tensors that share memory but are not tied in the model
    are cloned.

    Raises:
        CheckpointError: tensors that the model ties are not equal.
    """
    used_memory: set[int] = set()
    parameters: dict[str, nn.Parameter] = {}
    expected = model.state_dict()
    for name, first in tied_names(model).items():
        tensor = tensors[name]
        if name != first:
            if not torch.equal(tensor, tensors[first]):
                raise CheckpointError(f"{source}: {name} and {first} differ, but this model ties them")
            parameters[name] = parameters[first]
            continue
        if name == POSITIONS:
            tensor = interpolate_positions(tensor, expected[name].shape[1])
        tensor = tensor.float().contiguous()
        if tensor.data_ptr() in used_memory:
            tensor = tensor.clone()
        used_memory.add(tensor.data_ptr())
        parameters[name] = nn.Parameter(tensor)
    model.load_state_dict(parameters, assign=True)
