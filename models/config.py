"""Every setting of models/: sizes, losses, optimizer, augmentation, decoding. The defaults are the paper's.

Nothing heavy is imported here, so that a config is read and refused in a second and a driver needs no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

Parts = Literal["pretrain", "captioner", "filter", "vqa", "nlvr"]
Sharing = Literal["all_but_sa", "all_but_ca", "all", "none"]
Loss = Literal["itc", "itm", "lm"]

MAX_MAGNITUDE = 10  # the scale of RandAugment's `magnitude`


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The image encoder's size. Defaults: ViT-B/16; ViT-L/16 is width 1024, depth 24, heads 16."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    image_size: Annotated[int, Gt(0)] = 224
    """Side of the square input in pixels, a multiple of patch_size. Paper: 224, then 384 in finetuning."""
    patch_size: Annotated[int, Gt(0)] = 16
    """Pixels per side that one token stands for."""
    width: Annotated[int, Gt(0)] = 768
    """Channels of a token."""
    depth: Annotated[int, Gt(0)] = 12
    """Transformer blocks."""
    heads: Annotated[int, Gt(0)] = 12
    """Attention heads; divides width."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Hidden width of a block's MLP over width."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Stochastic depth of the last block, rising linearly from 0. Reference: 0 for ViT-B, 0.1 for ViT-L."""
    stem: Literal["patch", "conv"] = "patch"
    """"patch" is ViT's one linear projection; "conv" a stack of small convolutions, for tiny models."""
    checkpoint_layers: Annotated[int, Ge(0)] = 0
    """How many of the last blocks recompute their activations in the backward pass, to save memory."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"vision.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"vision.width {self.width} cannot be split into {self.heads} heads: choose a divisor"
            )
        if self.checkpoint_layers > self.depth:
            raise ValueError(
                f"vision.checkpoint_layers {self.checkpoint_layers} exceeds depth {self.depth}: at most all"
            )
        if self.stem == "conv" and self.patch_size not in (8, 16, 32):
            raise ValueError(
                f'vision.patch_size {self.patch_size} does not suit stem "conv": use 8, 16 or 32'
            )

    @property
    def tokens(self) -> int:
        """N, the tokens one image becomes: CLS and the patches (197 at 224 pixels, 577 at 384)."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text transformer's size. The defaults are BERT-base with BLIP's two extra tokens."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    vocab_size: Annotated[int, Gt(0)] = 30524
    """Tokens known: bert-base-uncased's 30522, then [DEC] and [ENC]."""
    width: Annotated[int, Gt(0)] = 768
    """Channels of a token."""
    depth: Annotated[int, Gt(0)] = 12
    """Layers."""
    heads: Annotated[int, Gt(0)] = 12
    """Attention heads; divides width."""
    ffn: Annotated[int, Gt(0)] = 3072
    """Hidden width of the feed-forward."""
    max_positions: Annotated[int, Gt(0)] = 512
    """Longest text in tokens."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Of embeddings, sub-layer outputs and attention probabilities, in training. BERT and BLIP: 0.1."""
    layer_norm_eps: Annotated[float, Gt(0)] = 1e-12
    """Added to the variance in every norm. BERT: 1e-12."""
    init_std: Annotated[float, Gt(0)] = 0.02
    """Spread of new matrices. BERT and BLIP (configs/med_config.json): 0.02; at a width of 64 and with few steps
    0.08 learns faster."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"text.width {self.width} cannot be split into {self.heads} heads: choose a divisor"
            )


@dataclass(frozen=True, kw_only=True)
class MedConfig:
    """A whole model: its two towers, and which parts of it exist."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    vision: VisionConfig = field(default_factory=VisionConfig)
    """The image encoder."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoder and decoder, which are equal in size."""
    embed_dim: Annotated[int, Gt(0)] = 256
    """Width of the joint image-text embedding of ITC. Paper: 256."""
    sharing: Sharing = "all_but_sa"
    """What text encoder and decoder share in pretraining: all but self-attention (the paper's choice, Table
    3), all but cross-attention, all, or none. Without effect on other parts: finetuned towers go apart."""
    parts: Parts = "pretrain"
    """"captioner": image encoder + decoder. "filter": image encoder + text encoder + ITC and ITM heads.
    "pretrain": all of these. "vqa": image encoder + text encoder + a decoder that reads the encoder's states
    (paper, figure 5a). "nlvr": image encoder + a text encoder that reads two images + classifier (figure 5b)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and numbers, for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MedConfig:
        """The reverse of `to_dict`. ValueError names keys that no field has."""
        values = dict(values)
        _refuse_unknown("model", cls, values)
        for name, config in (("vision", VisionConfig), ("text", TextConfig)):
            if name in values:
                _refuse_unknown(f"model.{name}", config, values[name])
                values[name] = config(**values[name])
        return cls(**values)


def _refuse_unknown(where: str, config: type, values: dict[str, Any]) -> None:
    known = [f.name for f in fields(config)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which losses are trained, and how. The defaults are the paper's pretraining."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    losses: Annotated[tuple[Loss, ...], MinLen(1)] = ("itc", "itm", "lm")
    """Summed with equal weight. Pretraining: all; the captioner: lm; the filter: itc and itm."""
    queue_size: Annotated[int, Ge(0)] = 57600
    """Pairs that ITC's queue holds (paper 57600); any batch fits. 0: contrast within the batch, no momentum
    encoders, and hence no soft labels (set `alpha` to 0)."""
    momentum: Annotated[float, Ge(0), Le(1)] = 0.995
    """Share of itself that the momentum encoder keeps per step (paper 0.995)."""
    alpha: Annotated[float, Ge(0), Le(1)] = 0.4
    """Weight of the momentum encoder's similarities in ITC's targets (paper 0.4); pairs get the rest."""
    alpha_ramp_epochs: Annotated[float, Ge(0)] = 2.0
    """Epochs over which `alpha` rises linearly from 0 (reference: 2 in pretraining, 1 in finetuning)."""
    temp_min: Annotated[float, Gt(0)] = 0.001
    """The learned temperature is held above this (reference 0.001)."""
    temp_max: Annotated[float, Gt(0)] = 0.5
    """The learned temperature is held below this (reference 0.5)."""
    positives: Literal["ids", "pairs"] = "ids"
    """"ids": pairs with the same image id or the same text are positives of one another. "pairs": only a pair
    itself is, as in the reference's pretraining."""
    contrast_all_workers: bool = True
    """ITC compares with the current batch of every worker; the reference with the worker's own."""
    negative_all_rank: bool = False
    """Draw ITM's negatives from every worker's batch (reference: true in finetuning on COCO), not just the
    worker's own."""
    negative_floor: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Added to every negative's weight before drawing (reference: 1e-4 in pretraining)."""
    teacher_dropout: bool = False
    """Keep dropout on in the momentum encoder, as the reference does."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Of the language model (paper 0.1)."""
    prompt: str = ""
    """Text before every caption that is read but not predicted: "a picture of " in finetuning."""
    max_tokens: Annotated[int, Ge(4)] = 30
    """Longest text in tokens (reference: pretraining 30, filter 35, captioner 40)."""
    max_words: Annotated[int, Ge(1)] = 30
    """Words of a text that are kept (reference 30)."""

    def __post_init__(self) -> None:
        if len(set(self.losses)) < len(self.losses):
            raise ValueError(f"losses {list(self.losses)} name one twice: each is summed once")
        if self.queue_size == 0 and self.alpha > 0 and "itc" in self.losses:
            raise ValueError(
                f"queue_size 0 has no momentum encoder, so alpha {self.alpha} has no soft labels to weigh: "
                "set alpha to 0 or queue_size above 0"
            )
        if self.temp_min >= self.temp_max:
            raise ValueError(f"temp_min {self.temp_min} must be below temp_max {self.temp_max}")
        if self.prompt and "lm" not in self.losses:
            raise ValueError(f"prompt {self.prompt!r} is read by the loss lm only, which losses lacks")

    @classmethod
    def reference(cls, **changes: Any) -> ObjectiveConfig:
        """The defaults with the choices of the reference code's pretraining; `changes` override them."""
        code = {"positives": "pairs", "contrast_all_workers": False}
        return cls(**{**code, "negative_floor": 1e-4, "teacher_dropout": True, **changes})


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights are moved. The defaults are the paper's pretraining of ViT-B."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    lr: Annotated[float, Gt(0)] = 3e-4
    """Peak learning rate. Paper: 3e-4 (ViT-B) or 2e-4 (ViT-L); finetuning 1e-5 (ViT-L: captioner 2e-6, filter
    5e-6)."""
    vision_lr_scale: Annotated[float, Ge(0)] = 1.0
    """The image encoder's learning rate over `lr`; 0 leaves it as it is. Paper: 1."""
    weight_decay: Annotated[float, Ge(0)] = 0.05
    """Of matrices (paper 0.05)."""
    decay_all: bool = False
    """Decay norms, biases, positions and the temperature as well, as the reference does."""
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    """AdamW's averaging of gradient and of its square (reference: torch's defaults)."""
    warmup_steps: Annotated[int, Ge(0)] = 3000
    """Optimizer steps over which the rate rises linearly (reference 3000 in pretraining, 0 in finetuning)."""
    warmup_lr: Annotated[float, Ge(0)] = 1e-6
    """Rate of the first warm-up step (reference 1e-6)."""
    schedule: Literal["exponential", "cosine", "linear", "constant"] = "exponential"
    """Decay after warm-up: by `decay_rate` per epoch (pretraining), or down to `min_lr` at the last step
    (cosine: finetuning)."""
    decay_rate: Annotated[float, Gt(0), Le(1)] = 0.85
    """Exponential only: factor per epoch (paper 0.85, reference code 0.9)."""
    decay_every: Literal["step", "epoch"] = "step"
    """Whether the rate falls a little every step, or only between epochs as in the reference."""
    min_lr: Annotated[float, Ge(0)] = 1e-6
    """The rate never falls below (reference 1e-6 in pretraining, 0 in finetuning)."""
    clip_grad: Annotated[float, Ge(0)] = 0.0
    """Largest norm of the gradient; 0 does not clip (reference 0)."""

    def __post_init__(self) -> None:
        if self.min_lr > self.lr or self.warmup_lr > self.lr:
            raise ValueError(
                f"min_lr {self.min_lr} and warmup_lr {self.warmup_lr} cannot exceed lr {self.lr}: lower them"
            )

    @classmethod
    def reference(cls, **changes: Any) -> OptimizerConfig:
        """The defaults with the choices of the reference code; `changes` override them."""
        return cls(**{"decay_all": True, "decay_rate": 0.9, "decay_every": "epoch", **changes})


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training images are varied. `min_scale: 1`, `hflip: false`, `randaugment: false` is no change."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    min_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    """Smallest area of a crop, share of the image. Reference: 0.2 in pretraining, 0.5 in finetuning; 1 means
    no crop, the whole image is squashed as in evaluation."""
    hflip: bool = True
    """Mirror half of the images. The paper does, even when a caption says left or right."""
    randaugment: bool = True
    """Apply the operations below."""
    operations: Annotated[int, Ge(1)] = 2
    """Operations drawn per image (reference 2)."""
    magnitude: Annotated[float, Ge(0), Le(MAX_MAGNITUDE)] = 5.0
    """Strength of the operations, 0 to 10 (reference 5, at which Brightness and Sharpness change nothing)."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the captioner picks tokens. Lengths count new tokens, without the prompt, [SEP] included."""

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    strategy: Literal["nucleus", "beam", "greedy"] = "nucleus"
    """Nucleus sampling is the paper's choice for CapFilt (Table 2); beam 3 is its choice for caption
    benchmarks."""
    top_p: Annotated[float, Gt(0), Le(1)] = 0.9
    """Nucleus only: probability mass to keep; paper 0.9, 1 keeps all."""
    top_k: Annotated[int, Ge(0)] = 0
    """Nucleus only: most probable tokens to keep before `top_p`; 0 is off. BLIP's code applied 50 unsaid."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Nucleus only: logits are divided by it; paper 1."""
    repetition_penalty: Annotated[float, Gt(0)] = 1.0
    """Above 1 makes tokens that occurred less likely; 1 is off. BLIP's code fixed 1.1 when it sampled."""
    penalty_scope: Literal["generated", "all"] = "generated"
    """Which tokens count as occurred: the new ones, or the prompt's as well (BLIP's code)."""
    min_new_tokens: Annotated[int, Ge(0)] = 1
    """[SEP] cannot come before so many new tokens; 1 is BLIP's min_length 5 less its 4 prompt tokens."""
    max_new_tokens: Annotated[int, Ge(1)] = 16
    """Decoding ends after so many new tokens; 16 is BLIP's max_length 20 less its 4 prompt tokens."""
    num_beams: Annotated[int, Ge(2)] = 3
    """Beam only: hypotheses kept per image; paper 3. One would be `greedy`."""

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1], where 1 keeps every token")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be 0 (off) or the number of tokens to keep")
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise ValueError(
                f"temperature is {self.temperature} and repetition_penalty is {self.repetition_penalty}; "
                "both must be above 0 (strategy 'greedy' takes the most probable token)"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens} and max_new_tokens is {self.max_new_tokens}; "
                "0 <= min_new_tokens <= max_new_tokens and max_new_tokens >= 1 must hold"
            )
        if self.num_beams < 2:
            raise ValueError(f"num_beams is {self.num_beams}; it must be at least 2 (1 is strategy 'greedy')")

    @classmethod
    def reference(cls) -> SamplingConfig:
        """What BLIP's released code does when it is asked for nucleus sampling with p = 0.9."""
        return cls(top_k=50, repetition_penalty=1.1, penalty_scope="all")
