"""BLIP's weights as salesforce/BLIP and LAVIS store them: a .pth with the state dict under "model".

Read and written are the layouts of blip_pretrain, blip_retrieval, blip (captions), blip_vqa and blip_nlvr.
LAVIS names its tensors alike. It leaves out momentum copies, since its runner drops what has no gradient, and
the temperature where its model has none (blip_image_text_matching).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.tensors import POSITIONS
from capfilt.models.checkpoints.weights import OURS, TRAINING_STATE, Weights, refuse_conv_stem
from capfilt.models.config import MedConfig, Parts, Sharing, TextConfig, VisionConfig
from capfilt.models.network.med import INITIAL_TEMPERATURE, TIED_PIECES

HEAD_WIDTH = 64  # channels per head in every released BLIP; .pth files hold no head count
MOMENTUM_MODULES = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
CONTRAST_MODULES = ("vision_proj", "text_proj", "itm_head", "temp")  # what pretraining has and VQA has not


def from_blip(content: Mapping[str, Any], what: str) -> Weights:
    """The dictionary in a salesforce/BLIP or LAVIS .pth: sizes and sharing are read off the tensors."""
    found = content.get("model", content)
    if not isinstance(found, Mapping) or POSITIONS not in found:
        raise CheckpointError(f"{what} has no {POSITIONS}: a .pth of salesforce/BLIP or LAVIS is due")
    tensors = {name: tensor for name, tensor in found.items() if not TRAINING_STATE.search(name)}
    if isinstance(content.get(OURS), Mapping):
        return Weights(config=MedConfig.from_dict(dict(content[OURS])), tensors=tensors)
    try:
        config = _config_from_blip(tensors)
    except KeyError as error:
        raise CheckpointError(f"{what} is no BLIP of text and image", missing=[str(error.args[0])]) from error
    notes = []
    if config.parts == "filter" and "temp" not in tensors:
        tensors["temp"] = torch.tensor(INITIAL_TEMPERATURE)
        notes.append(f"the file holds no temperature; {INITIAL_TEMPERATURE} is used")
    return Weights(config=config, tensors=tensors, notes=notes)


def _config_from_blip(tensors: Mapping[str, Tensor]) -> MedConfig:
    patches, width = tensors[POSITIONS].shape[1] - 1, tensors[POSITIONS].shape[2]
    patch_size = tensors["visual_encoder.patch_embed.proj.weight"].shape[-1]
    parts = _parts_of(tensors)
    text = "text_decoder.bert." if parts == "captioner" else "text_encoder."
    contrast = tensors.get("vision_proj.bias")  # if it is due and missing, all that is missing is told later
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
        embed_dim=MedConfig().embed_dim if contrast is None else contrast.shape[0],
        sharing=_sharing(tensors) if parts == "pretrain" else MedConfig().sharing,
        parts=parts,
    )


def _parts_of(tensors: Mapping[str, Tensor]) -> Parts:
    """Which model of BLIP wrote tensors of these names, told by the modules they are in."""
    if any(".crossattention.self0." in name for name in tensors):
        return "nlvr"
    modules = {name.partition(".")[0] for name in tensors}
    if "text_encoder" not in modules:
        return "captioner"
    if "text_decoder" not in modules:
        return "filter"
    return "pretrain" if modules.intersection(CONTRAST_MODULES) else "vqa"


def _blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in tensors if name.startswith(prefix))


def _sharing(tensors: Mapping[str, Tensor]) -> Sharing:
    """Which sharing of Table 3 a pretrained file shows: that of most pieces equal in both towers."""
    layer = "encoder.layer.0."
    equal = {
        piece: all(
            (twin := name.replace("text_encoder.", "text_decoder.bert.", 1)) in tensors
            and torch.equal(tensor, tensors[twin])
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
    refuse_conv_stem(weights.config)
    tensors = dict(weights.tensors)
    for name in weights.tensors:
        module, _, rest = name.partition(".")
        if weights.config.parts in ("pretrain", "filter") and module in MOMENTUM_MODULES:
            tensors[f"{module}_m.{rest}"] = tensors[name]
        if name.endswith("embeddings.position_embeddings.weight"):
            ids = torch.arange(tensors[name].shape[0])[None]
            tensors[name.replace("position_embeddings.weight", "position_ids")] = ids
    return {"model": tensors, OURS: weights.config.to_dict()}
