"""Scenes with counts, sizes, textures, backgrounds and relations: texts against their content, and pixels."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.corpora.rich_scenes import (
    BACKGROUNDS,
    COUNTS,
    RADII,
    SIZES,
    TEXTURES,
    RichFacts,
    RichScenes,
    RichWords,
    Thing,
)
from capfilt.pipeline.corpora.scenes import COLORS, SHAPES
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_scene, make_shapes, make_web_text

CONFIG = ShapesConfig(
    human=150, web=120, test=150, vocabulary="rich", human_words=0.65, incomplete=0.5, seed=3
)
GRAMMAR = CONFIG.grammar
ALL = RichScenes(RichWords())
SHAPE_OF_WORD = {word: shape for shape, words in SHAPES.items() for word in words}
SHAPE_OF_PLURAL = {
    f"{word}es" if word in ("cross", "plus", "box") else f"{word}s": shape
    for word, shape in SHAPE_OF_WORD.items()
}
STACKED = ("above", "on top of", "over")


def parse(text: str) -> RichFacts:
    """Read a text by its words, without the code that writes it."""
    said, _, ground = text.removesuffix(" background").partition(" on a ")
    if text.endswith(" background"):
        assert ground in BACKGROUNDS
    else:
        said, ground = text, "white"
    stacked = any(f" {link} " in said for link in STACKED)
    for link in (*STACKED, "left of", "next to", "beside", "and"):
        said = said.replace(f" {link} ", " | ")
    return RichFacts(tuple(parse_thing(phrase.split()) for phrase in said.split(" | ")), stacked, ground)


def parse_thing(words: list[str]) -> Thing:
    count = {"a": "one", "an": "one"}.get(words[0], words[0])
    shape = (SHAPE_OF_WORD if count == "one" else SHAPE_OF_PLURAL)[words[-1]]
    said = set(words[1:-1])
    one_of = {
        kind: next((word for word in names if word in said), default)
        for kind, names, default in (("size", SIZES, "large"), ("texture", TEXTURES, "plain"))
    }
    (color,) = said & set(COLORS)
    return Thing(count, one_of["size"], one_of["texture"], color, shape)


@pytest.fixture(scope="module")
def scenes() -> list[RichFacts]:
    return [ALL.compose(Random(f"rich {i}")) for i in range(3000)]


def test_descriptions_say_all_facts(scenes) -> None:
    for number, scene in enumerate(scenes):
        text = ALL.describe(scene, Random(number))
        assert parse(text) == scene, text


def test_plurals_and_articles() -> None:
    def text(thing: Thing) -> str:
        return ALL.describe(RichFacts((thing,), False, "white"), Random(1))

    assert text(Thing("two", "large", "plain", "red", "star")) == "two red stars"
    assert text(Thing("one", "large", "plain", "orange", "star")) == "an orange star"
    assert text(Thing("one", "tiny", "dotted", "orange", "star")) == "a tiny dotted orange star"
    crosses = RichFacts((Thing("two", "large", "plain", "red", "cross"),), False, "white")
    assert {ALL.describe(crosses, Random(n)) for n in range(40)} == {"two red crosses", "two red pluses"}


def test_every_word_is_used(scenes) -> None:
    things = [thing for scene in scenes for thing in scene.things]
    for kind, words in (("count", COUNTS), ("size", SIZES), ("texture", TEXTURES), ("color", COLORS)):
        assert {getattr(thing, kind) for thing in things} == set(words)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert Counter(len(scene.things) for scene in scenes)[2] / 3000 == pytest.approx(0.65, abs=0.03)
    pairs = [scene.stacked for scene in scenes if len(scene.things) == 2]
    assert np.mean(pairs) == pytest.approx(0.5, abs=0.04)
    assert not any(scene.stacked for scene in scenes if len(scene.things) == 1)
    assert np.mean([thing.count == "one" for thing in things]) == pytest.approx(0.6, abs=0.03)


def test_altered_facts_are_wrong_in_one_word(scenes) -> None:
    kinds = Counter()
    for number, scene in enumerate(scenes):
        altered = ALL.alter(scene, Random(number))
        assert not ALL.is_true(altered, scene) and altered.background == scene.background
        changes = [
            kind
            for old, new in zip(scene.things, altered.things, strict=True)
            for kind in vars(old)
            if getattr(old, kind) != getattr(new, kind)
        ] + ["relation"] * (altered.stacked != scene.stacked)
        assert len(changes) == 1
        kinds[changes[0]] += 1
    assert set(kinds) == {"color", "shape", "count", "size", "texture", "relation"}


def test_incomplete_facts_are_true_and_fewer(scenes) -> None:
    for number, scene in enumerate(scenes):
        if not ALL.can_omit(scene):
            assert len(scene.things) == 1 and scene.background == "white"
            continue
        rest = ALL.omit(scene, Random(number))
        assert ALL.is_true(rest, scene) and rest != scene
        assert len(rest.things) == 1 and rest.things[0] in scene.things


RED, BLUE = (Thing("one", "large", "plain", color, "star") for color in ("red", "blue"))
PAIR = RichFacts((RED, BLUE), True, "gray")


@pytest.mark.parametrize(
    ("said", "is_true"),
    [
        (PAIR, True),
        (replace(PAIR, background="white"), True),
        (replace(PAIR, background="beige"), False),
        (replace(PAIR, stacked=False), False),
        (replace(PAIR, things=(BLUE, RED)), False),
        (RichFacts((BLUE,), False, "gray"), True),
        (RichFacts((replace(BLUE, count="two"),), False, "gray"), False),
    ],
)
def test_truth_of_a_text(said, is_true) -> None:
    assert ALL.is_true(said, PAIR) is is_true


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_painted_objects_are_as_many_as_said_and_where_they_are_said_to_be(size, stacked) -> None:
    scene = RichFacts(
        (Thing("two", size, "plain", "red", "square"), Thing("one", size, "plain", "blue", "square")),
        stacked,
        "beige",
    )
    pixels = np.asarray(ALL.paint(scene, 192, Random(5)), dtype=int)
    places = {}
    for color, count in (("red", 2), ("blue", 1)):
        inside = np.abs(pixels - COLORS[color]).max(axis=2) < 60
        radius = min(RADII[size], 0.46 / 2) * 192
        assert inside.sum() == pytest.approx(count * (2 * 0.86 * radius) ** 2, rel=0.08)
        places[color] = [axis.mean() for axis in np.nonzero(inside)]
    assert places["red"][not stacked] < places["blue"][not stacked]
    assert tuple(pixels[0, 0]) == BACKGROUNDS["beige"]


def test_textures_cover_about_half_of_a_shape() -> None:
    for texture, share in (("plain", 0.0), ("striped", 1 / 1.72), ("dotted", 0.25), ("checkered", 0.5)):
        scene = RichFacts((Thing("one", "large", texture, "black", "square"),), False, "gray")
        pixels = np.asarray(ALL.paint(scene, 256, Random(2)), dtype=int)
        ink, dark = (pixels.min(axis=2) > 235).sum(), (pixels.max(axis=2) < 60).sum()
        assert ink / (ink + dark) == pytest.approx(share, abs=0.08), texture


def test_human_images_lack_the_rarer_words(tmp_path: Path) -> None:
    root = make_shapes(CONFIG, tmp_path)
    human = [parse(entry["caption"]) for entry in json.loads((root / "human/annotations.json").read_text())]
    things = [thing for facts in human for thing in facts.things]
    assert {thing.color for thing in things} == {"red", "blue", "green", "yellow", "black"}
    assert {thing.size for thing in things} == {"large", "small"}
    assert {thing.count for thing in things} == {"one", "two"}
    assert {thing.texture for thing in things} == {"plain", "striped", "dotted"}
    assert {facts.background for facts in human} == {"white", "gray", "light blue"}
    known = RichWords.most_common(0.65)
    for name, expected in (("common", True), ("rare", False)):
        entries = json.loads((root / f"test/{name}.json").read_text())
        assert entries and all(known.covers(parse(entry["caption"])) is expected for entry in entries)
    rows = pq.read_table(root / "web/manifest.parquet").to_pylist()
    for number, row in enumerate(rows):
        scene = make_scene(CONFIG, "web", number)
        if row["truth"] == "clean":
            assert parse(row["caption"]) == scene
        elif row["truth"] != "boilerplate":
            assert GRAMMAR.is_true(parse(row["caption"]), scene) is (row["truth"] == "incomplete")


def test_shares_of_noise_are_those_of_the_config() -> None:
    truths = Counter(make_web_text(CONFIG, row, make_scene(CONFIG, "web", row))[1] for row in range(3000))
    for kind, share in {"boilerplate": 0.12, "partial": 0.03, "mismatched": 0.40}.items():
        assert truths[kind] / 3000 == pytest.approx(share, abs=0.03), kind


def test_another_vocabulary_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = ShapesConfig(human=1, web=2, test=1)
    make_shapes(config, tmp_path)
    with pytest.raises(ValueError, match="vocabulary 'plain' -> 'rich'"):
        make_shapes(replace(config, vocabulary="rich"), tmp_path)
