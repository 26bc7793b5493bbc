"""Initialization of the models that exist only after finetuning, from a pretrained MED.

These are question answering (VQA) and judging pairs of images (NLVR2). Both have a few tensors that a
pretrained MED lacks. salesforce/BLIP initializes them randomly without a message (blip_nlvr.load_checkpoint,
blip.load_checkpoint); here they are reported.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from capfilt.models.config import MedConfig
from capfilt.models.network.med import MED

# A decoder whose cross-attention projects images of width 1024 (ViT-L) cannot project questions of width 768.
QUESTION_PROJECTIONS = re.compile(
    r"^text_decoder\.bert\.encoder\.layer\.\d+\.crossattention\.self\.(key|value)\.weight$"
)
NLVR_TENSORS = re.compile(r"\.crossattention\.output\.merge_layer\.|^cls_head\.")
CROSS_QKV, CROSS_OUTPUT = ".crossattention.self.", ".crossattention.output.dense."


def from_pretrained(tensors: Mapping[str, Tensor], config: MedConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Convert the tensors of a pretrained MED to those of a "vqa" or "nlvr".

    New tensors are initialized from torch's global generator, which the caller seeds.

    Args:
        tensors: all tensors of a pretrained MED.
        config: config of the target model.

    Returns:
        The tensors by the names of the target model, and the names of the new ones.
    """
    converted = duplicate_cross_attention(tensors) if config.parts == "nlvr" else dict(tensors)
    if config.parts == "vqa" and config.vision.width == config.text.width:
        return converted, []
    new_names = NLVR_TENSORS if config.parts == "nlvr" else QUESTION_PROJECTIONS
    initialized = {
        name: tensor.detach() for name, tensor in MED(config).state_dict().items() if new_names.search(name)
    }
    return converted | initialized, list(initialized)


def duplicate_cross_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Duplicate the encoder's cross-attention for the two images of a pair.

    Both images start with the same query, key, value and output projections. The norm is not duplicated.
    """
    duplicated: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, _ = name.partition(".")
        if module != "text_encoder" or (CROSS_QKV not in name and CROSS_OUTPUT not in name):
            duplicated[name] = tensor
            continue
        for image in "01":
            copy = name.replace(CROSS_QKV, f"{CROSS_QKV[:-1]}{image}.")
            copy = copy.replace(CROSS_OUTPUT, f"{CROSS_OUTPUT[:-1]}{image}.")
            duplicated[copy] = tensor
    return duplicated
