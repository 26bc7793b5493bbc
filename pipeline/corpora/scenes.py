"""Scenes of one to three colored shapes: how they are composed, described in words, and painted.

All random numbers come from `Random.random()`, whose stream is the same in every version of Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from PIL import Image, ImageDraw

T = TypeVar("T")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (245, 214, 30),
    "green": (44, 150, 60),
    "blue": (40, 90, 220),
    "purple": (125, 50, 160),
    "pink": (255, 130, 190),
    "black": (25, 25, 25),
}
SHAPES: dict[str, tuple[str, ...]] = {  # words for each shape; a word that stands twice is twice as likely
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus"),
    "ring": ("ring", "ring", "hoop"),
}
OUTLINES: dict[str, list[tuple[float, float]]] = {  # corners in units of the radius, y downwards
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)],
    "star": [
        (radius * math.sin(math.pi * corner / 5), -radius * math.cos(math.pi * corner / 5))
        for corner, radius in enumerate([1.08, 0.45] * 5)
    ],
    "cross": [
        (-0.33, -1.0), (0.33, -1.0), (0.33, -0.33), (1.0, -0.33), (1.0, 0.33), (0.33, 0.33),
        (0.33, 1.0), (-0.33, 1.0), (-0.33, 0.33), (-1.0, 0.33), (-1.0, -0.33), (-0.33, -0.33),
    ],
}  # fmt: skip
COLORS_BY_FREQUENCY = ("red", "blue", "green", "yellow", "black", "orange", "purple", "pink")
SHAPES_BY_FREQUENCY = ("circle", "square", "triangle", "star", "cross", "ring")
"""Colors and shapes, most common first: the order in which a small vocabulary takes them
(`Vocabulary.most_common`)."""
LINKS = ("and", "next to", "beside", "left of")
OBJECT_COUNTS = ((1, 0.25), (2, 0.55), (3, 0.20))
"""(number of objects, probability)"""
HOLE_RADIUS = 0.52
"""Radius of the hole of a ring, in units of its radius."""
SUPERSAMPLING = 4


@dataclass(frozen=True)
class SceneObject:
    """One colored shape; center and radius are fractions of the image side."""

    color: str
    shape: str
    x: float
    y: float
    radius: float


Scene = tuple[SceneObject, ...]
"""Objects from left to right."""
Facts = tuple[tuple[str, str], ...]
"""(color, shape) of each object from left to right: the content of a caption."""


@dataclass(frozen=True)
class Vocabulary:
    """The colors and shapes that scenes are composed of."""

    colors: tuple[str, ...] = tuple(COLORS)
    shapes: tuple[str, ...] = tuple(SHAPES)

    @classmethod
    def most_common(cls, share: float) -> Vocabulary:
        """The most common colors and shapes: this share of each, rounded, at least two of each."""
        colors, shapes = (most_common(words, share) for words in (COLORS_BY_FREQUENCY, SHAPES_BY_FREQUENCY))
        return cls(tuple(c for c in COLORS if c in colors), tuple(s for s in SHAPES if s in shapes))

    def covers(self, facts: Facts) -> bool:
        """Whether every object has a color and a shape of the vocabulary."""
        return all(color in self.colors and shape in self.shapes for color, shape in facts)


ALL_WORDS = Vocabulary()


def compose_scene(random: Random, vocabulary: Vocabulary = ALL_WORDS) -> Scene:
    """Compose a scene of one to three different objects in columns."""
    count = _choose_count(random)
    kinds: list[tuple[str, str]] = []
    while len(kinds) < count:
        kind = (choose(random, vocabulary.colors), choose(random, vocabulary.shapes))
        if kind not in kinds:
            kinds.append(kind)
    objects = []
    for column, (color, shape) in enumerate(kinds):
        radius = 0.12 + 0.04 * random.random()
        x = choose_position(random, column, count, radius)
        y = 0.5 + (1 - 2 * radius) * 0.9 * (random.random() - 0.5)
        objects.append(SceneObject(color, shape, x, y, radius))
    return tuple(objects)


def scene_facts(scene: Scene) -> Facts:
    """Color and shape of each object of a scene."""
    return tuple((item.color, item.shape) for item in scene)


def describe_facts(facts: Facts, random: Random) -> str:
    """Describe one to three objects in one of several wordings; a noun phrase, as after "a picture of"."""
    phrases = []
    for color, shape in facts:
        phrases.append(f"{article_of(color)} {color} {choose(random, SHAPES[shape])}")
    if len(phrases) == 3:
        return f"{phrases[0]} and {phrases[1]} and {phrases[2]}"
    return f" {choose(random, LINKS)} ".join(phrases)


def alter_facts(facts: Facts, random: Random) -> Facts:
    """Replace one color or one shape by another one."""
    position = int(len(facts) * random.random())
    color, shape = facts[position]
    if random.random() < 0.5:
        altered = (choose(random, tuple(c for c in COLORS if c != color)), shape)
    else:
        altered = (color, choose(random, tuple(s for s in SHAPES if s != shape)))
    return (*facts[:position], altered, *facts[position + 1 :])


def omit_facts(facts: Facts, random: Random) -> Facts:
    """Leave out at least one of two or three objects, and keep the others in their order."""
    count = 1 + int((len(facts) - 1) * random.random())
    kept = list(range(len(facts)))
    while len(kept) > count:
        kept.pop(int(len(kept) * random.random()))
    return tuple(facts[position] for position in kept)


def paint_scene(scene: Scene, size: int, random: Random) -> Image.Image:
    """Paint a scene, anti-aliased, on a light background.

    Returns:
        RGB image of size x size.
    """
    light = 228 + int(24 * random.random())
    background = tuple(light - int(10 * random.random()) for _ in range(3))
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(canvas)
    for item in scene:
        where = item.x * side, item.y * side, item.radius * side
        paint_shape(pen, item.shape, where, COLORS[item.color], background)
    return canvas.reduce(SUPERSAMPLING)


def choose(random: Random, options: Sequence[T]) -> T:
    """Choose one of the options with equal probability."""
    return options[int(len(options) * random.random())]


def choose_position(random: Random, place: int, count: int, radius: float) -> float:
    """Choose the center of one of `count` objects in a row of length 1, so that none of them overlap: each
    moves only as far as its part of the row has room for it."""
    room = max(0.0, 1 / count - 2 * radius)
    return (place + 0.5) / count + room * (random.random() - 0.5)


def most_common(words: Sequence[str], share: float) -> tuple[str, ...]:
    """The first words of a list: this share of them, rounded, at least two."""
    return tuple(words[: max(2, round(share * len(words)))])


def article_of(phrase: str) -> str:
    """The indefinite article of a phrase."""
    return "an" if phrase[0] in "aeiou" else "a"


def paint_shape(
    pen: ImageDraw.ImageDraw,
    shape: str,
    where: tuple[float, float, float],
    fill: tuple[int, ...] | int,
    hole: tuple[int, ...] | int,
) -> None:
    """Paint one shape.

    Args:
        where: x, y and radius in pixels.
        fill: its color.
        hole: the color within a ring.
    """
    x, y, r = where
    if shape in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        if shape == "ring":
            inner = HOLE_RADIUS * r
            pen.ellipse((x - inner, y - inner, x + inner, y + inner), fill=hole)
        return
    pen.polygon([(x + r * dx, y + r * dy) for dx, dy in OUTLINES[shape]], fill=fill)


def _choose_count(random: Random) -> int:
    draw = random.random()
    for count, probability in OBJECT_COUNTS:
        draw -= probability
        if draw < 0:
            return count
    return OBJECT_COUNTS[-1][0]
