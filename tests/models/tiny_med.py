"""A tiny MED with random weights, biases and norms, and its tokenizer."""

import torch

from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.network.med import MED
from tests.models import blip_oracle

TOKENIZER = blip_oracle.tiny_tokenizer()
VISION = VisionConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3, drop_path=0.1)
TEXT = TextConfig(
    vocab_size=TOKENIZER.vocab_size, width=32, depth=2, heads=4, ffn=48, max_positions=20, dropout=0.05
)
# Heads of 64 channels, because checkpoints of salesforce/BLIP do not store the number of heads.
FILE_VISION = VisionConfig(image_size=48, patch_size=16, width=128, depth=1, heads=2)
FILE_TEXT = TextConfig(
    vocab_size=TOKENIZER.vocab_size, width=64, depth=2, heads=1, ffn=48, max_positions=20, dropout=0.1
)


def build(**changes) -> MED:
    torch.manual_seed(0)
    med = MED(MedConfig(**({"vision": VISION, "text": TEXT, "embed_dim": 8} | changes)))
    with torch.no_grad():
        for parameter in med.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return med


def from_file(**changes) -> MED:
    """A MED whose sizes can be inferred from a checkpoint without config."""
    return build(vision=FILE_VISION, text=FILE_TEXT, **changes)


def assert_same(ours: MED, theirs: MED) -> None:
    assert ours.config == theirs.config
    first, second = ours.state_dict(), theirs.state_dict()
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
