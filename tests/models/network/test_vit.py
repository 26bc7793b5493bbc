"""The image encoder: names, sizes, position resampling against a bicubic by hand, checkpointed blocks."""

import numpy as np
import pytest
import timm
import torch

from capfilt.models.config import VisionConfig
from capfilt.models.network.vit import build_vit, interpolate_positions

TINY = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 3, "heads": 3}


def cubic(x: float) -> float:
    """The cubic kernel of Keys with a = -0.75, as in OpenCV and torch."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resampling(old: int, new: int) -> np.ndarray:
    """Weights [new, old] of bicubic resampling, with pixel centers at half integers and repeated edges."""
    weights = np.zeros((new, old))
    for target in range(new):
        center = (target + 0.5) * old / new - 0.5
        for source in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            weights[target, min(max(source, 0), old - 1)] += cubic(center - source)
    return weights


@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 4), (14, 24)])
def test_positions_are_resampled_bicubically_and_cls_is_unchanged(old, new):
    positions = torch.randn(1, 1 + old * old, 5, generator=torch.Generator().manual_seed(old))
    resized = interpolate_positions(positions, 1 + new * new)
    grid = positions[0, 1:].double().numpy().reshape(old, old, 5)
    weights = resampling(old, new)
    expected = np.einsum("yi,xj,ijd->yxd", weights, weights, grid).reshape(new * new, 5)
    assert torch.equal(resized[:, 0], positions[:, 0])
    np.testing.assert_allclose(resized[0, 1:].numpy(), expected, atol=2e-5)


def test_positions_of_the_same_size_are_unchanged():
    positions = torch.randn(1, 17, 5)
    assert interpolate_positions(positions, 17) is positions


@pytest.mark.parametrize(("stored", "tokens"), [(16, 17), (17, 30), (1, 17)])
def test_positions_without_a_square_grid_are_rejected(stored, tokens):
    with pytest.raises(ValueError, match="square"):
        interpolate_positions(torch.zeros(1, stored, 4), tokens)


def test_names_and_shapes_are_those_of_timm():
    with torch.device("meta"):
        ours = build_vit(VisionConfig()).state_dict()
    theirs = timm.create_model("vit_base_patch16_224", num_classes=0, device="meta").state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize("size", [224, 384, 480])
def test_tokens_at_the_papers_sizes(size):
    assert VisionConfig(image_size=size).tokens == {224: 197, 384: 577, 480: 901}[size]


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_all_tokens_are_normed(stem):
    config = VisionConfig(**TINY, stem=stem)
    states = build_vit(config).eval().forward_features(torch.randn(2, 3, 32, 32))
    assert states.shape == (2, config.tokens, 24)
    torch.testing.assert_close(states.mean(-1), torch.zeros(2, 17), atol=1e-5, rtol=0)
    torch.testing.assert_close(states.var(-1, unbiased=False), torch.ones(2, 17), atol=1e-2, rtol=0)


def test_drop_path_rises_linearly_to_the_last_block():
    vit = build_vit(VisionConfig(**TINY, drop_path=0.2))
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks] == pytest.approx(
        [0, 0.1, 0.2]
    )


def gradients(vit, pixels):
    vit.zero_grad()
    vit.forward_features(pixels).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in vit.named_parameters()}


def test_checkpointed_blocks_give_the_same_gradients_and_run_twice():
    plain, checkpointed = (
        build_vit(VisionConfig(**TINY)),
        build_vit(VisionConfig(**TINY, checkpoint_layers=2)),
    )
    checkpointed.load_state_dict(plain.state_dict())
    runs = []
    for i, block in enumerate(checkpointed.blocks):
        block.norm1.register_forward_hook(lambda *_, i=i: runs.append(i))
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(gradients(checkpointed, pixels), gradients(plain, pixels))
    assert sorted(runs) == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_size": 30}, "image_size 30"),
        ({"heads": 5}, "width 24 is not divisible by heads 5"),
        ({"checkpoint_layers": 4}, "checkpoint_layers 4"),
        ({"stem": "conv", "patch_size": 4}, "patch_size 4"),
    ],
)
def test_invalid_sizes_are_rejected(change, named):
    with pytest.raises(ValueError, match=named):
        VisionConfig(**(TINY | change))
