"""Attention to image states, without their keys and values: results, choice, shared tensors; the cache."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.network.attention import (
    WIDE_HEAD,
    DecoderCache,
    ImageRows,
    fewest_operations,
    select_images,
)
from capfilt.models.network.med import MED, Questions

TEXT = TextConfig(vocab_size=40, width=32, depth=2, heads=4, ffn=48, max_positions=16)
VISION = VisionConfig(image_size=32, patch_size=8, width=24, depth=1, heads=2)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def med():
    torch.manual_seed(0)
    model = MED(MedConfig(parts="pretrain", text=TEXT, vision=VISION))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero at first, which would hide a bias that is forgotten
            torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def states(med):
    return med.encode_image(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def tokens(count, length=6):
    return torch.randint(0, 40, (count, length), generator=torch.Generator().manual_seed(count))


# In order, several per image, permuted, an image without texts, and texts of one of many images.
@pytest.mark.parametrize("index", [[0, 1, 2], [0, 0, 1, 1, 2, 2], [2, 0, 1, 0], [1, 1], [2]], ids=str)
def test_results_are_those_of_keys_and_values(med, states, index):
    index, ids = torch.tensor(index), tokens(len(index))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    encoder, decoder = (med.cross_kv(states, which) for which in ("encoder", "decoder"))
    for cross in (med.cross_states(states), med.cross_inputs(states, "decoder", tokens=1)):
        matched, decoded = med.match(ids, mask, cross, index), med.decode(ids, cross, index)
        torch.testing.assert_close(matched, med.match(ids, mask, encoder, index), **CLOSE)
        torch.testing.assert_close(decoded, med.decode(ids, decoder, index), **CLOSE)


def test_padding_of_states_is_not_attended_to():
    torch.manual_seed(0)
    med = MED(MedConfig(parts="vqa", text=TEXT, vision=VISION)).eval()
    states, ids = torch.randn(3, 5, 32), tokens(3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    by_states = med.answer(ids, Questions(kv=med.cross_states(states), mask_QN=mask))
    by_kv = med.answer(ids, Questions(kv=med.cross_kv(states, "decoder"), mask_QN=mask))
    torch.testing.assert_close(by_states, by_kv, **CLOSE)


def test_training_needs_keys_and_values(states):
    with pytest.raises(ValueError, match="training mode: use cross_kv"):
        MED(MedConfig(parts="captioner", text=TEXT, vision=VISION)).cross_states(states)


@pytest.mark.parametrize("count", [17, 145])
def test_the_choice_is_that_with_fewer_operations(med, count):
    """Operations are counted by torch, with attention written out."""
    states = torch.randn(2, count, 24)
    kv_tokens = [t for t in range(1, 15) if fewest_operations(states.shape, 32, 4, t) == "kv"]
    assert 1 < min(kv_tokens) < 15, "the border is within what is tried"

    def operations(make_cross, length):
        # The counter knows the operations of this implementation of attention only.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.inference_mode():
            med.decode(tokens(2, length), make_cross())
        return counter.get_total_flops()

    for length in (min(kv_tokens) - 1, min(kv_tokens)):
        by_states = operations(lambda: med.cross_states(states), length)
        by_kv = operations(lambda: med.cross_kv(states, "decoder"), length)
        assert (by_states < by_kv) == (length < min(kv_tokens))


def test_many_tokens_attend_to_keys_and_values(med, states):
    few, many = (med.cross_inputs(states, "encoder", tokens=t) for t in (1, 1000))
    assert [len(layer) for layer in few] == [1, 1] and [len(layer) for layer in many] == [2, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [WIDE_HEAD - 8, WIDE_HEAD, 768])
@pytest.mark.parametrize("index", [[0, 0, 1], [1, 0], [1, 1]], ids=str)
def test_wide_heads_attend_as_others_do(dtype, width, index):
    random = torch.Generator().manual_seed(width)
    query = torch.randn(len(index), 5, 1, width, generator=random)
    states = torch.randn(2, 1, 37, width, generator=random)
    mask = torch.arange(37)[None] < torch.tensor([[37], [20]])
    for mask_BN in (None, mask):
        rows = ImageRows.plan(torch.tensor(index), len(index), 2, torch.device("cpu"), mask_BN)
        found = rows.attend(query.to(dtype), states.to(dtype), states.to(dtype), 0.0)
        scores = query.to(dtype).double()[:, :, 0] @ states.to(dtype).double()[index, 0].mT / width**0.5
        if mask_BN is not None:
            scores = scores.masked_fill(~mask[index][:, None], -torch.inf)
        expected = scores.softmax(-1) @ states.to(dtype).double()[index, 0]
        tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(found[:, :, 0].double(), expected, atol=tolerance, rtol=0.02)


def test_selected_images_stay_shared_between_layers(med, states):
    images = torch.tensor([2, 0])
    first, second = select_images(med.cross_states(states), images)
    assert first[0] is second[0] and torch.equal(first[0], states[images])
    kv = med.cross_kv(states, "decoder")
    for layer, selected in zip(kv, select_images(kv, images), strict=True):
        assert all(torch.equal(a[images], b) for a, b in zip(layer, selected, strict=True))


def test_the_cache_holds_its_capacity_and_no_more():
    cache, key = DecoderCache(3), torch.randn(2, 4, 2, 8)
    cache.append(0, key, -key)
    last = torch.randn(2, 4, 1, 8)
    keys, values = cache.append(0, last, -last)
    assert torch.equal(keys, torch.cat([key, last], 2)) and torch.equal(values, -keys) and cache.length == 3
    with pytest.raises(ValueError, match="4 tokens, but the cache has room for 3"):
        cache.append(0, last, last)


@pytest.mark.parametrize("rows", [[1, 0], [1, 1], [0], [1, 0, 1]], ids=str)
def test_selected_rows_of_the_cache(rows):
    cache, key, rows = DecoderCache(4), torch.randn(2, 4, 2, 8), torch.tensor(rows)
    cache.append(0, key, -key)
    cache.select(rows)
    new = torch.randn(len(rows), 4, 1, 8)
    keys, values = cache.append(0, new, -new)
    assert torch.equal(keys, torch.cat([key[rows], new], 2)) and torch.equal(values, -keys)
