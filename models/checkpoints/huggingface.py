"""BLIP's weights as transformers stores them: a folder of safetensors and config.json (transformers 5).

Read and written are `BlipForConditionalGeneration`, `BlipForImageTextRetrieval` and
`BlipForQuestionAnswering`; no class of transformers holds a whole pretrained MED, or judges pairs of images.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.weights import OURS, TRAINING_STATE, Weights, refuse_conv_stem
from capfilt.models.config import MedConfig, Parts, TextConfig, VisionConfig
from capfilt.models.images.pixels import MEAN, STD
from capfilt.models.network.med import INITIAL_TEMPERATURE
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.network.vit import LAYER_NORM_EPS

LABEL_SMOOTHING = 0.1  # salesforce/BLIP models/network/med.py; transformers defaults to 0
HF_CLASSES: dict[Parts, str] = {
    "captioner": "BlipForConditionalGeneration",
    "filter": "BlipForImageTextRetrieval",
    "vqa": "BlipForQuestionAnswering",
}

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


def from_hf(
    found: Mapping[str, Tensor], metadata: Mapping[str, str], config: dict[str, Any], what: str
) -> Weights:
    """The tensors, safetensors metadata and config.json of a transformers folder.

    CheckpointError for other classes than the three named above.
    """
    from transformers import BlipConfig  # slow to import, and only this needs it

    blip: Any = BlipConfig.from_dict(config)
    tensors = {
        rename_from_hf(name): tensor for name, tensor in found.items() if not TRAINING_STATE.search(name)
    }
    parts = _parts_of(tensors, what)
    if {blip.vision_config.hidden_act, blip.text_config.hidden_act} != {"gelu"}:
        raise CheckpointError(f"{what} has another hidden_act than gelu: BLIP knows only that")
    notes = []
    if blip.vision_config.layer_norm_eps != LAYER_NORM_EPS:
        notes.append(
            f"vision layer_norm_eps is {blip.vision_config.layer_norm_eps} there; BLIP's 1e-6 is used"
        )
    if parts == "filter":
        temperature = metadata.get("temp")
        tensors["temp"] = torch.tensor(float(temperature or INITIAL_TEMPERATURE))
        if temperature is None:
            notes.append(f"transformers stores no temperature; {INITIAL_TEMPERATURE} is used")
    if OURS in config:
        return Weights(config=MedConfig.from_dict(config[OURS]), tensors=tensors, notes=notes)
    return Weights(config=_config_from_hf(blip, parts), tensors=tensors, notes=notes)


def _parts_of(tensors: Mapping[str, Tensor], what: str) -> Parts:
    """Which class wrote tensors of these names, told by the modules they are in."""
    modules = {name.partition(".")[0] for name in tensors}
    encodes, decodes, judges = (name in modules for name in ("text_encoder", "text_decoder", "itm_head"))
    if (not encodes and not decodes) or (decodes and judges):
        raise CheckpointError(
            f"{what} is none of {', '.join(HF_CLASSES.values())}: give a folder of one of them"
        )
    if not decodes:
        return "filter"
    return "vqa" if encodes else "captioner"


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

    CheckpointError for what transformers has no class for: a whole pretrained model, pairs of images, an
    answerer whose text and image widths differ, a conv stem.
    """
    config = weights.config
    _refuse_other_models(config)
    tensors = {rename_to_hf(name): tensor for name, tensor in weights.tensors.items() if name != "temp"}
    metadata = {"format": "pt"}
    if "temp" in weights.tensors:
        metadata["temp"] = repr(weights.tensors["temp"].item())
    blip = {
        "architectures": [HF_CLASSES[config.parts]],
        "model_type": "blip",
        "image_text_hidden_size": config.embed_dim,
        "text_config": _text_to_hf(config, tokenizer),
        "vision_config": _vision_to_hf(config),
        OURS: config.to_dict(),
    }
    return tensors, metadata, blip


def _refuse_other_models(config: MedConfig) -> None:
    refuse_conv_stem(config)
    if config.parts not in HF_CLASSES:
        way_out = {
            "pretrain": 'export a "captioner" or a "filter" of it',
            "nlvr": 'write it as "blip" or "capfilt"',
        }
        raise CheckpointError(
            f'transformers has no class for parts "{config.parts}": {way_out[config.parts]}'
        )
    if config.parts == "vqa" and config.vision.width != config.text.width:
        raise CheckpointError(
            f"BlipForQuestionAnswering reads questions as if they were as wide as the image, "
            f"{config.vision.width}, and these are {config.text.width} wide: "
            'write it as "blip" or "capfilt"'
        )


def _text_to_hf(config: MedConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
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


def _vision_to_hf(config: MedConfig) -> dict[str, Any]:
    return {
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
