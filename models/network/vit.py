"""The image encoder: a timm vision transformer with the parameter names of BLIP's `visual_encoder`.

ViT-B/16 and ViT-L/16 as in the BLIP paper (arXiv 2201.12086, section 3.1): pre-norm blocks, a final norm, no
head. All tokens, CLS first, are inputs of cross-attention.

Shape suffixes: B images, S pixels per side, G grid side, N tokens (1 CLS + G*G patches), D width.
"""

from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from capfilt.models.config import VisionConfig

# Of every norm in salesforce/BLIP models/vit.py. The BLIP of transformers defaults to 1e-5.
LAYER_NORM_EPS = 1e-6
# The conv stem first folds 4x4 pixels into channels; then each convolution halves the grid.
STEM_FOLD = 4


class CheckpointedBlock(Block):  # type: ignore[misc]  # timm has no types
    """A timm block that, if `recompute` is set, stores only its input for the backward pass."""

    recompute = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, N, D] to [B, N, D]."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().forward, x, *args, use_reentrant=False, **kwargs)
        return super().forward(x, *args, **kwargs)


class ConvStem(nn.Module):
    """Patch embedding by a few convolutions, which need far less training data than one large projection.

    Xiao et al. 2021 (arXiv 2106.14881). The constructor takes the arguments that timm passes.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: Any) -> None:
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        halvings = (patch_size // STEM_FOLD).bit_length() - 1
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(STEM_FOLD),
            nn.Conv2d(in_chans * STEM_FOLD**2, embed_dim, 1),
        ]
        for _step in range(halvings):
            layers += [nn.GELU(), nn.Conv2d(embed_dim, embed_dim, 3, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, G*G, D]."""
        return self.layers(pixels_B3SS).flatten(2).transpose(1, 2)


def build_vit(config: VisionConfig) -> VisionTransformer:
    """A randomly initialized encoder; `forward_features` maps [B, 3, S, S] to all normed tokens [B, N, D]."""
    vit = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        drop_path_rate=config.drop_path,
        norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
        block_fn=CheckpointedBlock,
        embed_layer=ConvStem if config.stem == "conv" else PatchEmbed,
    )
    for block in list(vit.blocks)[config.depth - config.checkpoint_layers :]:
        assert isinstance(block, CheckpointedBlock)
        block.recompute = True
    return vit


def interpolate_positions(pos_1ND: Tensor, tokens: int) -> Tensor:
    """Resample position embeddings to another image size: the patch grid bicubically, CLS unchanged.

    As in salesforce/BLIP models/vit.py (bicubic, align_corners=False).

    Args:
        pos_1ND: [1, 1 + G*G, D].
        tokens: target number of tokens, 1 + G'*G'.

    Returns:
        [1, tokens, D] of the same dtype.

    Raises:
        ValueError: a grid is not square.
    """
    if pos_1ND.shape[1] == tokens:
        return pos_1ND
    old, new = _grid_side(pos_1ND.shape[1]), _grid_side(tokens)
    cls_11D, grid_1PD = pos_1ND[:, :1], pos_1ND[:, 1:]
    grid_1DGG = grid_1PD.transpose(1, 2).unflatten(2, (old, old)).float()
    grid_1DGG = F.interpolate(grid_1DGG, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([cls_11D, grid_1DGG.flatten(2).transpose(1, 2).to(pos_1ND.dtype)], dim=1)


def _grid_side(tokens: int) -> int:
    side = round(max(tokens - 1, 0) ** 0.5)
    if side == 0 or 1 + side * side != tokens:
        raise ValueError(
            f"{tokens} position embeddings are not 1 + a square number: only square grids can be resampled"
        )
    return side
