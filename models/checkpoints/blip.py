"""The checkpoint format of salesforce/BLIP and LAVIS: a .pth file with the state dict under "model".

Supports the layouts of blip_pretrain, blip_retrieval, blip (captions), blip_vqa and blip_nlvr. LAVIS uses the
same tensor names. It omits momentum copies, because its runner drops parameters without gradient, and the
temperature of models that have none (blip_image_text_matching).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.tensors import POSITIONS, strip_prefixes, unwrap
from capfilt.models.checkpoints.weights import CONFIG_KEY, TRAINING_STATE, Weights, reject_conv_stem
from capfilt.models.config import MedConfig, Parts, Sharing, TextConfig, VisionConfig
from capfilt.models.network.med import INITIAL_TEMPERATURE, SHARED_MODULES

HEAD_WIDTH = 64  # channels per head of every released BLIP; .pth files do not store the number of heads
MOMENTUM_MODULES = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
CONTRAST_MODULES = ("vision_proj", "text_proj", "itm_head", "temp")  # in pretraining, not in VQA


def from_blip(content: Mapping[str, Any], source: str) -> Weights:
    """Read the dictionary of a salesforce/BLIP or LAVIS .pth; sizes and sharing are inferred from the
    tensors.

    Args:
        content: the dictionary.
        source: the file, for error messages.

    Raises:
        CheckpointError: the tensors are not those of a BLIP.
    """
    values = unwrap(content)
    stored = strip_prefixes({name: value for name, value in values.items() if isinstance(value, Tensor)})
    if POSITIONS not in stored:
        raise CheckpointError(f"{source} has no {POSITIONS}: expected a .pth of salesforce/BLIP or LAVIS")
    tensors = {name: tensor for name, tensor in stored.items() if not TRAINING_STATE.search(name)}
    try:
        if isinstance(content.get(CONFIG_KEY), Mapping):
            return Weights(config=MedConfig.from_dict(dict(content[CONFIG_KEY])), tensors=tensors)
        config = _infer_config(tensors)
    except KeyError as error:
        raise CheckpointError(f"{source} is not a BLIP checkpoint", missing=[str(error.args[0])]) from error
    except (ValueError, IndexError, TypeError) as error:
        raise CheckpointError(f"{source} is not a BLIP checkpoint: {error}") from error
    notes = []
    if config.parts == "filter" and "temp" not in tensors:
        tensors["temp"] = torch.tensor(INITIAL_TEMPERATURE)
        notes.append(f"the file has no temperature; using {INITIAL_TEMPERATURE}")
    # init_tokenizer of salesforce/BLIP models/blip.py appends these two to the vocabulary.
    ids = {"dec": config.text.vocab_size - 2, "enc": config.text.vocab_size - 1}
    return Weights(config=config, tensors=tensors, notes=notes, special_ids=ids)


def _infer_config(tensors: Mapping[str, Tensor]) -> MedConfig:
    patches, width = tensors[POSITIONS].shape[1] - 1, tensors[POSITIONS].shape[2]
    patch_size = tensors["visual_encoder.patch_embed.proj.weight"].shape[-1]
    parts = _infer_parts(tensors)
    text = "text_decoder.bert." if parts == "captioner" else "text_encoder."
    contrast = tensors.get(
        "vision_proj.bias"
    )  # if required but missing, a later check lists all missing tensors
    vocab_size, text_width = tensors[f"{text}embeddings.word_embeddings.weight"].shape
    return MedConfig(
        vision=VisionConfig(
            image_size=round(patches**0.5) * patch_size,
            patch_size=patch_size,
            width=width,
            depth=_count_layers(tensors, "visual_encoder.blocks."),
            heads=max(1, width // HEAD_WIDTH),
            mlp_ratio=tensors["visual_encoder.blocks.0.mlp.fc1.bias"].shape[0] / width,
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            width=text_width,
            depth=_count_layers(tensors, f"{text}encoder.layer."),
            heads=max(1, text_width // HEAD_WIDTH),
            ffn=tensors[f"{text}encoder.layer.0.intermediate.dense.bias"].shape[0],
            max_positions=tensors[f"{text}embeddings.position_embeddings.weight"].shape[0],
        ),
        embed_dim=MedConfig().embed_dim if contrast is None else contrast.shape[0],
        sharing=_infer_sharing(tensors) if parts == "pretrain" else MedConfig().sharing,
        parts=parts,
    )


def _infer_parts(tensors: Mapping[str, Tensor]) -> Parts:
    """Infer from the module names which model of BLIP the tensors belong to."""
    if any(".crossattention.self0." in name for name in tensors):
        return "nlvr"
    modules = {name.partition(".")[0] for name in tensors}
    if "text_encoder" not in modules:
        return "captioner"
    if "text_decoder" not in modules:
        return "filter"
    return "pretrain" if modules.intersection(CONTRAST_MODULES) else "vqa"


def _count_layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in tensors if name.startswith(prefix))


def _infer_sharing(tensors: Mapping[str, Tensor]) -> Sharing:
    """Infer the sharing of Table 3: the widest one whose modules are equal in encoder and decoder."""
    layer = "encoder.layer.0."
    equal = {
        module: all(
            (decoder_name := name.replace("text_encoder.", "text_decoder.bert.", 1)) in tensors
            and torch.equal(tensor, tensors[decoder_name])
            for name, tensor in tensors.items()
            if name.startswith(f"text_encoder.{layer}{module}.")
        )
        for module in SHARED_MODULES["all"]
    }
    return next(
        sharing for sharing, modules in SHARED_MODULES.items() if all(equal[name] for name in modules)
    )


def to_blip(weights: Weights) -> dict[str, Any]:
    """The dictionary of a .pth for the loaders of salesforce/BLIP, with momentum copies and position ids.

    Momentum copies share the storage of their originals, which torch.save writes once.

    Raises:
        CheckpointError: the model has a conv stem.
    """
    reject_conv_stem(weights.config)
    tensors = dict(weights.tensors)
    for name in weights.tensors:
        module, _, rest = name.partition(".")
        if weights.config.parts in ("pretrain", "filter") and module in MOMENTUM_MODULES:
            tensors[f"{module}_m.{rest}"] = tensors[name]
        if name.endswith("embeddings.position_embeddings.weight"):
            ids = torch.arange(tensors[name].shape[0])[None]
            tensors[name.replace("position_embeddings.weight", "position_ids")] = ids
    return {"model": tensors, CONFIG_KEY: weights.config.to_dict()}
