"""Cross-attention to a pair of images, for NLVR2: is a sentence true of the pair?

BLIP paper (arXiv 2201.12086), section 5.4 and figure 5b. Each image has its own projections. Their results
are merged by the mean in the lower half of the layers and by a learned projection in the upper half.
Parameter names are those of salesforce/BLIP models/nlvr_encoder.py.

Shape suffixes: those of `models/network/text.py`; B counts pairs.
"""

import torch
from torch import Tensor, nn

from capfilt.models.config import TextConfig
from capfilt.models.network.attention import ImageRows
from capfilt.models.network.text import Projections

ImagePairKV = list[tuple[Tensor, Tensor, Tensor, Tensor]]
"""For each layer the key and value of the first image of every pair, then of the second, each [B, H, N,
K]."""


class ImagePairOutput(nn.Module):
    """Projects and merges the attention results of two images; then dropout, residual, norm."""

    def __init__(self, config: TextConfig, learned_merge: bool) -> None:
        super().__init__()
        self.dense0 = nn.Linear(config.width, config.width)
        self.dense1 = nn.Linear(config.width, config.width)
        self.merge_layer = nn.Linear(2 * config.width, config.width) if learned_merge else None
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, first_MTD: Tensor, second_MTD: Tensor, residual_MTD: Tensor) -> Tensor:
        """[M, T, D]."""
        first_MTD, second_MTD = self.dense0(first_MTD), self.dense1(second_MTD)
        if self.merge_layer is None:
            merged_MTD = (first_MTD + second_MTD) / 2
        else:
            merged_MTD = self.merge_layer(torch.cat([first_MTD, second_MTD], dim=-1))
        return self.LayerNorm(self.dropout(merged_MTD) + residual_MTD)


class ImagePairCrossAttention(nn.Module):
    """Attention of texts to both images of their pair, whose keys and values are given."""

    def __init__(self, config: TextConfig, image_width: int, layer: int) -> None:
        super().__init__()
        self.attention_dropout = config.dropout
        self.self0 = Projections(config, image_width)
        self.self1 = Projections(config, image_width)
        # The reference merges with a learned projection from layer 6 of its 12 layers on.
        self.output = ImagePairOutput(config, learned_merge=layer >= config.depth // 2)

    def keys_values(self, first_BNW: Tensor, second_BNW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One layer's entry of an ImagePairKV."""
        return *self.self0.keys_values(first_BNW), *self.self1.keys_values(second_BNW)

    def forward(self, x_MTD: Tensor, kv: tuple[Tensor, Tensor, Tensor, Tensor], rows: ImageRows) -> Tensor:
        """[M, T, D]."""
        key0_BHNK, value0_BHNK, key1_BHNK, value1_BHNK = kv
        dropout = self.attention_dropout if self.training else 0.0
        first_MTHK = rows.attend(self.self0.queries(x_MTD), key0_BHNK, value0_BHNK, dropout)
        second_MTHK = rows.attend(self.self1.queries(x_MTD), key1_BHNK, value1_BHNK, dropout)
        return self.output(first_MTHK.flatten(2), second_MTHK.flatten(2), x_MTD)
