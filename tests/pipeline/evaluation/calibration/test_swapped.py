"""The sample of a calibration, and its scores with other images."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from capfilt.pipeline.evaluation.calibration import substitutes, swapped
from capfilt.pipeline.evaluation.calibration.swapped import (
    OTHERS,
    CalibrationTask,
    calibrate_filter,
    sample_pairs,
    score_swapped,
)
from capfilt.stages.bootstrap.filter import FilterConfig
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.pairs.hold_out import is_held_out
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig
from capfilt.stages.rows import ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store

ROWS = 40


@pytest.fixture
def task(tmp_path):
    """Sources `a` with 12 shards and `b` with one, each of 40 rows; every eighth text has no word."""
    store = Store(str(tmp_path))
    for source, shards in (("a", 12), ("b", 1)):
        write = Write(WriteConfig(run_dir=store, corpus_fingerprints={source: "f"}))
        for shard in range(shards):
            rows = [
                {
                    "key": row_key(shard, number),
                    "source": source,
                    "shard": shard,
                    "texts": ["..." if number % 8 == 0 else f"Text {number}, of {source}/{shard}", "second"],
                    "status": "success",
                    "image": b"\xff\xd8\xff" + bytes([number]),
                }
                for number in range(ROWS)
            ]
            write(table_of(rows, ROW_SCHEMA))
    return CalibrationTask(
        model=ModelSource(checkpoint="none"),
        judge=FilterConfig(),
        pairs=PairsConfig(run_dir=store),
        hold_out=0.0,
        shards=tuple([ShardRef("a", n, "web") for n in range(12)] + [ShardRef("b", 0, "web")]),
        size=100,
    )


def test_sample_has_equal_numbers_of_each_source_from_many_shards(task):
    sample = sample_pairs(task)
    assert [row["source"] for row in sample].count("b") == 35, "all that b has"
    of_a = [row for row in sample if row["source"] == "a"]
    assert len(of_a) == 50 and len({row["key"][:6] for row in of_a}) == 8
    assert all(row["texts"][0].startswith("Text") for row in sample)
    assert len({(row["source"], row["key"]) for row in sample}) == len(sample)
    assert sample_pairs(task) == sample, "the same each time"


def test_size_is_an_upper_limit_also_with_one_source(task):
    alone = replace(task, shards=task.shards[:12], size=99)
    assert len(sample_pairs(alone)) == 99
    assert len(sample_pairs(replace(alone, size=10_000))) == 12 * 35


def test_only_held_out_images_are_sampled(task):
    held_out = sample_pairs(replace(task, hold_out=0.25, size=10_000))
    assert {(row["source"], row["key"]) for row in held_out} == {
        (row["source"], row["key"])
        for row in sample_pairs(replace(task, size=10_000))
        if is_held_out(row["source"], row["key"], 0.25)
    }
    assert 0.15 < len(held_out) / (13 * 35) < 0.35


def fake_score(image, text):
    digest = hashlib.sha256(image + text.encode()).digest()
    return SimpleNamespace(itm_prob=int.from_bytes(digest[:4], "big") / 2**32, itc_sim=digest[4] / 255)


class FakeMatcher:
    """Scores that depend on image and text alone, and a count of the images."""

    def __init__(self):
        self.images = 0

    def on_notice(self, callback):
        pass

    def match(self, images, texts):
        self.images += len(images)
        return [[fake_score(image, text) for text in of] for image, of in zip(images, texts, strict=True)]


def test_every_text_is_scored_with_its_own_and_sixteen_other_images():
    images, texts = [bytes([n]) for n in range(30)], [f"text {n}" for n in range(30)]
    matcher = FakeMatcher()
    planted = [f"planted {n}" for n in range(30)]
    scores, itm_planted = score_swapped(matcher, images, texts, planted)
    assert itm_planted.tolist() == [fake_score(*pair).itm_prob for pair in zip(images, planted, strict=True)]
    assert matcher.images == 30, "each image is encoded once"
    by_probability = [
        {fake_score(image, text).itm_prob: j for j, image in enumerate(images)} for text in texts
    ]
    images_of = [[by_probability[i][p] for p in scores.itm_others[i]] for i in range(30)]
    for i, text in enumerate(texts):
        assert scores.itm_own[i] == fake_score(images[i], text).itm_prob
        assert len(set(images_of[i])) == OTHERS and i not in images_of[i]
    for j, image in enumerate(images):
        others = [i for i in range(30) if j in images_of[i]]
        assert len(others) == OTHERS, "every image has equally many texts"
        mean = np.mean([fake_score(image, texts[i]).itc_sim for i in others])
        for i in others:
            similarity = scores.itc_others[i][images_of[i].index(j)]
            assert similarity == pytest.approx(fake_score(image, texts[i]).itc_sim - mean)
        assert scores.itc_own[j] == pytest.approx(fake_score(image, texts[j]).itc_sim - mean)


@pytest.mark.parametrize(("pairs", "estimated"), [(63, False), (64, True)])
def test_too_few_texts_give_no_estimate(task, monkeypatch, pairs, estimated):
    monkeypatch.setattr(
        "capfilt.pipeline.evaluation.calibration.swapped.load_matcher", lambda judge, model: FakeMatcher()
    )
    found = calibrate_filter(replace(task, shards=task.shards[:12], size=pairs))
    assert (found is not None) == estimated
    if found is not None:
        assert found.all.pairs == pairs and set(found.by_source) == {"a"}
        assert np.isfinite([found.all.noise, found.threshold, found.keeps_matching, found.keeps_noise]).all()


def test_a_calibration_says_how_many_texts_are_wrong_in_a_detail(task, monkeypatch):
    """Texts name the number of their image; those of images 1, 11, 21 and 31 name the wrong one."""

    class NumberMatcher(FakeMatcher):
        def match(self, images, texts):
            return [
                [score_number(image[-1], text) for text in of_image]
                for image, of_image in zip(images, texts, strict=True)
            ]

    def score_number(number, text):
        is_right = text.split()[1] == f"{number + 1 if number % 10 == 1 else number},"
        return SimpleNamespace(itm_prob=0.9 if is_right else 0.01, itc_sim=float(f" {number}," in text))

    monkeypatch.setattr(swapped, "load_matcher", lambda judge, model: NumberMatcher())
    monkeypatch.setattr(substitutes, "PER_PLACE", ROWS)  # every number
    monkeypatch.setattr(substitutes, "PER_TEXT", 4 * ROWS)
    found = calibrate_filter(replace(task, size=385))
    assert found is not None and found.details is not None
    wrong = [row["image"][-1] % 10 == 1 for row in sample_pairs(replace(task, size=385))]
    assert found.details.pairs == found.all.pairs == len(wrong)
    assert found.all.noise < 0.02
    assert found.details.noise == pytest.approx(np.mean(wrong), abs=0.02)
