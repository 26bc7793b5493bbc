"""Where the captioner or the filter of a bootstrap comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from capfilt.stages.storage.artifacts import ensure_local
from capfilt.stages.storage.store import Store

Role = Literal["captioner", "filter"]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A checkpoint and where to run it."""

    checkpoint: str
    """Folder or file of the checkpoint, a local path or any fsspec URL."""
    tokenizer: str | None = None
    """Folder of the tokenizer, for checkpoints without one (BLIP's .pth files)."""
    digest: str = ""
    """First 16 hex digits of the checkpoint's sha256, or the fingerprint of the node that trained it; written
    to every candidate."""
    run_dir: Store | None = None
    """The run directory; its storage options open checkpoints with the same protocol."""
    device: str = "auto"
    """Device of the model; "auto": the GPU that is assigned to the process, else the CPU."""
    others: tuple[ModelSource, ...] = ()
    """The further models of an ensemble, of which this is the first."""

    @property
    def members(self) -> tuple[ModelSource, ...]:
        """All models of the ensemble; only this one if there is none."""
        return (self, *self.others)

    @property
    def digests(self) -> str:
        """The digests of all models, joined by "+"."""
        return "+".join(member.digest for member in self.members)

    def local_checkpoint(self, role: Role) -> str:
        """Local path of the checkpoint, copied to this machine if necessary.

        Args:
            role: the config section that names the checkpoint, for messages.

        Raises:
            ArtifactError: the checkpoint cannot be read.
        """
        return ensure_local(self.checkpoint, f"{role}.checkpoint", self.run_dir)

    def local_tokenizer(self, role: Role) -> str | None:
        """Local path of the tokenizer, None if the checkpoint has its own; like `local_checkpoint`."""
        if self.tokenizer is None:
            return None
        return ensure_local(self.tokenizer, f"{role}.tokenizer", self.run_dir)
