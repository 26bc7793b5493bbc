"""What the models that only finetuning makes take over from a pretrained MED: answering questions (VQA) and
judging pairs of images (NLVR2).

Both have a few tensors that pretraining knows nothing of. salesforce/BLIP starts them at random without a word
(blip_nlvr.load_checkpoint, blip.load_checkpoint); here they are named.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from capfilt.models.config import MedConfig
from capfilt.models.network.med import MED

# A decoder that read images 1024 wide (ViT-L) cannot read questions 768 wide with the same projections.
QUESTION_READERS = re.compile(
    r"^text_decoder\.bert\.encoder\.layer\.\d+\.crossattention\.self\.(key|value)\.weight$"
)
PAIR_MERGERS = re.compile(r"\.crossattention\.output\.merge_layer\.|^cls_head\.")
ATTENDS, PROJECTS = ".crossattention.self.", ".crossattention.output.dense."


def from_pretrained(tensors: Mapping[str, Tensor], config: MedConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a whole pretrained MED as `config`, a "vqa" or an "nlvr", names them, and the names of those
    that are new.

    What is new is drawn from torch's generator, as the modules of models/ are born: the caller seeds it.
    """
    found = duplicate_cross_attention(tensors) if config.parts == "nlvr" else dict(tensors)
    new = PAIR_MERGERS if config.parts == "nlvr" else QUESTION_READERS
    if config.parts == "vqa" and config.vision.width == config.text.width:
        return found, []
    born = {name: tensor.detach() for name, tensor in MED(config).state_dict().items() if new.search(name)}
    return found | born, list(born)


def duplicate_cross_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cross-attention of one image doubled, so that both images of a pair are first read alike: queries, keys,
    values and output projection; the norm stays one."""
    doubled: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, _ = name.partition(".")
        if module != "text_encoder" or (ATTENDS not in name and PROJECTS not in name):
            doubled[name] = tensor
            continue
        for image in "01":
            twin = name.replace(ATTENDS, f"{ATTENDS[:-1]}{image}.").replace(
                PROJECTS, f"{PROJECTS[:-1]}{image}."
            )
            doubled[twin] = tensor
    return doubled
