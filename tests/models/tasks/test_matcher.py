"""The matcher against transformers' BlipForImageTextRetrieval with the same weights."""

import logging

import pytest
import torch

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.images.pixels import normalize
from capfilt.models.network.attention import ImageRows
from capfilt.models.network.tokenizer import DEC, ENC
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.tasks.matcher import Matcher, _spread_over_images
from capfilt.models.tasks.options import MatcherOptions
from tests.models.blip_oracle import SIZE, hf_captioner, hf_matcher, med_of, random_pixels, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = [
    ["a red dog", "the small blue cat under a tree near the large house", "a"],
    ["two birds on the boat"],
    [],
    ["a picture of a car in the house", "dog"],
    ["green " * 60],
    ["", "a bird , a cat & 2 dogs ?"],
]


@pytest.fixture(scope="module")
def hf():
    return hf_matcher(TOKENIZER, seed=2)


@pytest.fixture(scope="module")
def med(hf):
    return med_of(hf)


@pytest.fixture(scope="module")
def pixels():
    return random_pixels(len(TEXTS), seed=4)


def make_matcher(med, **options):
    return Matcher(med, TOKENIZER, MatcherOptions(**({"precision": "float32"} | options)), device="cpu")


def expected_scores(hf, pixels, first="cls", max_tokens=35):
    """The scores of transformers, pair by pair and without padding."""
    scores = []
    for image, texts in zip(normalize(pixels), TEXTS, strict=True):
        scores.append([])
        for text in texts:
            ids, mask = TOKENIZER.encode([text], max_tokens)
            cosine = hf(input_ids=ids, pixel_values=image[None], attention_mask=mask, use_itm_head=False)[0]
            if first == "enc":
                ids[:, 0] = TOKENIZER.enc_id
            logits = hf(input_ids=ids, pixel_values=image[None], attention_mask=mask, use_itm_head=True)[0]
            scores[-1].append((logits.softmax(-1)[0, 1].item(), cosine[0, 0].item()))
    return scores


def pairs(scores):
    return [(score.itm_prob, score.itc_sim) for image_scores in scores for score in image_scores]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("itm_token", ["cls", "enc"])
def test_scores_equal_transformers(hf, med, pixels, itm_token, batch_size):
    scores = make_matcher(med, itm_token=itm_token, batch_size=batch_size).match(pixels, TEXTS)
    expected = expected_scores(hf, pixels, first=itm_token)
    assert [len(image_scores) for image_scores in scores] == [len(image_scores) for image_scores in expected]
    torch.testing.assert_close(
        torch.tensor(pairs(scores)),
        torch.tensor([pair for image_scores in expected for pair in image_scores]),
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.tensor(pairs(scores)).std(0).min() > 0.05  # otherwise the comparison would prove nothing


def test_itm_texts_open_with_enc_by_default_and_the_token_matters(med, pixels):
    default = pairs(make_matcher(med).match(pixels, TEXTS))
    enc = pairs(make_matcher(med, itm_token="enc").match(pixels, TEXTS))
    cls = pairs(make_matcher(med, itm_token="cls").match(pixels, TEXTS))
    assert default == enc
    assert max(abs(a[0] - b[0]) for a, b in zip(enc, cls, strict=True)) > 1e-3
    assert [a[1] for a in enc] == [b[1] for b in cls]  # ITC always uses [CLS]


def test_each_image_is_encoded_once_for_all_its_texts(hf, pixels):
    matcher = make_matcher(med_of(hf), batch_size=2)
    encode, seen = matcher.med.encode_image, []
    matcher.med.encode_image = lambda images: seen.append(len(images)) or encode(images)
    projected = []
    layers = matcher.med.text_encoder.layers
    for layer in layers:
        layer.crossattention.self.key.register_forward_hook(lambda _m, x, _o: projected.append(len(x[0])))
    matcher.match(pixels, TEXTS)
    assert seen == [2, 2, 1]  # five of the six images have texts
    assert sum(projected) == 5 * len(layers)


def test_texts_of_similar_length_share_a_pass_to_avoid_padding(hf):
    """With 16 texts of 3 tokens and 16 of 20, passes in image order would all be padded to 20 tokens."""
    matcher = make_matcher(med_of(hf), batch_size=16)
    match, tokens = matcher.med.match, []

    def watched(ids, *rest, **options):
        tokens.append(ids.numel())
        return match(ids, *rest, **options)

    matcher.med.match = watched
    matcher.match(random_pixels(16), [["dog", "dog " * 18]] * 16)
    assert sum(tokens) == 16 * 3 + 16 * 20


def test_texts_of_a_pass_belong_to_different_images_so_that_no_slots_are_empty(hf, monkeypatch):
    """Long texts of two images only: by length alone, a pass would have two slots for each of four images."""
    matcher, planned = make_matcher(med_of(hf), batch_size=4), []
    plan = ImageRows.plan.__func__

    def watched(cls, index, texts, images, *rest):
        rows = plan(cls, index, texts, images, *rest)
        planned.append((texts, rows.slots * images))
        return rows

    monkeypatch.setattr(ImageRows, "plan", classmethod(watched))
    long, short = ["dog " * 9, "dog " * 8], ["a", "dog"]
    matcher.match(random_pixels(4), [long, long, short, short])
    assert planned == [(4, 4), (4, 4)]


@pytest.mark.parametrize("counts", [[3, 3, 3], [1, 4, 0, 2], [5], [1]], ids=str)
def test_passes_take_the_shortest_text_of_each_image_first(counts):
    images = torch.tensor([image for image, count in enumerate(counts) for _ in range(count)])
    lengths = torch.randint(3, 9, (len(images),), generator=torch.Generator().manual_seed(5))
    order = _spread_over_images(lengths, images)
    by_image = {n: sorted(lengths[images == n].tolist()) for n in range(len(counts))}
    expected = [
        sorted(of_image[rank] for of_image in by_image.values() if rank < len(of_image))
        for rank in range(max(counts))
    ]
    assert lengths[order].tolist() == [length for of_rank in expected for length in of_rank]
    assert sorted(order.tolist()) == list(range(len(images)))


def test_no_images_or_no_texts_give_no_scores(med, pixels):
    matcher = make_matcher(med)
    assert matcher.match([], []) == []
    assert matcher.match(pixels[:2], [[], []]) == [[], []]


def test_special_tokens_in_a_text_are_plain_text(med, pixels):
    matcher = make_matcher(med)
    [[plain, with_specials]] = matcher.match(pixels[:1], [["dog", f"dog [SEP] {ENC} {DEC}"]])
    assert plain != with_specials


def test_bfloat16_scores_are_close(hf, med, pixels):
    exact = make_matcher(med).match(pixels, TEXTS)
    half = make_matcher(med_of(hf), precision="bfloat16").match(pixels, TEXTS)
    difference = (torch.tensor(pairs(exact)) - torch.tensor(pairs(half))).abs()
    assert difference.median() < 0.02


def limit_memory(matcher, *, images=99, texts=99):
    """Make the model run out of memory beyond these batch sizes; returns the list of (images, texts)
    tried."""
    match, tried = matcher.med.match, []

    def watched(ids, mask, cross_kv, image_index):
        tried.append((len(cross_kv[0][0]), len(ids)))
        if tried[-1][0] > images or tried[-1][1] > texts:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return match(ids, mask, cross_kv, image_index)

    matcher.med.match = watched
    return tried


def test_out_of_memory_halves_the_batch_without_changing_scores(hf, med, pixels, caplog):
    expected = make_matcher(med).match(pixels, TEXTS)
    matcher = make_matcher(med_of(hf), batch_size=4)
    tried = limit_memory(matcher, images=2)
    with caplog.at_level(logging.WARNING):
        scores = matcher.match(pixels, TEXTS)
    torch.testing.assert_close(torch.tensor(pairs(scores)), torch.tensor(pairs(expected)))
    assert matcher.batches.size == 2
    assert tried[0][0] == 4 and max(images for images, _ in tried[1:]) == 2
    assert caplog.messages == ["out of memory with a batch of 4 images or texts; continuing with 2"]


def test_halved_batches_equal_batches_of_that_size_exactly(hf, med, pixels):
    matcher = make_matcher(med_of(hf), batch_size=4)
    limit_memory(matcher, images=2)
    assert matcher.match(pixels, TEXTS) == make_matcher(med, batch_size=2).match(pixels, TEXTS)


def test_the_texts_of_a_single_image_are_halved_too(hf, med, pixels):
    texts = [[f"{word} dog" for word in ("a", "the", "red", "small", "blue", "two", "green", "one", "black")]]
    expected = make_matcher(med).match(pixels[:1], texts)
    matcher = make_matcher(med_of(hf), batch_size=64)
    tried = limit_memory(matcher, texts=3)
    scores = matcher.match(pixels[:1], texts)
    torch.testing.assert_close(torch.tensor(pairs(scores)), torch.tensor(pairs(expected)))
    assert [texts for _, texts in tried] == [9, 4, 2, 2, 2, 2, 1]


def test_out_of_memory_with_one_text_is_an_error(hf, pixels):
    matcher = make_matcher(med_of(hf), batch_size=4)
    limit_memory(matcher, texts=0)
    with pytest.raises(OutOfMemory, match=r"even with a batch size of 1 \(images or texts\)"):
        matcher.match(pixels, TEXTS)


@pytest.mark.parametrize("kind", ["capfilt", "transformers"])
def test_from_checkpoint_gives_the_same_scores(tmp_path, hf, med, pixels, kind):
    if kind == "capfilt":
        save_checkpoint(tmp_path, med, TOKENIZER, {})
    else:
        hf.save_pretrained(tmp_path)
        TOKENIZER.save(tmp_path)
    matcher = Matcher.from_checkpoint(tmp_path, MatcherOptions(precision="float32"), device="cpu")
    assert matcher.image_size == SIZE
    assert matcher.match(pixels, TEXTS) == make_matcher(med).match(pixels, TEXTS)


def test_a_model_without_text_encoder_and_mismatched_lists_are_rejected(med, pixels):
    with pytest.raises(ValueError, match=r'"captioner".*no text encoder'):
        make_matcher(med_of(hf_captioner(TOKENIZER)))
    with pytest.raises(ValueError, match="6 images but 1 lists"):
        make_matcher(med).match(pixels, [["a"]])


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_compared_texts_have_the_largest_similarity_to_the_other_texts(hf, med, pixels, batch_size):
    compared = [1, 1, 0, 2, 0, 1]  # of images without other texts, or without any text, too
    scores = make_matcher(med, batch_size=batch_size).match(pixels, TEXTS, compared)
    assert [[(s.itm_prob, s.itc_sim) for s in of_image] for of_image in scores] == [
        [pytest.approx((s.itm_prob, s.itc_sim), abs=1e-6) for s in of_image]
        for of_image in make_matcher(med).match(pixels, TEXTS)
    ]

    def feature(text):
        return med.text_feature(*TOKENIZER.encode([text], 35))[0]

    for texts, leading, of_image in zip(TEXTS, compared, scores, strict=True):
        others = [feature(text) for text in texts[leading:]]
        for number, (text, score) in enumerate(zip(texts, of_image, strict=True)):
            if number < leading and others:
                largest = max(float(feature(text) @ other) for other in others)
                assert score.text_sim == pytest.approx(largest, abs=1e-5)
            else:
                assert score.text_sim is None


def test_no_text_is_compared_by_default(med, pixels):
    scores = make_matcher(med).match(pixels, TEXTS)
    assert {score.text_sim for of_image in scores for score in of_image} == {None}
    with pytest.raises(ValueError, match="1 numbers of compared texts"):
        make_matcher(med).match(pixels, TEXTS, [1])
