"""MED: shared parameters, shared keys and values of images, cache, masks, gradients, errors.

The numbers are compared with BLIP in test_parity.py.
"""

import copy

import pytest
import torch

from capfilt.models.config import MedConfig, TextConfig, VisionConfig, estimate_bytes
from capfilt.models.network.attention import DecoderCache, ImageRows
from capfilt.models.network.med import MED

VISION = VisionConfig(image_size=32, patch_size=8, width=24, depth=1, heads=3)
TEXT = TextConfig(vocab_size=40, width=32, depth=2, heads=4, ffn=48, max_positions=16)
CONFIG = MedConfig(vision=VISION, text=TEXT, embed_dim=8)
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def build(**changes) -> MED:
    """A tiny model with random biases and norms, so that leaving one out changes the result."""
    torch.manual_seed(0)
    med = MED(MedConfig(**({"vision": VISION, "text": TEXT, "embed_dim": 8} | changes)))
    with torch.no_grad():
        for parameter in med.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return med.eval()


@pytest.fixture(scope="module")
def med():
    return build()


@pytest.fixture(scope="module")
def states(med):
    return med.encode_image(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))).detach()


def tokens(texts: int, length: int = 6) -> torch.Tensor:
    return torch.randint(0, 40, (texts, length), generator=torch.Generator().manual_seed(texts))


@pytest.mark.parametrize(
    ("sharing", "millions"), [("all", 224), ("all_but_ca", 252), ("all_but_sa", 252), ("none", 361)]
)
def test_parameters_of_table_3(sharing, millions):
    with torch.device("meta"):
        whole = MED(MedConfig(sharing=sharing))
    assert round(sum(p.numel() for p in whole.parameters()) / 1e6) == millions
    assert estimate_bytes(whole.config) == pytest.approx(4 * millions * 1e6, rel=0.02)


@pytest.mark.parametrize(("parts", "millions"), [("captioner", 224.0), ("filter", 223.7)])
def test_parameters_of_the_finetuned_parts(parts, millions):
    with torch.device("meta"):
        part = MED(MedConfig(parts=parts, vision=VisionConfig(image_size=384)))
    assert round(sum(p.numel() for p in part.parameters()) / 1e6, 1) == millions
    assert estimate_bytes(part.config) == pytest.approx(4 * millions * 1e6, rel=0.02)


@pytest.mark.parametrize(
    ("sharing", "tied"),
    [
        ("all", {"embeddings", "attention", "crossattention", "intermediate", "output"}),
        ("all_but_ca", {"embeddings", "attention", "intermediate", "output"}),
        ("all_but_sa", {"embeddings", "crossattention", "intermediate", "output"}),
        ("none", set()),
    ],
)
def test_what_encoder_and_decoder_share(sharing, tied):
    whole = build(sharing=sharing)
    encoder = dict(whole.text_encoder.named_parameters())
    shared = {True: set(), False: set()}
    for name, parameter in whole.text_decoder.bert.named_parameters():
        piece = name.split(".")[0] if name.startswith("embeddings") else name.split(".")[3]
        shared[parameter is encoder[name]].add(piece)
    assert shared[True] == tied and not shared[True] & shared[False]
    assert whole.shares_cross_kv == ("crossattention" in tied)
    words = whole.text_decoder.bert.embeddings.word_embeddings.weight
    assert whole.text_decoder.head.decoder.weight is words
    assert whole.text_decoder.head.decoder.bias is whole.text_decoder.head.bias


def test_shared_parameters_survive_deepcopy_and_cast(med):
    moved = copy.deepcopy(med).to(torch.bfloat16)
    assert moved.text_decoder.head.decoder.weight is moved.text_encoder.embeddings.word_embeddings.weight
    assert moved.text_decoder.bert.layers[0].crossattention is moved.text_encoder.layers[0].crossattention


# Texts of images 0, 1, 2: in order, several per image, an image without texts, permuted, all of one image.
INDEXES = [[0, 1, 2], [0, 0, 1, 1, 2, 2], [0, 0, 2], [2, 0, 1, 0], [1, 2, 1, 0, 1], [1], [2, 2, 2]]


@pytest.mark.parametrize("index", INDEXES, ids=str)
@pytest.mark.parametrize("mode", ["match", "decode"])
def test_shared_keys_and_values_equal_repeated_images(med, states, index, mode):
    index, ids = torch.tensor(index), tokens(len(index))
    weights = {name: p for name, p in med.named_parameters() if "crossattention" in name}

    def run(states, index):
        states = states.clone().requires_grad_()
        kv = med.cross_kv(states, "encoder" if mode == "match" else "decoder")
        out = med.match(ids, None, kv, index) if mode == "match" else med.decode(ids, kv, index)
        grads = torch.autograd.grad(out.square().sum(), [states, *weights.values()])
        return out, grads

    out, (states_grad, *grads) = run(states, index)
    expected, (repeated_grad, *expected_grads) = run(states[index], None)
    torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(grads, expected_grads, atol=1e-4, rtol=1e-4)
    summed = torch.zeros_like(states).index_add(0, index, repeated_grad)
    torch.testing.assert_close(states_grad, summed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("index", "slots", "in_order"),
    [
        ([0, 0, 1, 1, 2, 2], 2, True),
        ([0, 2, 1], 1, False),
        ([0, 0, 2], 2, False),
        ([1], 1, False),
        ([2] * 8, 8, False),
    ],
)
def test_layouts_without_copies_of_keys_and_values(index, slots, in_order):
    rows = ImageRows.plan(torch.tensor(index), len(index), 3, torch.device("cpu"))
    assert (rows.slots, rows.in_order) == (slots, in_order)


def test_texts_of_few_of_many_images_are_gathered():
    rows = ImageRows.plan(torch.tensor([7, 7, 3]), 3, 100, torch.device("cpu"))
    assert rows.slots == 0 and rows.index_M.tolist() == [7, 7, 3]


@pytest.mark.parametrize("index", [[7], [7, 7, 3]], ids=str)
def test_gathered_keys_and_values_equal_repeated_images(med, states, index):
    many = states[torch.tensor([0, 1, 2] * 3)]
    index, ids = torch.tensor(index), tokens(len(index))
    rows = ImageRows.plan(index, len(index), len(many), torch.device("cpu"))
    assert rows.slots == 0
    out = med.match(ids, None, med.cross_kv(many, "encoder"), rows)
    torch.testing.assert_close(out, med.match(ids, None, med.cross_kv(many[index], "encoder")), **CLOSE)


def test_a_planned_index_equals_a_plain_index(med, states):
    index, kv = torch.tensor([2, 0, 1, 0]), med.cross_kv(states, "encoder")
    rows = ImageRows.plan(index, 4, 3, torch.device("cpu"))
    assert torch.equal(med.match(tokens(4), None, kv, rows), med.match(tokens(4), None, kv, index))


@pytest.mark.parametrize("steps", [[6], [1] * 6, [4, 1, 1], [1, 3, 2]], ids=str)
def test_decoding_in_steps_equals_decoding_at_once(med, states, steps):
    ids, kv = tokens(3), med.cross_kv(states, "decoder")
    cache, out = DecoderCache(8), []
    for chunk in ids.split(steps, dim=1):
        out.append(med.decode(chunk, kv, cache=cache))
    torch.testing.assert_close(torch.cat(out, 1), med.decode(ids, kv), **CLOSE)
    assert cache.length == 6


def test_selected_cache_rows_continue_their_texts(med, states):
    ids, kv = tokens(3), med.cross_kv(states, "decoder")
    cache, rows = DecoderCache(8), torch.tensor([2, 0, 2, 1])
    med.decode(ids[:, :4], kv, cache=cache)
    cache.select(rows)
    out = med.decode(ids[rows, 4:], kv, rows, cache=cache)
    torch.testing.assert_close(out, med.decode(ids, kv)[rows, 4:], **CLOSE)


def test_the_decoder_is_causal_and_the_encoder_is_not(med, states):
    ids, kv = tokens(3), med.cross_kv(states, "decoder")
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % 40
    before, after = med.decode(ids, kv), med.decode(changed, kv)
    torch.testing.assert_close(after[:, :4], before[:, :4], atol=0, rtol=0)
    assert (after[:, 4:] - before[:, 4:]).abs().amax(-1).min() > 1e-3
    assert (med.match(changed, None, kv) - med.match(ids, None, kv)).abs().max() > 1e-3


def test_padding_does_not_change_results(med, states):
    ids, kv = tokens(3), med.cross_kv(states, "encoder")
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=torch.long)], dim=1)
    mask = (torch.arange(10) < 6).long().expand(3, -1)
    torch.testing.assert_close(med.match(padded, mask, kv), med.match(ids, None, kv), **CLOSE)
    torch.testing.assert_close(med.text_feature(padded, mask), med.text_feature(ids), **CLOSE)
    plain = med.decode(ids, kv)
    torch.testing.assert_close(med.decode(padded, kv)[:, :6], plain, **CLOSE)
    torch.testing.assert_close(med.decode(padded, kv, mask=mask)[:, :6], plain, **CLOSE)


def test_a_mask_can_hide_cached_tokens(med, states):
    """A mask that hides the first token gives the same result in steps and at once."""
    ids, kv = tokens(3), med.cross_kv(states, "decoder")
    mask = torch.ones(3, 6)
    mask[:, 0] = 0
    mask[0, 0] = 1
    cache = DecoderCache(8)
    med.decode(ids[:, :4], kv, mask=mask[:, :4], cache=cache)
    stepwise = med.decode(ids[:, 4:], kv, mask=mask, cache=cache)
    at_once = med.decode(ids, kv, mask=mask)[:, 4:]
    torch.testing.assert_close(stepwise, at_once, **CLOSE)
    hidden = (at_once - med.decode(ids, kv)[:, 4:]).abs().amax((1, 2))
    assert hidden[0] < 1e-6 and hidden[1:].min() > 1e-3


def test_features_have_unit_length(med, states):
    for feature in (med.image_feature(states), med.text_feature(tokens(4))):
        assert feature.shape[1] == 8
        torch.testing.assert_close(feature.norm(dim=-1), torch.ones(len(feature)))


def test_gradients_of_itm_and_lm_add_up_in_shared_keys_and_values(med, states):
    ids, weight = tokens(3), med.text_encoder.layers[0].crossattention.self.key.weight

    def gradient(loss):
        return torch.autograd.grad(loss, weight)[0]

    both = med.cross_kv(states, "encoder")
    together = gradient(med.match(ids, None, both).sum() + med.decode(ids, both).sum())
    itm = gradient(med.match(ids, None, med.cross_kv(states, "encoder")).sum())
    lm = gradient(med.decode(ids, med.cross_kv(states, "decoder")).sum())
    torch.testing.assert_close(together, itm + lm, atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient_from_the_three_losses():
    med = build().train()
    states = med.encode_image(torch.randn(3, 3, 32, 32))
    kv, ids = med.cross_kv(states, "encoder"), tokens(3)
    itc = (med.image_feature(states) @ med.text_feature(ids).T / med.temp).log_softmax(-1).diagonal().sum()
    (itc + med.match(ids, None, kv).sum() + med.decode(ids, kv).log_softmax(-1)[..., 0].sum()).backward()
    assert [name for name, p in med.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dropout_acts_in_training_only():
    med = build(parts="filter")
    kv, ids = med.cross_kv(med.encode_image(torch.randn(1, 3, 32, 32)), "encoder"), tokens(1)
    assert torch.equal(med.match(ids, None, kv), med.match(ids, None, kv))
    med.train()
    assert not torch.equal(med.match(ids, None, kv), med.match(ids, None, kv))


def test_bfloat16_stays_near_float32(med, states):
    half = copy.deepcopy(med).to(torch.bfloat16)
    kv, ids = med.cross_kv(states, "encoder"), tokens(3)
    half_kv = half.cross_kv(states.bfloat16(), "encoder")
    matched = half.match(ids, None, half_kv)
    assert matched.dtype == half.text_feature(ids).dtype == torch.float32
    torch.testing.assert_close(matched, med.match(ids, None, kv), atol=0.1, rtol=0.1)


def test_calls_that_need_other_parts_are_rejected():
    captioner, matcher = build(parts="captioner"), build(parts="filter")
    states = captioner.encode_image(torch.randn(1, 3, 32, 32))
    kv = captioner.cross_kv(states, "decoder")
    for call in (
        lambda: captioner.cross_kv(states, "encoder"),
        lambda: captioner.match(tokens(1), None, kv),
        lambda: captioner.text_feature(tokens(1)),
        lambda: captioner.image_feature(states),
    ):
        with pytest.raises(ValueError, match=r'"filter".*"captioner"'):
            call()
    for call in (lambda: matcher.cross_kv(states, "decoder"), lambda: matcher.decode(tokens(1), kv)):
        with pytest.raises(ValueError, match=r'"captioner".*"filter"'):
            call()


def test_invalid_inputs_are_rejected(med, states):
    kv = med.cross_kv(states, "encoder")
    with pytest.raises(ValueError, match="uint8"):
        med.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\)"):
        med.encode_image(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="4 texts and 3 images"):
        med.match(tokens(4), None, kv)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        med.match(tokens(4), None, kv, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="expected 0 to 2"):
        med.match(tokens(2), None, kv, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"17 tokens.*16 positions"):
        med.text_feature(tokens(1, 17))


def test_config_survives_a_dict_and_rejects_unknown_keys():
    assert MedConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert MedConfig.from_dict({}) == MedConfig()
    values = CONFIG.to_dict()
    values["text"]["depht"] = 3
    with pytest.raises(ValueError, match=r"model\.text: unknown key depht"):
        MedConfig.from_dict(values)
