"""Retrieval: recall against values computed by hand, the evaluation against one pair at a time."""

import math
from collections import Counter
from collections.abc import Collection

import pytest
import torch

from capfilt.models.caption_text import normalize_caption
from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.retrieval import (
    MAX_TOKENS,
    RetrievalOptions,
    RetrievalSet,
    _stays_on_device,
    evaluate_retrieval,
    recall_from_scores,
    score_pairs,
)

TEXTS = [
    "A red circle.", "a red circle and a long list of blue squares", "a blue star",
    "a green ring next to a box", "a blue star", "two pink crosses", "A BLUE STAR!", "a box",
    "an orange triangle", "a black disc left of a star", "one ring", "a purple plus",
]  # fmt: skip
# Image 6 has no text; "a blue star" is a text of images 1, 3 and 4.
IMAGE_OF_TEXT = [0, 0, 1, 2, 3, 3, 4, 5, 5, 5, 7, 8]
IMAGES = 9


def scores(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)


def positives(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def test_recall_counts_negatives_ahead_of_the_best_positive() -> None:
    table = scores([[0.9, 0.1, 0.5, 0.3], [0.9, 0.1, 0.5, 0.3], [0.9, 0.8, 0.7, 0.6]])
    # First query: a positive is first. Second: positives are second and fourth. Third: three negatives are
    # ahead.
    marks = positives(["x...", "..xx", "...x"])
    assert recall_from_scores(table, marks, (1, 2, 3, 4)) == {
        1: pytest.approx(100 / 3), 2: pytest.approx(200 / 3), 3: pytest.approx(200 / 3), 4: 100.0,
    }  # fmt: skip


def test_recall_gives_no_credit_for_ties_minus_infinity_and_nan() -> None:
    inf, nan = math.inf, math.nan
    tied = recall_from_scores(scores([[0.5, 0.5, 0.5]]), positives(["x.."]), (1, 2, 3))
    assert tied == {1: 0.0, 2: 0.0, 3: 100.0}
    not_a_candidate = recall_from_scores(scores([[-inf, 0.1, -inf]]), positives(["x.."]), (3,))
    assert not_a_candidate == {3: 0.0}
    assert recall_from_scores(scores([[nan, 0.1, 0.2]]), positives(["x.."]), (3,)) == {3: 0.0}
    assert recall_from_scores(scores([[0.9, nan, 0.2]]), positives(["x.."]), (1, 2)) == {1: 0.0, 2: 100.0}


def test_recall_does_not_depend_on_how_queries_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(50, 20, generator=generator)
    marks = torch.rand(50, 20, generator=generator) < 0.1
    marks[:, 0] |= ~marks.any(dim=1)
    whole = recall_from_scores(table, marks)
    monkeypatch.setattr("capfilt.models.tasks.retrieval.QUERIES_AT_A_TIME", 7)
    assert recall_from_scores(table, marks) == whole


@pytest.fixture(scope="module")
def med_and_tokenizer() -> tuple[MED, Tokenizer]:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([normalize_caption(text) for text in TEXTS] * 3, 120)
    config = MedConfig(
        vision=VisionConfig(image_size=32, patch_size=16, width=32, depth=2, heads=4),
        text=TextConfig(
            vocab_size=tokenizer.vocab_size, width=32, depth=2, heads=4, ffn=64, max_positions=40
        ),
        embed_dim=16,
        parts="filter",
    )
    med = MED(config)
    with torch.no_grad():
        for parameter in med.parameters():  # with weights of 0.02 all pairs would have similar scores
            if parameter.ndim > 1:
                parameter.mul_(8)
    return med.eval(), tokenizer


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=torch.Generator().manual_seed(1)).byte()


def run(model: tuple[MED, Tokenizer], pixels: torch.Tensor, k: int, batch_size: int = 5) -> dict[str, float]:
    data = RetrievalSet(pixel_batches=pixels.split(4), texts=TEXTS, image_of_text=IMAGE_OF_TEXT)
    return evaluate_retrieval(*model, data, RetrievalOptions(k=k, batch_size=batch_size))


def one_pair_at_a_time(
    model: tuple[MED, Tokenizer], pixels: torch.Tensor, k: int, group: Collection[int] = range(IMAGES)
) -> dict[str, float]:
    """The same protocol with loops and sorted lists, each pair separately through the whole model.

    `group`: the images whose queries count.
    """
    med, tokenizer = model
    texts = [normalize_caption(text) for text in TEXTS]
    own: dict[int, set[str]] = {}
    for text, image in zip(texts, IMAGE_OF_TEXT, strict=True):
        own.setdefault(image, set()).add(text)
    cosine, final = {}, {}
    with torch.no_grad():
        for i in range(IMAGES):
            states = med.encode_image(normalize(pixels[i : i + 1]))
            for t, text in enumerate(texts):
                ids, mask = tokenizer.encode([text], 35, first="cls")
                cosine[i, t] = float(med.image_feature(states)[0] @ med.text_feature(ids, mask)[0])
                ids, mask = tokenizer.encode([text], 35, first="enc")
                logit = float(med.match(ids, mask, med.cross_kv(states, which="encoder"))[0, 1])
                final[i, t] = logit + cosine[i, t]
    pairs = {
        "tr": [[(i, t) for t in range(len(texts))] for i in sorted(own) if i in group],
        "ir": [[(i, t) for i in range(IMAGES)] for t in range(len(texts)) if IMAGE_OF_TEXT[t] in group],
    }
    found: Counter[str] = Counter()
    for way, queries in pairs.items():
        for query in queries:
            by_cosine = sorted(query, key=lambda pair: -cosine[pair])
            for prefix, order in (
                ("itc_", by_cosine),
                ("", sorted(by_cosine[:k], key=lambda pair: -final[pair])),
            ):
                for ahead, (i, t) in enumerate(order):
                    if texts[t] in own.get(i, ()):
                        for n in (1, 5, 10):
                            found[f"{prefix}{way}@{n}"] += ahead < n
                        break
    keys = [f"{prefix}{way}@{n}" for prefix in ("", "itc_") for way in ("tr", "ir") for n in (1, 5, 10)]
    recalls = {key: 100 * found[key] / len(pairs[key.removeprefix("itc_")[:2]]) for key in keys}
    return recalls | {
        "r_mean": sum(list(recalls.values())[:6]) / 6,
        "itc_r_mean": sum(list(recalls.values())[6:]) / 6,
    }


@pytest.mark.parametrize("k", [1, 3, 50])
def test_evaluation_equals_one_pair_at_a_time(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, k: int
) -> None:
    found = run(med_and_tokenizer, pixels, k)
    expected = one_pair_at_a_time(med_and_tokenizer, pixels, k)
    assert found == pytest.approx(expected)
    assert 0 < expected["itc_tr@1"] + expected["itc_ir@1"] < 200, "the case must distinguish models"


def test_groups_of_queries_are_ranked_in_the_whole_gallery(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor
) -> None:
    groups = {"first": [0, 1, 2, 6], "rest": [3, 4, 5, 7, 8], "without text": [6]}
    data = RetrievalSet(
        pixel_batches=pixels.split(4), texts=TEXTS, image_of_text=IMAGE_OF_TEXT, groups=groups
    )
    found = evaluate_retrieval(*med_and_tokenizer, data, RetrievalOptions(k=3))
    whole = one_pair_at_a_time(med_and_tokenizer, pixels, 3)
    first = one_pair_at_a_time(med_and_tokenizer, pixels, 3, groups["first"])
    rest = one_pair_at_a_time(med_and_tokenizer, pixels, 3, groups["rest"])
    assert first != rest
    expected = whole | {f"first/{k}": v for k, v in first.items()} | {f"rest/{k}": v for k, v in rest.items()}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("free", "stays"), [(50, True), (49, False)])
def test_states_stay_on_a_gpu_while_half_of_its_memory_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int, stays: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 100))
    assert _stays_on_device(torch.device("cuda")) is stays
    assert not _stays_on_device(torch.device("cpu"))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluation_does_not_depend_on_batch_size(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, batch_size: int
) -> None:
    assert run(med_and_tokenizer, pixels, 4, batch_size) == run(med_and_tokenizer, pixels, 4)


def test_each_image_is_encoded_once_and_its_keys_are_computed_once(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    med, _ = med_and_tokenizer
    rows: Counter[str] = Counter()
    for name in ("encode_image", "cross_kv"):
        whole = getattr(med, name)

        def counted(images: torch.Tensor, *args: object, _name: str = name, _whole=whole, **kwargs: object):
            rows[_name] += len(images)
            return _whole(images, *args, **kwargs)

        monkeypatch.setattr(med, name, counted)
    run(med_and_tokenizer, pixels, 50, batch_size=3)
    assert rows == {"encode_image": IMAGES, "cross_kv": IMAGES}


# ---- memory


METHODS = {
    "images": "encode_image",
    "texts": "text_feature",
    "pairs": "match",
}
"""The method of the model that processes each unit."""


def limit_memory(med: MED, monkeypatch: pytest.MonkeyPatch, method: str, most: int) -> list[int]:
    """Make a method run out of memory for more than `most` rows; returns the list of batch sizes tried."""
    whole, tried = getattr(med, method), []

    def limited(first: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        tried.append(len(first))
        if len(first) > most:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return whole(first, *args, **kwargs)

    monkeypatch.setattr(med, method, limited)
    return tried


@pytest.mark.parametrize(("unit", "method"), METHODS.items())
def test_out_of_memory_halves_the_batch_without_changing_recalls(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, unit: str, method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    expected, notices = run(med_and_tokenizer, pixels, 4), []
    tried = limit_memory(med_and_tokenizer[0], monkeypatch, method, most=2)
    data = RetrievalSet(pixel_batches=pixels.split(9), texts=TEXTS, image_of_text=IMAGE_OF_TEXT)
    options = RetrievalOptions(k=4, batch_size=8, on_notice=notices.append)
    found = evaluate_retrieval(*med_and_tokenizer, data, options)
    assert found == expected
    assert notices == [f"out of memory with a batch of {n} {unit}; continuing with {n // 2}" for n in (8, 4)]
    assert tried[:2] == [8, 4] and max(tried[2:]) == 2, "the halved size is kept"


def test_out_of_memory_in_cross_kv_reduces_the_images_per_block(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(med_and_tokenizer, pixels, 1)
    tried = limit_memory(med_and_tokenizer[0], monkeypatch, "cross_kv", most=1)
    assert run(med_and_tokenizer, pixels, 1, batch_size=16) == expected
    assert tried[0] > 2 and tried[-1] == 1


def test_halved_batches_equal_batches_of_that_size_exactly(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    med, tokenizer = med_and_tokenizer
    texts = sorted({normalize_caption(text) for text in TEXTS})
    pairs = torch.rand(IMAGES, len(texts), generator=torch.Generator().manual_seed(3)) < 0.5
    pairs[:, 0] = True

    tokens = tokenizer.encode(texts, MAX_TOKENS, first="enc")

    def scores(batches: MicroBatches) -> torch.Tensor:
        with torch.no_grad():
            states = list(med.encode_image(normalize(pixels)))
            return score_pairs(med, states, tokens, pairs, batches)

    expected = scores(MicroBatches(3))
    limit_memory(med, monkeypatch, "match", most=3)
    halved = MicroBatches(8, unit="pairs")
    assert torch.equal(scores(halved), expected) and halved.size == 3
    assert (expected != 0).equal(pairs)


@pytest.mark.parametrize(("unit", "method"), METHODS.items())
def test_out_of_memory_with_one_item_is_an_error(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, unit: str, method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    limit_memory(med_and_tokenizer[0], monkeypatch, method, most=0)
    with pytest.raises(OutOfMemory, match=rf"even with a batch size of 1 \({unit}\)"):
        run(med_and_tokenizer, pixels, 4)


# ---- edge cases


def test_a_model_with_equal_scores_finds_nothing(pixels: torch.Tensor) -> None:
    tokenizer = Tokenizer.train([normalize_caption(text) for text in TEXTS] * 3, 120)
    config = MedConfig(
        vision=VisionConfig(image_size=32, width=32, depth=1, heads=4),
        text=TextConfig(
            vocab_size=tokenizer.vocab_size, width=32, depth=1, heads=4, ffn=64, max_positions=40
        ),
        embed_dim=16,
        parts="filter",
    )
    med = MED(config)
    for parameter in med.vision_proj.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.zeros_(med.itm_head.weight)
    found = run((med, tokenizer), pixels, 50)
    assert {found[key] for key in ("tr@1", "ir@1", "itc_tr@1", "itc_ir@1")} == {0.0}
    assert med.training, "training mode is restored"


@pytest.mark.parametrize(
    ("texts", "images", "k", "message"),
    [
        ([], [], 4, "needs texts"),
        (["a"], [0, 1], 4, "got 1 texts and 2 images"),
        (["a"], [0], 0, "k is 0: it must be at least 1"),
        (["a"], [9], 4, "from 9 to 9: expected 0 to 8 for 9 images"),
        (["a"], [-1], 4, "from -1 to -1"),
    ],
)
def test_invalid_arguments_are_rejected(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor,
    texts: list[str], images: list[int], k: int, message: str,
) -> None:  # fmt: skip
    with pytest.raises(ValueError, match=message):
        data = RetrievalSet(pixel_batches=[pixels], texts=texts, image_of_text=images)
        evaluate_retrieval(*med_and_tokenizer, data, RetrievalOptions(k=k))


@pytest.mark.parametrize(("words", "unique"), [(29, 2), (30, 1)])
def test_texts_are_compared_after_cutting_at_30_words(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, words: int, unique: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two texts that differ in their last word are encoded once if that word is cut off."""
    med, tokenizer = med_and_tokenizer
    encoded = limit_memory(med, monkeypatch, "text_feature", most=99)
    texts = ["a " * words + last for last in ("ring", "star")]
    data = RetrievalSet(pixel_batches=[pixels[:2]], texts=texts, image_of_text=[0, 1])
    evaluate_retrieval(med, tokenizer, data, RetrievalOptions(k=2))
    assert encoded == [unique]


def test_texts_are_cut_at_35_tokens(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    med, tokenizer = med_and_tokenizer
    lengths: list[int] = []
    for name in ("text_feature", "match"):
        whole = getattr(med, name)

        def recorded(ids: torch.Tensor, *args: object, _whole=whole, **kwargs: object) -> torch.Tensor:
            lengths.append(ids.shape[1])
            return _whole(ids, *args, **kwargs)

        monkeypatch.setattr(med, name, recorded)
    data = RetrievalSet(pixel_batches=[pixels[:1]], texts=["rings " * 30], image_of_text=[0])
    evaluate_retrieval(med, tokenizer, data, RetrievalOptions(k=1))
    assert lengths == [35, 35]


def test_image_numbers_at_both_ends_are_named(
    med_and_tokenizer: tuple[MED, Tokenizer], pixels: torch.Tensor
) -> None:
    data = RetrievalSet(pixel_batches=[pixels], texts=["a", "b", "c"], image_of_text=[3, -2, 12])
    with pytest.raises(ValueError, match="ranges from -2 to 12: expected 0 to 8 for 9 images"):
        evaluate_retrieval(*med_and_tokenizer, data, RetrievalOptions(k=1))
