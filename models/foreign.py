"""BLIP's weights as others store them: salesforce/BLIP .pth files and transformers BLIP folders.

MED's names are those of the .pth files; transformers renames the image encoder only. What is read is what
salesforce/BLIP 056a169 and LAVIS write, and transformers 5 folders of `BlipForConditionalGeneration` and
`BlipForImageTextRetrieval`; no class of transformers holds a whole pretrained MED.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.config import MedConfig, Parts, Sharing, TextConfig, VisionConfig
from models.files import CheckpointError
from models.images import MEAN, STD
from models.med import INITIAL_TEMPERATURE, TIED_PIECES
from models.tensors import POSITIONS
from models.tokenizer import Tokenizer
from models.vit import LAYER_NORM_EPS

HEAD_WIDTH = 64  # channels per head in every released BLIP; .pth files hold no head count
OURS = "capfilt"  # where we leave our own config in others' files, so that nothing is lost on the way back
LABEL_SMOOTHING = 0.1  # salesforce/BLIP models/med.py; transformers defaults to 0
HF_CLASSES: dict[Parts, str] = {
    "captioner": "BlipForConditionalGeneration",
    "filter": "BlipForImageTextRetrieval",
}
# Momentum copies, queues and index buffers: state of BLIP's training, no part of the model.
TRAINING_STATE = re.compile(
    r"^\w+_m\.|^(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$|\.position_ids$"
)
MOMENTUM_MODULES = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")

# Ours (= salesforce's) beside transformers'; # stands for a block's number, a closing dot for any ending.
HF_VISION_NAMES = (
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.norm.", "vision_model.post_layernorm."),
    ("visual_encoder.blocks.#.norm1.", "vision_model.encoder.layers.#.layer_norm1."),
    ("visual_encoder.blocks.#.norm2.", "vision_model.encoder.layers.#.layer_norm2."),
    ("visual_encoder.blocks.#.attn.qkv.", "vision_model.encoder.layers.#.self_attn.qkv."),
    ("visual_encoder.blocks.#.attn.proj.", "vision_model.encoder.layers.#.self_attn.projection."),
    ("visual_encoder.blocks.#.mlp.", "vision_model.encoder.layers.#.mlp."),
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a checkpoint holds, whoever wrote it."""

    config: MedConfig
    """Its `parts` are what the file holds."""
    tensors: dict[str, Tensor]
    """Under MED's names."""
    notes: list[str] = field(default_factory=list)
    """What the file lacks or says wrongly, and what is used instead."""


def from_hf(
    found: Mapping[str, Tensor], metadata: Mapping[str, str], config: dict[str, Any], what: str
) -> Weights:
    """The tensors, safetensors metadata and config.json of a transformers folder.

    CheckpointError for other classes than the two named above.
    """
    from transformers import BlipConfig  # slow to import, and only this needs it

    blip: Any = BlipConfig.from_dict(config)
    tensors = {
        rename_from_hf(name): tensor for name, tensor in found.items() if not TRAINING_STATE.search(name)
    }
    captions, judges = "text_decoder.cls.predictions.bias" in tensors, "itm_head.weight" in tensors
    if captions == judges:
        raise CheckpointError(
            f"{what} is none of {', '.join(HF_CLASSES.values())}: give a folder of one of them"
        )
    if {blip.vision_config.hidden_act, blip.text_config.hidden_act} != {"gelu"}:
        raise CheckpointError(f"{what} has another hidden_act than gelu: BLIP knows only that")
    notes = []
    if blip.vision_config.layer_norm_eps != LAYER_NORM_EPS:
        notes.append(
            f"vision layer_norm_eps is {blip.vision_config.layer_norm_eps} there; BLIP's 1e-6 is used"
        )
    if judges:
        temperature = metadata.get("temp")
        tensors["temp"] = torch.tensor(float(temperature or INITIAL_TEMPERATURE))
        if temperature is None:
            notes.append(f"transformers stores no temperature; {INITIAL_TEMPERATURE} is used")
    if OURS in config:
        return Weights(config=MedConfig.from_dict(config[OURS]), tensors=tensors, notes=notes)
    parts: Parts = "filter" if judges else "captioner"
    return Weights(config=_config_from_hf(blip, parts), tensors=tensors, notes=notes)


def _config_from_hf(blip: Any, parts: Parts) -> MedConfig:
    """Sizes from a BlipConfig; dropout is BLIP's 0.1, since transformers' 0 is a default and no fact."""
    vision, text = blip.vision_config, blip.text_config
    return MedConfig(
        vision=VisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            width=vision.hidden_size,
            depth=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            mlp_ratio=vision.intermediate_size / vision.hidden_size,
        ),
        text=TextConfig(
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            depth=text.num_hidden_layers,
            heads=text.num_attention_heads,
            ffn=text.intermediate_size,
            max_positions=text.max_position_embeddings,
            layer_norm_eps=text.layer_norm_eps,
        ),
        embed_dim=blip.image_text_hidden_size,
        parts=parts,
    )


def to_hf(weights: Weights, tokenizer: Tokenizer) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors, safetensors metadata and config.json of a transformers folder, with BLIP's own values.

    CheckpointError for a whole pretrained model, or a conv stem.
    """
    config = weights.config
    _refuse_conv_stem(config)
    if config.parts not in HF_CLASSES:
        raise CheckpointError(
            'transformers has no class for parts "pretrain": export a "captioner" or a "filter"'
        )
    tensors = {rename_to_hf(name): tensor for name, tensor in weights.tensors.items() if name != "temp"}
    metadata = {"format": "pt"}
    if "temp" in weights.tensors:
        metadata["temp"] = repr(weights.tensors["temp"].item())
    text = {
        "vocab_size": config.text.vocab_size,
        "hidden_size": config.text.width,
        "encoder_hidden_size": config.vision.width,
        "num_hidden_layers": config.text.depth,
        "num_attention_heads": config.text.heads,
        "intermediate_size": config.text.ffn,
        "max_position_embeddings": config.text.max_positions,
        "layer_norm_eps": config.text.layer_norm_eps,
        "hidden_dropout_prob": config.text.dropout,
        "attention_probs_dropout_prob": config.text.dropout,
        "initializer_range": config.text.init_std,
        "label_smoothing": LABEL_SMOOTHING,
        "bos_token_id": tokenizer.dec_id,
        "eos_token_id": tokenizer.sep_id,
        "sep_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
        "model_type": "blip_text_model",
    }
    vision = {
        "image_size": config.vision.image_size,
        "patch_size": config.vision.patch_size,
        "hidden_size": config.vision.width,
        "num_hidden_layers": config.vision.depth,
        "num_attention_heads": config.vision.heads,
        "intermediate_size": int(config.vision.width * config.vision.mlp_ratio),
        "layer_norm_eps": LAYER_NORM_EPS,
        "initializer_range": 0.02,
        "model_type": "blip_vision_model",
    }
    blip = {
        "architectures": [HF_CLASSES[config.parts]],
        "model_type": "blip",
        "image_text_hidden_size": config.embed_dim,
        "text_config": text,
        "vision_config": vision,
        OURS: config.to_dict(),
    }
    return tensors, metadata, blip


def hf_image_processor(image_size: int) -> dict[str, Any]:
    """preprocessor_config.json: squash to a square, bicubic, CLIP's mean and deviation."""
    return {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,  # bicubic, in Pillow's numbering
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def rename_from_hf(name: str) -> str:
    """A tensor's name in transformers to ours; the text half's names are the same."""
    return _rename(name, ((theirs, ours) for ours, theirs in HF_VISION_NAMES))


def rename_to_hf(name: str) -> str:
    """The reverse of `rename_from_hf`."""
    return _rename(name, HF_VISION_NAMES)


def _rename(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        pattern = re.escape(old).replace(r"\#", r"(?P<block>\d+)") + ("" if old.endswith(".") else "$")
        match = re.match(pattern, name)
        if match:
            return new.replace("#", match.groupdict().get("block", "")) + name[match.end() :]
    return name


def from_blip(content: Mapping[str, Any], what: str) -> Weights:
    """The dictionary in a salesforce/BLIP or LAVIS .pth: sizes and sharing are read off the tensors."""
    found = content.get("model", content)
    if not isinstance(found, Mapping) or POSITIONS not in found:
        raise CheckpointError(f"{what} has no {POSITIONS}: a .pth of salesforce/BLIP or LAVIS is due")
    tensors = {name: tensor for name, tensor in found.items() if not TRAINING_STATE.search(name)}
    if isinstance(content.get(OURS), Mapping):
        return Weights(config=MedConfig.from_dict(dict(content[OURS])), tensors=tensors)
    try:
        return Weights(config=_config_from_blip(tensors), tensors=tensors)
    except KeyError as error:
        raise CheckpointError(f"{what} is no BLIP of text and image", missing=[str(error.args[0])]) from error


def _config_from_blip(tensors: Mapping[str, Tensor]) -> MedConfig:
    patches, width = tensors[POSITIONS].shape[1] - 1, tensors[POSITIONS].shape[2]
    patch_size = tensors["visual_encoder.patch_embed.proj.weight"].shape[-1]
    encoder, decoder = "text_encoder.", "text_decoder.bert."
    encodes, decodes = (f"{prefix}embeddings.LayerNorm.bias" in tensors for prefix in (encoder, decoder))
    parts: Parts = "pretrain" if encodes and decodes else "filter" if encodes else "captioner"
    text = encoder if encodes else decoder
    vocab_size, text_width = tensors[f"{text}embeddings.word_embeddings.weight"].shape
    return MedConfig(
        vision=VisionConfig(
            image_size=round(patches**0.5) * patch_size,
            patch_size=patch_size,
            width=width,
            depth=_blocks(tensors, "visual_encoder.blocks."),
            heads=max(1, width // HEAD_WIDTH),
            mlp_ratio=tensors["visual_encoder.blocks.0.mlp.fc1.bias"].shape[0] / width,
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            width=text_width,
            depth=_blocks(tensors, f"{text}encoder.layer."),
            heads=max(1, text_width // HEAD_WIDTH),
            ffn=tensors[f"{text}encoder.layer.0.intermediate.dense.bias"].shape[0],
            max_positions=tensors[f"{text}embeddings.position_embeddings.weight"].shape[0],
        ),
        embed_dim=tensors["vision_proj.bias"].shape[0] if encodes else MedConfig().embed_dim,
        sharing=_sharing(tensors) if parts == "pretrain" else MedConfig().sharing,
        parts=parts,
    )


def _blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in tensors if name.startswith(prefix))


def _sharing(tensors: Mapping[str, Tensor]) -> Sharing:
    """Which sharing of Table 3 a pretrained file shows: that of most pieces equal in both towers."""
    layer = "encoder.layer.0."
    equal = {
        piece: all(
            torch.equal(tensor, tensors[name.replace("text_encoder.", "text_decoder.bert.", 1)])
            for name, tensor in tensors.items()
            if name.startswith(f"text_encoder.{layer}{piece}.")
        )
        for piece in TIED_PIECES["all"]
    }
    return next(sharing for sharing, pieces in TIED_PIECES.items() if all(equal[piece] for piece in pieces))


def to_blip(weights: Weights) -> dict[str, Any]:
    """The dictionary of a .pth that salesforce/BLIP's loaders take, momentum copies and position ids too.

    Copies share their tensor's storage, which torch.save writes once. CheckpointError for a conv stem.
    """
    _refuse_conv_stem(weights.config)
    tensors = dict(weights.tensors)
    for name in weights.tensors:
        module, _, rest = name.partition(".")
        if weights.config.parts != "captioner" and module in MOMENTUM_MODULES:
            tensors[f"{module}_m.{rest}"] = tensors[name]
        if name.endswith("embeddings.position_embeddings.weight"):
            ids = torch.arange(tensors[name].shape[0])[None]
            tensors[name.replace("position_embeddings.weight", "position_ids")] = ids
    return {"model": tensors, OURS: weights.config.to_dict()}


def _refuse_conv_stem(config: MedConfig) -> None:
    if config.vision.stem != "patch":
        raise CheckpointError(
            f'vision.stem is "{config.vision.stem}": BLIP and transformers know only "patch"'
        )
