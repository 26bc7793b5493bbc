"""The checkpoint format of transformers 5: a folder with safetensors and config.json.

Supports `BlipForConditionalGeneration`, `BlipForImageTextRetrieval` and `BlipForQuestionAnswering`.
transformers has no class for a whole pretrained MED or for NLVR2.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from capfilt.models.checkpoints.files import CONFIG, CheckpointError
from capfilt.models.checkpoints.weights import CONFIG_KEY, TRAINING_STATE, Weights, reject_conv_stem
from capfilt.models.config import MedConfig, Parts, TextConfig, VisionConfig
from capfilt.models.images.pixels import MEAN, STD
from capfilt.models.network.med import INITIAL_TEMPERATURE
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.network.vit import LAYER_NORM_EPS

LABEL_SMOOTHING = 0.1  # salesforce/BLIP models/med.py; transformers defaults to 0
HF_CLASSES: dict[Parts, str] = {
    "captioner": "BlipForConditionalGeneration",
    "filter": "BlipForImageTextRetrieval",
    "vqa": "BlipForQuestionAnswering",
}

# (MED's name, transformers' name); # stands for the block number, a trailing dot for any suffix.
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
    stored: Mapping[str, Tensor], metadata: Mapping[str, str], config: dict[str, Any], source: str
) -> Weights:
    """Read a transformers folder.

    Args:
        stored: tensors of the safetensors file.
        metadata: metadata of the safetensors file.
        config: content of config.json.
        source: the folder, for error messages.

    Raises:
        CheckpointError: the model is not one of the three supported classes.
    """
    from transformers import BlipConfig  # slow to import, and needed only here

    try:
        blip: Any = BlipConfig.from_dict(config)
    except Exception as error:  # transformers checks its configs with errors of several libraries
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{source}/{CONFIG} is not a config of BLIP: {reason}") from error
    tensors = {
        rename_from_hf(name): tensor for name, tensor in stored.items() if not TRAINING_STATE.search(name)
    }
    parts = _infer_parts(tensors, source)
    if {blip.vision_config.hidden_act, blip.text_config.hidden_act} != {"gelu"}:
        raise CheckpointError(f"{source}: hidden_act must be gelu, as in BLIP")
    notes = []
    if blip.vision_config.layer_norm_eps != LAYER_NORM_EPS:
        notes.append(
            f"the file has vision layer_norm_eps {blip.vision_config.layer_norm_eps}; "
            f"using BLIP's {LAYER_NORM_EPS}"
        )
    if parts == "filter":
        temperature = metadata.get("temp")
        tensors["temp"] = torch.tensor(float(temperature or INITIAL_TEMPERATURE))
        if temperature is None:
            notes.append(f"transformers does not store the temperature; using {INITIAL_TEMPERATURE}")
    try:
        own = MedConfig.from_dict(config[CONFIG_KEY]) if CONFIG_KEY in config else None
        model = own or _config_from_hf(blip, parts)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{source}/{CONFIG} has no valid model config: {error}") from error
    return Weights(config=model, tensors=tensors, notes=notes, special_ids=_special_ids(config, model))


def _special_ids(config: Mapping[str, Any], model: MedConfig) -> dict[str, int]:
    """Ids that config.json gives to [DEC] and [SEP], with which transformers starts and ends a caption.

    Only models that write texts use them. Ids outside the vocabulary are defaults of transformers, not a
    property of the model.
    """
    text = config.get("text_config")
    if model.parts not in ("captioner", "vqa") or not isinstance(text, Mapping):
        return {}
    ids = {"dec": text.get("bos_token_id"), "sep": text.get("sep_token_id")}
    return {name: i for name, i in ids.items() if isinstance(i, int) and i < model.text.vocab_size}


def _infer_parts(tensors: Mapping[str, Tensor], source: str) -> Parts:
    """Infer from the module names which class of transformers the tensors belong to."""
    modules = {name.partition(".")[0] for name in tensors}
    has_encoder, has_decoder, has_itm_head = (
        name in modules for name in ("text_encoder", "text_decoder", "itm_head")
    )
    if (not has_encoder and not has_decoder) or (has_decoder and has_itm_head):
        raise CheckpointError(f"{source} is not a checkpoint of {', '.join(HF_CLASSES.values())}")
    if not has_decoder:
        return "filter"
    return "vqa" if has_encoder else "captioner"


def _config_from_hf(blip: Any, parts: Parts) -> MedConfig:
    """Sizes from a BlipConfig. Dropout is BLIP's 0.1; the 0 of transformers is a default, not a property of
    BLIP."""
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
    """Tensors, safetensors metadata and config.json of a transformers folder.

    Raises:
        CheckpointError: transformers has no class for the model: a whole pretrained MED, an "nlvr", a "vqa"
            whose text and image widths differ, or a conv stem.
    """
    config = weights.config
    reject_unsupported(config)
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
        CONFIG_KEY: config.to_dict(),
    }
    return tensors, metadata, blip


def reject_unsupported(config: MedConfig) -> None:
    """Raise CheckpointError for a model that transformers has no class for."""
    reject_conv_stem(config)
    if config.parts not in HF_CLASSES:
        alternative = {
            "pretrain": 'export its "captioner" or its "filter" (convert: --parts captioner)',
            "nlvr": 'export to "blip" or "capfilt"',
        }
        raise CheckpointError(
            f'transformers has no class for parts "{config.parts}": {alternative[config.parts]}'
        )
    if config.parts == "vqa" and config.vision.width != config.text.width:
        raise CheckpointError(
            "BlipForQuestionAnswering requires text and image of equal width, but they are "
            f'{config.text.width} and {config.vision.width}: export to "blip" or "capfilt"'
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
    """Content of preprocessor_config.json: bicubic resize to a square, CLIP's mean and standard deviation."""
    return {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,  # Pillow's BICUBIC
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def rename_from_hf(name: str) -> str:
    """MED's name of a tensor of transformers; names outside the image encoder are the same."""
    return _rename(name, ((hf_name, med_name) for med_name, hf_name in HF_VISION_NAMES))


def rename_to_hf(name: str) -> str:
    """The inverse of `rename_from_hf`."""
    return _rename(name, HF_VISION_NAMES)


def _rename(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        pattern = re.escape(old).replace(r"\#", r"(?P<block>\d+)") + ("" if old.endswith(".") else "$")
        match = re.match(pattern, name)
        if match:
            return new.replace("#", match.groupdict().get("block", "")) + name[match.end() :]
    return name
