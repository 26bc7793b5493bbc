"""Scenes: what they contain, the words for it, and the pixels."""

import math
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from capfilt.pipeline.corpora.scenes import (
    COLORS,
    SHAPES,
    SceneObject,
    alter_facts,
    compose_scene,
    describe_facts,
    paint_scene,
    scene_facts,
)

SAMPLES = 4000


@pytest.fixture(scope="module")
def scenes() -> list[tuple[SceneObject, ...]]:
    return [compose_scene(Random(f"scene {i}")) for i in range(SAMPLES)]


def test_scenes_have_one_to_three_different_objects(scenes) -> None:
    counts = Counter(map(len, scenes))
    for count, probability in ((1, 0.25), (2, 0.55), (3, 0.20)):
        assert counts[count] / SAMPLES == pytest.approx(probability, abs=0.025)  # three standard errors
    assert all(len(set(scene_facts(scene))) == len(scene) for scene in scenes)
    assert {item.color for scene in scenes for item in scene} == set(COLORS)
    assert {item.shape for scene in scenes for item in scene} == set(SHAPES)


def test_objects_do_not_overlap_and_stay_inside(scenes) -> None:
    for scene in scenes:
        for left, right in pairwise(scene):
            assert left.x + left.radius <= right.x - right.radius + 1e-9
        for item in scene:
            assert item.radius <= item.x + 1e-9 and item.x + item.radius <= 1 + 1e-9
            assert item.radius < item.y < 1 - item.radius


def test_sizes_and_positions_vary_over_their_whole_range(scenes) -> None:
    objects = [item for scene in scenes for item in scene]
    radii = [item.radius for item in objects]
    assert min(radii) == pytest.approx(0.12, abs=0.001) and max(radii) == pytest.approx(0.16, abs=0.001)
    single = [scene[0] for scene in scenes if len(scene) == 1]
    assert min(item.x - item.radius for item in single) < 0.01
    assert max(item.x + item.radius for item in single) > 0.99
    offsets = [(item.y - 0.5) / (1 - 2 * item.radius) for item in objects]
    assert min(offsets) == pytest.approx(-0.45, abs=0.005) and max(offsets) == pytest.approx(0.45, abs=0.005)


def test_description_is_one_of_the_wordings() -> None:
    def describe(*facts: tuple[str, str]) -> Counter[str]:
        return Counter(describe_facts(facts, Random(f"words {i}")) for i in range(600))

    one = describe(("orange", "circle"))
    assert set(one) == {"an orange circle", "an orange disc"}
    assert one["an orange disc"] / 600 == pytest.approx(1 / 3, abs=0.06)
    two = describe(("red", "star"), ("black", "triangle"))
    assert set(two) == {
        f"a red star {link} a black triangle" for link in ("and", "next to", "beside", "left of")
    }
    three = describe(("red", "star"), ("black", "triangle"), ("pink", "star"))
    assert set(three) == {"a red star and a black triangle and a pink star"}


def test_altered_facts_differ_in_one_color_or_one_shape() -> None:
    facts = (("red", "star"), ("black", "ring"), ("pink", "cross"))
    altered = [alter_facts(facts, Random(f"alter {i}")) for i in range(1000)]
    different = [
        [(i, part) for i in range(3) for part in range(2) if old[i][part] != facts[i][part]]
        for old in altered
    ]
    assert all(len(places) == 1 for places in different)
    assert {places[0][0] for places in different} == {0, 1, 2}
    assert sum(places[0][1] == 0 for places in different) / 1000 == pytest.approx(0.5, abs=0.05)
    assert {new[i][0] for new in altered for i in range(3)} == set(COLORS)


AREAS = {
    "circle": math.pi,
    "square": (2 * 0.86) ** 2,
    "triangle": 2 * 1.8 / 2,
    "star": 5 * 1.08 * 0.45 * math.sin(math.pi / 5),
    "cross": 2 * (2 * 0.66) - 0.66**2,
    "ring": math.pi * (1 - 0.52**2),
}
"""Areas for a radius of 1."""


@pytest.mark.parametrize("shape", SHAPES)
def test_painted_shape_has_its_color_area_and_place(shape: str) -> None:
    size, radius = 256, 0.15
    image = np.asarray(
        paint_scene((SceneObject("blue", shape, 0.3, 0.6, radius),), size, Random(1)), dtype=int
    )
    inside = np.abs(image - COLORS["blue"]).max(axis=2) < 80
    assert inside.sum() / (radius * size) ** 2 == pytest.approx(AREAS[shape], rel=0.03)
    rows, columns = np.nonzero(inside)
    assert columns.mean() == pytest.approx(0.3 * size, abs=1)
    assert rows.mean() == pytest.approx((0.6 + {"triangle": 0.2 * radius}.get(shape, 0)) * size, abs=1)


def test_background_is_light_and_varies() -> None:
    pixels = [paint_scene((), 32, Random(i)).getpixel((0, 0)) for i in range(2000)]
    assert min(map(min, pixels)) == 219 and max(map(max, pixels)) == 251
    assert max(max(pixel) - min(pixel) for pixel in pixels) == 9


@pytest.mark.parametrize("size", [32, 64, 128])
def test_image_has_the_given_size_and_only_background_in_its_corners(size: int) -> None:
    for number in range(20):
        image = paint_scene(compose_scene(Random(number)), size, Random(0))
        assert image.size == (size, size)
        corners = [image.getpixel((x, y)) for x in (0, size - 1) for y in (0, size - 1)]
        assert len(set(corners)) == 1
