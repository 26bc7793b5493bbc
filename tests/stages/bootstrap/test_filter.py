"""The filter stage: which texts are scored, in which order, and which candidates are kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.tasks.matcher import Matcher, Score
from capfilt.models.tasks.options import MatcherOptions
from capfilt.stages.bootstrap.filter import Filter, FilterConfig
from capfilt.stages.bootstrap.model_source import ModelSource
from tests.models.tiny_med import TOKENIZER, build
from tests.stages.bootstrap.rows import add_captions, encode_image, make_batch


class FakeMatcher:
    """Records its calls; the scores of a text are looked up."""

    def __init__(self):
        self.calls, self.probabilities = [], {}

    def match(self, images, texts, compared):
        self.calls.append((list(images), texts))
        self.compared = compared
        return [[Score(self.probabilities.get(text, 0.75), 0.25) for text in of_image] for of_image in texts]


@pytest.fixture
def fake(monkeypatch):
    matcher = FakeMatcher()
    monkeypatch.setattr(Matcher, "from_checkpoint", lambda *_, **__: matcher)
    return matcher


def make_stage(tmp_path, *, keep_images=False, **config):
    return Filter(FilterConfig(**config), ModelSource(checkpoint=str(tmp_path)), keep_images=keep_images)


def test_each_image_is_judged_with_its_web_texts_then_its_captions(fake, tmp_path):
    batch = make_batch([["A dog.", "a cat"], ["b"], None], failed=(1,))
    out = make_stage(tmp_path)(add_captions(batch, [["a red dog"], [], ["a bird", "two birds"]]))
    assert fake.calls == [
        ([encode_image(0), encode_image(40)], [["a dog", "a cat", "a red dog"], ["a bird", "two birds"]])
    ]
    assert fake.compared == [2, 0]  # the web texts, which are compared with the captions
    candidates = out["candidates"].to_pylist()
    assert [[(c["origin"], c["caption_index"], c["text"]) for c in of_row] for of_row in candidates] == [
        [("web", 0, "A dog."), ("web", 1, "a cat"), ("synthetic", 0, "a red dog")],
        [],
        [("synthetic", 0, "a bird"), ("synthetic", 1, "two birds")],
    ]
    assert {(c["itm_prob"], c["itc_sim"], c["kept"]) for of_row in candidates for c in of_row} == {
        (0.75, 0.25, True)
    }


@pytest.mark.parametrize(("asked", "expected"), [(True, ["de", "fr", None]), (False, [None] * 3)])
def test_languages_are_guessed_where_the_config_asks(fake, tmp_path, asked, expected):
    texts = ["ein Hund läuft am Strand mit einem Ball", "IMG 12"]
    out = make_stage(tmp_path, language=asked)(
        add_captions(make_batch([texts]), [["un chien court sur la plage"]])
    )
    found = {c["text"]: c["language"] for c in out["candidates"].to_pylist()[0]}
    assert [found[text] for text in (texts[0], "un chien court sur la plage", texts[1])] == expected


def test_only_texts_without_words_are_not_scored(fake, tmp_path):
    texts = ["...", "a dog", "A DOG", "dai dai dai"]
    out = make_stage(tmp_path)(add_captions(make_batch([texts, ["", " "]]), [["", "a dog"], []]))
    assert fake.calls[0][1] == [["a dog", "a dog", "dai dai dai", "a dog"], []]
    first, second = out["candidates"].to_pylist()
    assert [(c["flags"], c["kept"], c["itm_prob"], c["itc_sim"]) for c in first] == [
        (["empty"], None, None, None),
        ([], True, 0.75, 0.25),
        (["duplicate"], True, 0.75, 0.25),
        (["degenerate"], True, 0.75, 0.25),
        (["empty"], None, None, None),
        (["duplicate"], True, 0.75, 0.25),
    ]
    assert [(c["flags"], c["kept"], c["itm_prob"]) for c in second] == [(["empty"], None, None)] * 2


def test_a_candidate_is_kept_at_exactly_the_threshold(fake, tmp_path):
    fake.probabilities = {"below": 0.5 - 2**-20, "at": 0.5, "above": 0.5 + 2**-20, "zero": 0.0, "one": 1.0}
    batch = add_captions(make_batch([list(fake.probabilities)]), [[]])
    for threshold, kept in (
        (0.5, [False, True, True, False, True]),
        (0.0, [True] * 5),
        (1.0, [False, False, False, False, True]),
    ):
        (candidates,) = make_stage(tmp_path, threshold=threshold)(batch)["candidates"].to_pylist()
        assert [c["kept"] for c in candidates] == kept
        assert [c["itm_prob"] for c in candidates] == list(fake.probabilities.values())


def test_texts_are_cut_for_the_model_only(fake, tmp_path):
    batch = add_captions(make_batch([["one two three", "one two"]]), [["one two four"]])
    (candidates,) = make_stage(tmp_path, max_words=2)(batch)["candidates"].to_pylist()
    assert fake.calls[0][1] == [["one two", "one two", "one two"]]
    assert [(c["text"], c["flags"]) for c in candidates] == [
        ("one two three", []),
        ("one two", []),
        ("one two four", []),
    ]


@pytest.mark.parametrize("keep_images", [False, True])
def test_images_are_removed_unless_the_writer_needs_them(fake, tmp_path, keep_images):
    batch = add_captions(make_batch([["a"], ["b"]], failed=(1,)), [[], []])
    out = make_stage(tmp_path, keep_images=keep_images)(batch)
    expected = batch["image"].to_pylist() if keep_images else [None, None]
    assert out["image"].to_pylist() == expected
    assert out.drop(["candidates", "image"]).equals(batch.drop(["image"])), "failed rows are passed on"


def test_a_batch_of_failed_rows_is_passed_on(fake, tmp_path):
    batch = add_captions(make_batch([["a"], None], failed=(0, 1)), [[], []])
    out = make_stage(tmp_path)(batch)
    assert out["candidates"].to_pylist() == [[], []] and out["status"].equals(batch["status"])
    assert all(images == [] for images, _ in fake.calls)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filter")
    save_checkpoint(str(folder), build(), TOKENIZER, {})
    return folder


@pytest.mark.parametrize("itm_token", ["enc", "cls"])
def test_scores_are_those_of_the_matcher_with_the_settings_of_the_config(checkpoint, itm_token):
    config = FilterConfig(itm_token=itm_token, batch_size=2, precision="float32")
    stage = Filter(config, ModelSource(checkpoint=str(checkpoint), device="cpu"))
    batch = add_captions(
        make_batch([["a dog", "..."], ["b"], ["a cat"]], failed=(1,)), [["two dogs"], [], []]
    )
    candidates = stage(batch)["candidates"].to_pylist()
    options = MatcherOptions(itm_token=itm_token, precision="float32")
    matcher = Matcher(build(), TOKENIZER, options, device="cpu")
    expected = matcher.match([encode_image(0), encode_image(40)], [["a dog", "two dogs"], ["a cat"]])
    scored = [[c for c in candidates[row] if c["itm_prob"] is not None] for row in (0, 2)]
    assert [[(c["itm_prob"], c["itc_sim"]) for c in of_row] for of_row in scored] == [
        [pytest.approx((score.itm_prob, score.itc_sim)) for score in of_image] for of_image in expected
    ]
    assert [each.batches.size for each in stage.matcher.matchers] == [2]


def test_progress_and_notices_are_passed_on(checkpoint):
    model = ModelSource(checkpoint=str(checkpoint), device="cpu")
    stage = Filter(FilterConfig(batch_size=2), replace(model, others=(model,)))
    calls, lines = [], []
    stage.on_progress(lambda: calls.append(1))
    stage.on_notice(lines.append)
    stage(add_captions(make_batch([["a dog"]] * 5), [[]] * 5))
    assert len(calls) == 2 * 3
    for matcher in stage.matcher.matchers:
        matcher.batches.on_notice("a line")
    assert lines == ["a line"] * 2


def test_the_mean_probability_of_an_ensemble_judges(monkeypatch, tmp_path):
    texts = ["kept by both", "kept by the mean", "dropped by the mean"]
    of_each = {"first": [0.75, 1.0, 0.25], "second": [0.5, 0.0, 0.5]}

    def load(place, *_, **__):
        matcher = FakeMatcher()
        matcher.probabilities = dict(zip(texts, of_each[Path(place).name], strict=True))
        return matcher

    monkeypatch.setattr(Matcher, "from_checkpoint", load)
    for name in of_each:
        (tmp_path / name).mkdir()
    first, second = (ModelSource(checkpoint=str(tmp_path / name)) for name in of_each)
    (candidates,) = Filter(FilterConfig(threshold=0.5), replace(first, others=(second,)))(
        add_captions(make_batch([texts]), [[]])
    )["candidates"].to_pylist()
    assert [(c["text"], c["itm_prob"], c["kept"]) for c in candidates] == [
        ("kept by both", 0.625, True),
        ("kept by the mean", 0.5, True),
        ("dropped by the mean", 0.375, False),
    ]
    assert {c["itc_sim"] for c in candidates} == {0.25}
