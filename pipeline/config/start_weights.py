"""What models start from besides the run's own: found before anything runs, and known by what they hold.

`model.vision_start`, `model.text_start`, `model.tokenizer`, and the tokenizers of given checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from capfilt.models.checkpoints.files import checkpoint_digest
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.shipped import resolve_shipped
from capfilt.stages.storage.artifacts import ArtifactError, absolute, check_artifact
from capfilt.stages.storage.store import Store


def resolve_address(address: str) -> str:
    """An address of a start in a form that means the same in every process; what is nowhere stays as it is."""
    address = resolve_shipped(address)
    return absolute(address) if "://" in address or Path(address).expanduser().exists() else address


def identity(address: str | None) -> str | None:
    """What a fingerprint says of a start: of a local one its name and content, wherever it lies; of one on a store, of
    timm's models and of what is not there (yet) the address."""
    if address is None or "://" in address or not (path := Path(resolve_address(address))).exists():
        return address
    return f"{path.name} (sha256 {checkpoint_digest(path)[:16]})"


def check_starts(config: Config, run: Store, kinds: set[str]) -> None:
    """Check that everything exists that nodes of these kinds start from, so that a wrong address is reported before hours of
    downloads.

    Raises:
        ArtifactError: the first that is not; one line with its key.
    """
    for key, address in _addresses(config, kinds):
        if key == "model.vision_start" and "://" not in address:
            _check_vision_start(address)
        else:
            check_artifact(resolve_address(address), key, run)


def _addresses(config: Config, kinds: set[str]) -> Iterator[tuple[str, str]]:
    """(config key, address) of what nodes of these kinds start from; given checkpoints are hashed anyway."""
    if "pretrain" in kinds:
        model = config.model
        for name in ("vision_start", "text_start", "tokenizer"):
            if (address := getattr(model, name)) is not None:
                yield f"model.{name}", address
    for role in ("captioner", "filter"):
        section = getattr(config, role)
        if "bootstrap" in kinds and section.checkpoint is not None and section.tokenizer is not None:
            yield f"{role}.tokenizer", section.tokenizer


def _check_vision_start(address: str) -> None:
    """A file, or the name of a model that timm knows, which is looked up only then: torch comes with it."""
    if Path(resolve_address(address)).is_file():
        return
    if not address.endswith(".safetensors") and "/" not in address:
        import timm

        if timm.is_model(address):
            return
    raise ArtifactError(
        f"model.vision_start: {address} is neither a file nor a model that timm knows; give a safetensors file with a "
        "timm state dict, or a name such as deit_base_patch16_224"
    )
