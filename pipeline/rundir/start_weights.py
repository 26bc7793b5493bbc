"""Weights and tokenizers that the config names and a run does not make itself.

These are `model.vision_start`, `model.text_start`, `model.tokenizer`, and the tokenizers of given
checkpoints. They are looked up before anything runs, and a fingerprint identifies them by content.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from capfilt.models.checkpoints.check import Opening, check_checkpoints
from capfilt.models.checkpoints.files import checkpoint_digest
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.shipped import resolve_shipped
from capfilt.stages.storage.artifacts import ArtifactError, absolute_address, check_artifact, ensure_local
from capfilt.stages.storage.hub import HubError, check_cache
from capfilt.stages.storage.store import Store


def resolve_address(address: str) -> str:
    """The address in a form that every process resolves to the same file; unchanged if no such file
    exists."""
    address = resolve_shipped(address)
    return absolute_address(address) if "://" in address or Path(address).expanduser().exists() else address


def start_identity(address: str | None) -> str | None:
    """How a fingerprint identifies start weights or a tokenizer.

    A local file or folder is identified by its name and content, whatever folder it is in. Anything else (a
    URL, the name of a timm model, a path that does not exist) is identified by its address.
    """
    if address is None or "://" in address or not (path := Path(resolve_address(address))).exists():
        return address
    return f"{path.name} (sha256 {checkpoint_digest(path)[:16]})"


def check_start_weights(config: Config, run_dir: Store, kinds: Collection[str]) -> None:
    """Check that all start weights and tokenizers exist, so that a wrong address fails before hours of
    fetching.

    Args:
        run_dir: an address on the same kind of store is opened with its storage options.
        kinds: of the nodes that will run, such as "pretrain"; only what they need is checked.

    Raises:
        ArtifactError: the first that does not exist; one line with its config key.
    """
    for key, address in _needed_addresses(config, kinds):
        if key == "model.vision_start" and "://" not in address:
            _check_vision_start(address)
        else:
            check_artifact(resolve_address(address), key, run_dir)


def check_given_models(config: Config, run_dir: Store) -> None:
    """Open the checkpoints that the config gives for captioner and filter, as the workers will.

    An unusable one would otherwise fail in a worker, after the start of Ray and the first downloads.

    Args:
        run_dir: an address on the same kind of store is opened with its storage options.

    Raises:
        ArtifactError: the first that cannot be loaded; one line with its config key.
    """
    openings: dict[str, Opening] = {}
    for role, settings in (("captioner", config.captioner.generate), ("filter", config.filter.judge)):
        section = getattr(config, role)
        if section.checkpoint is None or (role == "captioner" and not config.captions_itself):
            continue
        tokenizer = section.tokenizer and ensure_local(section.tokenizer, f"{role}.tokenizer", run_dir)
        openings[f"{role}.checkpoint"] = Opening(
            path=ensure_local(section.checkpoint, f"{role}.checkpoint", run_dir),
            parts="captioner" if role == "captioner" else "filter",
            image_size=settings.image_size,
            tokenizer=tokenizer,
        )
    found = check_checkpoints(list(openings.values()))
    for key, problem in zip(openings, found, strict=True):
        if problem is not None:
            raise ArtifactError(f"{key}: {problem}")


def _needed_addresses(config: Config, kinds: Collection[str]) -> Iterator[tuple[str, str]]:
    """(config key, address) of what nodes of these kinds need. Checkpoints are left out: fingerprints read
    them."""
    if "pretrain" in kinds:
        model = config.model
        for name in ("vision_start", "text_start", "tokenizer"):
            if (address := getattr(model, name)) is not None:
                yield f"model.{name}", address
    for role in ("captioner", "filter") if config.captions_itself else ("filter",):
        section = getattr(config, role)
        if "bootstrap" in kinds and section.checkpoint is not None and section.tokenizer is not None:
            yield f"{role}.tokenizer", section.tokenizer


def _check_vision_start(address: str) -> None:
    if Path(resolve_address(address)).is_file():
        return
    if not address.endswith(".safetensors") and "/" not in address:
        import timm  # imports torch, which a file does not need

        if timm.is_model(address):
            try:
                check_cache(address)  # timm loads from it what it has downloaded
            except HubError as error:
                raise ArtifactError(f"model.vision_start: {error}") from error
            return
    raise ArtifactError(
        f"model.vision_start: {address} is neither a file nor a timm model; give a safetensors file with a "
        "timm state dict, or a model name such as deit_base_patch16_224"
    )
