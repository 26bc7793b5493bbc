"""Configuration of the model and its training. The defaults are those of the BLIP paper.

Does not import torch, so that a config can be validated quickly and on a driver without torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from capfilt.models.caption_text import MAX_WORDS

Parts = Literal["pretrain", "captioner", "filter", "vqa", "nlvr"]
Sharing = Literal["all_but_sa", "all_but_ca", "all", "none"]
Loss = Literal["itc", "itm", "lm"]
Precision = Literal["auto", "float32", "bfloat16"]

MAX_MAGNITUDE = 10  # upper end of the scale of RandAugment's `magnitude`


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Size of the image encoder. The defaults are ViT-B/16; ViT-L/16 has width 1024, depth 24, 16 heads."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    image_size: Annotated[int, Gt(0)] = 224
    """Side of the square input in pixels, a multiple of patch_size. Paper: 224 in pretraining, 384 in
    finetuning."""
    patch_size: Annotated[int, Gt(0)] = 16
    """Side of a patch in pixels."""
    width: Annotated[int, Gt(0)] = 768
    """Hidden size of the transformer."""
    depth: Annotated[int, Gt(0)] = 12
    """Number of transformer blocks."""
    heads: Annotated[int, Gt(0)] = 12
    """Number of attention heads; must divide width."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Hidden size of the MLP relative to width."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Stochastic depth rate of the last block; rises linearly from 0 at the first. Reference: ViT-B 0, ViT-L
    0.1."""
    stem: Literal["patch", "conv"] = "patch"
    """"patch": one linear projection, as in ViT; "conv": a stack of small convolutions, for tiny models."""
    checkpoint_layers: Annotated[int, Ge(0)] = 0
    """Number of last blocks that recompute their activations in the backward pass, to save memory."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"vision.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"vision.width {self.width} is not divisible by heads {self.heads}: set heads to a divisor"
            )
        if self.checkpoint_layers > self.depth:
            raise ValueError(
                f"vision.checkpoint_layers {self.checkpoint_layers} exceeds depth {self.depth}: lower it"
            )
        if self.stem == "conv" and self.patch_size not in (8, 16, 32):
            raise ValueError(
                f'vision.patch_size {self.patch_size} is not supported by stem "conv": use 8, 16 or 32'
            )

    @property
    def tokens(self) -> int:
        """N, the tokens per image: CLS and the patches (197 at 224 pixels, 577 at 384)."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Size of the text transformer. The defaults are BERT-base with BLIP's two extra tokens."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    vocab_size: Annotated[int, Gt(0)] = 30524
    """Vocabulary size: the 30522 entries of bert-base-uncased, then [DEC] and [ENC]."""
    width: Annotated[int, Gt(0)] = 768
    """Hidden size of the transformer."""
    depth: Annotated[int, Gt(0)] = 12
    """Number of layers."""
    heads: Annotated[int, Gt(0)] = 12
    """Number of attention heads; must divide width."""
    ffn: Annotated[int, Gt(0)] = 3072
    """Hidden size of the feed-forward network."""
    max_positions: Annotated[int, Gt(0)] = 512
    """Maximum text length in tokens."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout of embeddings, sub-layer outputs and attention probabilities. BERT and BLIP: 0.1."""
    layer_norm_eps: Annotated[float, Gt(0)] = 1e-12
    """Epsilon of every LayerNorm. BERT: 1e-12."""
    init_std: Annotated[float, Gt(0)] = 0.02
    """Standard deviation of newly initialized matrices. BERT and BLIP (configs/med_config.json): 0.02; with
    width 64 and few steps, 0.08 learns faster."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"text.width {self.width} is not divisible by heads {self.heads}: set heads to a divisor"
            )


@dataclass(frozen=True, kw_only=True)
class MedConfig:
    """A whole model: its image encoder, its text transformers, and which of them exist."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    vision: VisionConfig = field(default_factory=VisionConfig)
    """Image encoder."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text encoder and text decoder, which have the same size."""
    embed_dim: Annotated[int, Gt(0)] = 256
    """Dimension of the joint image-text embedding of ITC. Paper: 256."""
    sharing: Sharing = "all_but_sa"
    """Parameters that text encoder and decoder share in pretraining: all but self-attention (the paper's
    choice, Table 3), all but cross-attention, all, or none. Ignored for other `parts`, which never share."""
    parts: Parts = "pretrain"
    """"captioner": image encoder and text decoder. "filter": image encoder, text encoder, ITC and ITM heads.
    "pretrain": all of these. "vqa": image encoder, text encoder, and a decoder that attends to the states of
    the text encoder (paper, figure 5a). "nlvr": image encoder, a text encoder that attends to two images, and
    a classifier (figure 5b)."""

    def to_dict(self) -> dict[str, Any]:
        """The config as nested dicts, for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MedConfig:
        """The inverse of `to_dict`. Raises ValueError for unknown keys."""
        values = dict(values)
        _reject_unknown("model", cls, values)
        for name, config in (("vision", VisionConfig), ("text", TextConfig)):
            if name in values:
                _reject_unknown(f"model.{name}", config, values[name])
                values[name] = config(**values[name])
        return cls(**values)


def estimate_bytes(config: MedConfig) -> int:
    """About how many bytes the weights of a new model take in a checkpoint, in float32: matrices only."""
    vision, text = config.vision, config.text
    images = vision.depth * vision.width**2 * (4 + 2 * vision.mlp_ratio)
    images += vision.width * (vision.tokens + 3 * vision.patch_size**2)
    own, crossed = 4 * text.width**2, 2 * text.width * (text.width + vision.width)
    layer = own + crossed + 2 * text.width * text.ffn
    decoder = {"all_but_sa": own, "all_but_ca": crossed, "all": 0, "none": layer}[config.sharing]
    layers = text.depth * (layer + (decoder if config.parts == "pretrain" else 0))
    embeddings = text.width * (text.vocab_size + text.max_positions)
    copies = 2 if config.parts == "pretrain" and config.sharing == "none" else 1
    return int(4 * (images + layers + copies * embeddings))


def _reject_unknown(section: str, config: type, values: dict[str, Any]) -> None:
    allowed = [f.name for f in fields(config)]
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise ValueError(f"{section}: unknown key {', '.join(unknown)}; allowed keys: {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The losses and their settings. The defaults are the paper's pretraining."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    losses: Annotated[tuple[Loss, ...], MinLen(1)] = ("itc", "itm", "lm")
    """Losses to sum, equally weighted. Pretraining: all three; captioner: lm; filter: itc and itm."""
    queue_size: Annotated[int, Ge(0)] = 57600
    """Capacity of ITC's queue in pairs (paper 57600); need not be a multiple of the batch size. 0: contrast
    within the batch, without momentum encoder and therefore without soft labels (set `alpha` to 0)."""
    momentum: Annotated[float, Ge(0), Le(1)] = 0.995
    """Decay of the momentum encoder's moving average per step (paper 0.995)."""
    alpha: Annotated[float, Ge(0), Le(1)] = 0.4
    """Weight of the momentum encoder's soft labels in ITC's targets (paper 0.4); hard labels get 1 -
    alpha."""
    alpha_ramp_epochs: Annotated[float, Ge(0)] = 2.0
    """Epochs over which `alpha` rises linearly from 0 (reference: 2 in pretraining, 1 in finetuning)."""
    temp_min: Annotated[float, Gt(0)] = 0.001
    """Lower bound of the learned temperature (reference 0.001)."""
    temp_max: Annotated[float, Gt(0)] = 0.5
    """Upper bound of the learned temperature (reference 0.5)."""
    positives: Literal["ids", "pairs"] = "ids"
    """"ids": pairs with the same image id or the same text are positives of each other. "pairs": a pair is
    its own only positive, as in the reference's pretraining."""
    contrast_all_workers: bool = True
    """Contrast with the current batches of all workers; the reference uses only the worker's own batch."""
    negative_all_rank: bool = False
    """Draw ITM's negatives from the batches of all workers instead of the worker's own (reference: true when
    finetuning on COCO)."""
    negative_floor: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Added to the sampling weight of every negative (reference: 1e-4 in pretraining)."""
    teacher_dropout: bool = False
    """Keep dropout active in the momentum encoder, as the reference does."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Label smoothing of the language-modeling loss (paper 0.1)."""
    prompt: str = ""
    """Text in front of every caption that the decoder reads but is not trained to predict (reference: empty
    in pretraining, "a picture of " in finetuning)."""
    max_tokens: Annotated[int, Ge(4)] = 30
    """Maximum text length in tokens (reference: pretraining 30, filter 35, captioner 40)."""
    max_words: Annotated[int, Ge(1)] = MAX_WORDS
    """Maximum words of a text; the rest is cut off (reference 30)."""

    def __post_init__(self) -> None:
        if len(set(self.losses)) < len(self.losses):
            raise ValueError(f"losses {list(self.losses)} contain a duplicate: list each loss once")
        if self.queue_size == 0 and self.alpha > 0 and "itc" in self.losses:
            raise ValueError(
                f"alpha {self.alpha} needs the momentum encoder, which queue_size 0 disables: set alpha to 0 "
                "or queue_size above 0"
            )
        if self.temp_min >= self.temp_max:
            raise ValueError(f"temp_min {self.temp_min} must be less than temp_max {self.temp_max}")
        if self.prompt and "lm" not in self.losses:
            raise ValueError(
                f"prompt {self.prompt!r} is used only by the loss lm: add lm to losses or remove prompt"
            )

    @classmethod
    def reference(cls, **changes: Any) -> ObjectiveConfig:
        """The settings of the reference code's pretraining, with `changes` applied."""
        code = {"positives": "pairs", "contrast_all_workers": False}
        return cls(**{**code, "negative_floor": 1e-4, "teacher_dropout": True, **changes})


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule. The defaults are the paper's pretraining of ViT-B."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    lr: Annotated[float, Gt(0)] = 3e-4
    """Peak learning rate. Paper: 3e-4 (ViT-B) or 2e-4 (ViT-L) in pretraining; 1e-5 in finetuning (ViT-L:
    captioner 2e-6, filter 5e-6)."""
    vision_lr_scale: Annotated[float, Ge(0)] = 1.0
    """Learning rate of the image encoder relative to `lr`; 0 freezes it. Paper: 1."""
    weight_decay: Annotated[float, Ge(0)] = 0.05
    """Weight decay of matrices (paper 0.05)."""
    decay_all: bool = False
    """Also decay norms, biases, positions and the temperature, as the reference does."""
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    """AdamW's betas (reference: torch's defaults)."""
    warmup_steps: Annotated[int, Ge(0)] = 3000
    """Steps of linear warm-up (reference: 3000 in pretraining, 0 in finetuning)."""
    warmup_lr: Annotated[float, Ge(0)] = 1e-6
    """Learning rate of the first warm-up step (reference 1e-6)."""
    schedule: Literal["exponential", "cosine", "linear", "constant"] = "exponential"
    """Decay after warm-up: "exponential" by `decay_rate` per epoch (reference: pretraining); "cosine"
    (reference: finetuning) or "linear" down to `min_lr` at the last step; "constant" none."""
    decay_rate: Annotated[float, Gt(0), Le(1)] = 0.85
    """Exponential schedule only: factor per epoch (paper 0.85, reference code 0.9)."""
    decay_every: Literal["step", "epoch"] = "step"
    """Whether the learning rate decays every step, or only between epochs as in the reference."""
    min_lr: Annotated[float, Ge(0)] = 1e-6
    """Lower bound of the decayed learning rate (reference: 1e-6 in pretraining, 0 in finetuning)."""
    clip_grad: Annotated[float, Ge(0)] = 0.0
    """Maximum gradient norm; 0 disables clipping (reference 0)."""

    def __post_init__(self) -> None:
        if self.min_lr > self.lr or self.warmup_lr > self.lr:
            raise ValueError(
                f"min_lr {self.min_lr} and warmup_lr {self.warmup_lr} must not exceed lr {self.lr}: "
                "lower them"
            )

    @classmethod
    def reference(cls, **changes: Any) -> OptimizerConfig:
        """The settings of the reference code, with `changes` applied."""
        return cls(**{"decay_all": True, "decay_rate": 0.9, "decay_every": "epoch", **changes})


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images. `min_scale: 1`, `hflip: false`, `randaugment: false` disables all of
    it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    min_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    """Minimum area of a random crop relative to the image. Reference: 0.2 in pretraining, 0.5 in finetuning.
    1: no crop, the whole image is resized to a square as in evaluation."""
    hflip: bool = True
    """Flip half of the images horizontally, as the paper does, even if a caption says left or right."""
    randaugment: bool = True
    """Apply RandAugment with the two settings below."""
    operations: Annotated[int, Ge(1)] = 2
    """Number of operations drawn per image (reference 2)."""
    magnitude: Annotated[float, Ge(0), Le(MAX_MAGNITUDE)] = 5.0
    """Strength of the operations, 0 to 10 (reference 5, where brightness and sharpness do nothing)."""
