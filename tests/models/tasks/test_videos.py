"""Videos as concatenated frames (paper, section 5.6): states, ITC features, answers, retrieval."""

import io

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import Questions
from capfilt.models.tasks.answerer import Answerer
from capfilt.models.tasks.options import AnswererOptions
from capfilt.models.tasks.placement import load_pixel_batches
from capfilt.models.tasks.retrieval import RetrievalOptions, RetrievalSet, evaluate_retrieval, median_rank
from tests.models.blip_oracle import random_pixels
from tests.models.tiny_med import TOKENIZER, build

FRAMES = 3
VIDEOS = random_pixels(4 * FRAMES).unflatten(0, (4, FRAMES))


def encoded(pixels):
    """A video of PNG files."""
    found = []
    for frame in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        found.append(file.getvalue())
    return tuple(found)


@torch.no_grad()
def test_states_are_those_of_the_frames_and_the_feature_is_from_their_mean():
    med = build(parts="filter").eval()
    states = med.encode_image(normalize(VIDEOS))
    each = [med.encode_image(normalize(video)) for video in VIDEOS]
    assert states.shape[1] == FRAMES * each[0].shape[1]
    for row, frames in enumerate(each):
        torch.testing.assert_close(states[row], torch.cat(list(frames)))
    expected = torch.stack([F.normalize(med.vision_proj(frames[:, 0]).mean(0), dim=0) for frames in each])
    torch.testing.assert_close(med.image_feature(states), expected)
    torch.testing.assert_close(
        med.image_feature(each[0]), F.normalize(med.vision_proj(each[0][:, 0]), dim=-1)
    )


def test_videos_are_loaded_as_frames():
    videos = [encoded(video) for video in VIDEOS]
    first, second = load_pixel_batches(videos, 32, 3)
    assert torch.equal(torch.cat([first, second]), VIDEOS)


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_read_all_frames(batch_size):
    """The likelihood of each answer by hand, from the states of the frames in a row."""
    med = build(parts="vqa").eval()
    candidates = ["red", "two dogs", "cat"]
    answerer = Answerer(med, TOKENIZER, AnswererOptions(batch_size=batch_size), device="cpu")
    videos = [encoded(video) for video in VIDEOS]
    found = answerer.rank(videos, ["a dog"] * 4, candidates)
    for video, answer in zip(VIDEOS, found, strict=True):
        states = torch.cat(list(med.encode_image(normalize(video))))[None]
        ids, _ = TOKENIZER.encode(["a dog"], 20, first="enc")
        question = med.encode_text(ids, None, med.cross_kv(states, "encoder"))
        questions = Questions(kv=med.cross_kv(question, "decoder"), mask_QN=None)
        scores = {}
        for text in candidates:
            tokens, _ = TOKENIZER.encode([text], 20, first="dec")
            logprobs = med.answer(tokens[:, :-1], questions).log_softmax(-1)[0]
            scores[text] = float(logprobs.gather(1, tokens[0, 1:, None]).sum())
        best = max(scores, key=scores.get)
        assert answer.text == best and answer.logprob == pytest.approx(scores[best], abs=1e-4)


@torch.no_grad()
def test_retrieval_of_videos_is_that_of_each_pair_alone():
    med = build(parts="filter").eval()
    texts = ["a red dog", "two cats", "a boat near the house", "bird"]
    data = RetrievalSet(pixel_batches=VIDEOS.split(3), texts=texts, image_of_text=range(4))
    found = evaluate_retrieval(med, TOKENIZER, data, RetrievalOptions(k=4, median_rank=True))
    scores = torch.zeros(4, 4)
    for row, video in enumerate(VIDEOS):
        states = torch.cat(list(med.encode_image(normalize(video))))[None]
        for column, text in enumerate(texts):
            ids, _ = TOKENIZER.encode([text], 20, first="enc")
            cls, _ = TOKENIZER.encode([text], 20, first="cls")
            itm = med.match(ids, None, med.cross_kv(states, "encoder"))[0, 1]
            scores[row, column] = itm + med.image_feature(states)[0] @ med.text_feature(cls)[0]
    ranks = [(scores[:, i] >= scores[i, i]).sum().item() for i in range(4)]
    assert found["ir@1"] == 25 * sum(rank == 1 for rank in ranks)
    assert found["ir_mdr"] == sorted(ranks)[1] / 2 + sorted(ranks)[2] / 2


def test_median_rank_counts_ties_against_the_model_and_what_is_not_found_as_last():
    positive = torch.eye(3, dtype=torch.bool)
    assert median_rank(torch.ones(3, 3), positive) == 3.0
    scores = torch.tensor([[3.0, 1, 2], [1, 2, 3], [0, 0, -torch.inf]])
    assert median_rank(scores, positive) == 2.0  # 1, 2 and 3
