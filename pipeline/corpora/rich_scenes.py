"""Scenes with a richer vocabulary than `scenes`: counts, sizes, textures, backgrounds and two relations.

"two small striped red circles above a large pink star on a gray background". Images need 64 pixels or more at
the input of the model, or textures and small shapes are lost.

All random numbers come from `Random.random()`, whose stream is the same in every version of Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from random import Random

from PIL import Image, ImageDraw

from capfilt.pipeline.corpora.scenes import (
    COLORS,
    COLORS_BY_FREQUENCY,
    SHAPES,
    SHAPES_BY_FREQUENCY,
    SUPERSAMPLING,
    article_of,
    choose,
    choose_position,
    most_common,
    paint_shape,
)

COUNTS = ("one", "two", "three")
SIZES = ("large", "small", "tiny")
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (234, 234, 234),
    "gray": (200, 200, 204),
    "light blue": (196, 222, 245),
    "light green": (204, 238, 208),
    "beige": (238, 224, 198),
}
"""Each list is ordered from the most common word to the rarest; the first is not said."""
RADII = {"large": 0.17, "small": 0.115, "tiny": 0.075}
"""Fractions of the image side; a shape that has less room is painted smaller."""
WORDS_OF_STACK = ("above", "on top of", "over")
WORDS_OF_ROW = ("left of", "and", "next to", "beside")
OBJECT_KINDS = ((1, 0.35), (2, 0.65))
"""(number of kinds of objects, probability)"""
COMMON_COUNT = 0.6
"""Probability of a single object of a kind; the rest is divided among the other counts."""
INK = (250, 250, 250)
"""Color of stripes, dots and checks."""


@dataclass(frozen=True)
class Thing:
    """Equal objects of one kind."""

    count: str
    size: str
    texture: str
    color: str
    shape: str


@dataclass(frozen=True)
class RichFacts:
    """What a caption says: the content of a scene, or a part of it."""

    things: tuple[Thing, ...]
    """From left to right, or from the top down."""
    stacked: bool
    """Whether the first stands above the second."""
    background: str


@dataclass(frozen=True)
class RichWords:
    """The words that scenes are composed of."""

    colors: tuple[str, ...] = COLORS_BY_FREQUENCY
    shapes: tuple[str, ...] = SHAPES_BY_FREQUENCY
    counts: tuple[str, ...] = COUNTS
    sizes: tuple[str, ...] = SIZES
    textures: tuple[str, ...] = TEXTURES
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)

    @classmethod
    def most_common(cls, share: float) -> RichWords:
        """The most common words: this share of each list, rounded, at least two."""
        return cls(*(most_common(getattr(cls, field.name), share) for field in fields(cls)))

    def covers(self, facts: RichFacts) -> bool:
        """Whether all words of a scene are among these."""
        return facts.background in self.backgrounds and all(
            thing.color in self.colors
            and thing.shape in self.shapes
            and thing.count in self.counts
            and thing.size in self.sizes
            and thing.texture in self.textures
            for thing in facts.things
        )


@dataclass(frozen=True)
class RichScenes:
    """A grammar of scenes, see `shapes.Grammar`. The facts are the whole scene: places follow from the random
    numbers of the painting."""

    human_words: RichWords

    def compose(self, random: Random, *, human: bool = False) -> RichFacts:
        """Compose a scene of one or two kinds of objects."""
        words = self.human_words if human else RichWords()
        count = 1 + (random.random() >= OBJECT_KINDS[0][1])
        things: list[Thing] = []
        while len(things) < count:
            thing = _choose_thing(random, words)
            if (thing.color, thing.shape) not in [(other.color, other.shape) for other in things]:
                things.append(thing)
        stacked = count == 2 and random.random() < 0.5
        return RichFacts(tuple(things), stacked, choose(random, words.backgrounds))

    def facts(self, scene: RichFacts) -> RichFacts:
        """What a complete text says about a scene."""
        return scene

    def describe(self, facts: RichFacts, random: Random) -> str:
        """Describe facts in one of several wordings."""
        phrases = [_name_thing(thing, random) for thing in facts.things]
        link = choose(random, WORDS_OF_STACK if facts.stacked else WORDS_OF_ROW)
        ground = facts.background
        where = f" on {article_of(ground)} {ground} background" if ground != next(iter(BACKGROUNDS)) else ""
        return f" {link} ".join(phrases) + where

    def alter(self, facts: RichFacts, random: Random) -> RichFacts:
        """Replace one word about one thing, or the relation, by a wrong one."""
        position = int(len(facts.things) * random.random())
        choices = [
            "color",
            "shape",
            "count",
            "size",
            "texture",
            *(["stacked"] if len(facts.things) > 1 else []),
        ]
        what = choose(random, choices)
        if what == "stacked":
            return replace(facts, stacked=not facts.stacked)
        words = getattr(RichWords(), f"{what}s")
        old = facts.things[position]
        new = replace(old, **{what: choose(random, [word for word in words if word != getattr(old, what)])})
        return replace(facts, things=(*facts.things[:position], new, *facts.things[position + 1 :]))

    def can_omit(self, facts: RichFacts) -> bool:
        """Whether a part of the facts can be left out."""
        return len(facts.things) > 1 or facts.background != next(iter(BACKGROUNDS))

    def omit(self, facts: RichFacts, random: Random) -> RichFacts:
        """Leave out one of two things and the background, or the background of a single one."""
        kept = facts.things[int(len(facts.things) * random.random())]
        return RichFacts((kept,), False, next(iter(BACKGROUNDS)))

    def is_true(self, said: RichFacts, facts: RichFacts) -> bool:
        """Whether facts hold of a scene, complete or not."""
        unsaid = next(iter(BACKGROUNDS))
        return (
            set(said.things) <= set(facts.things)
            and said.background in (unsaid, facts.background)
            and (len(said.things) < 2 or (said.things, said.stacked) == (facts.things, facts.stacked))
        )

    def is_common(self, facts: RichFacts) -> bool:
        """Whether the human images show all words of the facts."""
        return self.human_words.covers(facts)

    def paint(self, scene: RichFacts, size: int, random: Random) -> Image.Image:
        """Paint a scene, anti-aliased: RGB image of size x size."""
        side = size * SUPERSAMPLING
        background = BACKGROUNDS[scene.background]
        canvas = Image.new("RGB", (side, side), background)
        for (x, y, radius), thing in _place_objects(scene, random):
            _paint_thing(canvas, (x * side, y * side, radius * side), thing)
        return canvas.reduce(SUPERSAMPLING)


def _choose_thing(random: Random, words: RichWords) -> Thing:
    many = words.counts[1:]
    count = words.counts[0] if random.random() < COMMON_COUNT else choose(random, many)
    return Thing(
        count,
        choose(random, words.sizes),
        choose(random, words.textures),
        choose(random, words.colors),
        choose(random, words.shapes),
    )


def _name_thing(thing: Thing, random: Random) -> str:
    word = choose(random, SHAPES[thing.shape])
    said = [
        thing.size if thing.size != SIZES[0] else "",
        thing.texture if thing.texture != TEXTURES[0] else "",
    ]
    phrase = " ".join(part for part in (*said, thing.color, word) if part)
    if thing.count == COUNTS[0]:
        return f"{article_of(phrase)} {phrase}"
    return f"{thing.count} {phrase}{'es' if word[-1] in 'sx' else 's'}"


def _place_objects(scene: RichFacts, random: Random) -> Iterator[tuple[tuple[float, float, float], Thing]]:
    """Center and radius of each object, as fractions of the side: kinds in a row or a stack, the objects of
    one kind at a right angle to it."""
    kinds = len(scene.things)
    for place, thing in enumerate(scene.things):
        count = 1 + COUNTS.index(thing.count)
        radius = min(RADII[thing.size], 0.46 / kinds, 0.46 / count)
        for number in range(count):
            along = choose_position(random, place, kinds, radius)
            across = choose_position(random, number, count, radius)
            yield ((across, along, radius) if scene.stacked else (along, across, radius)), thing


def _paint_thing(canvas: Image.Image, where: tuple[float, float, float], thing: Thing) -> None:
    """Paint one object; x, y and radius in pixels of the canvas."""
    x, y, radius = where
    mask = Image.new("L", canvas.size, 0)
    paint_shape(ImageDraw.Draw(mask), thing.shape, where, 255, 0)
    fill = Image.new("RGB", canvas.size, COLORS[thing.color])
    pen = ImageDraw.Draw(fill)
    step = radius / 2
    for row in range(-3, 4):
        top = y + row * step
        if thing.texture == "striped" and row % 2:
            pen.rectangle((x - 2 * radius, top - step / 2, x + 2 * radius, top + step / 2), fill=INK)
        for column in range(-3, 4):
            left = x + column * step
            if thing.texture == "dotted" and (row + column) % 2:
                dot = step * 0.4
                pen.ellipse((left - dot, top - dot, left + dot, top + dot), fill=INK)
            if thing.texture == "checkered" and (row + column) % 2:
                pen.rectangle((left - step / 2, top - step / 2, left + step / 2, top + step / 2), fill=INK)
    canvas.paste(fill, mask=mask)
