"""A captioned corpus drawn from nothing: scenes of coloured shapes, with noise planted in the web texts.

It lets the whole loop run, and be judged, on a machine without a network: the truth of every web text is
known (`truth` column), so noise ratio and filter can be compared with what was planted. A scene holds one
to three shapes side by side; a caption names them from left to right, in one of several wordings.

Every row is a function of (seed, split, row number) alone: row 17 stays the same whatever the counts are.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Le
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (245, 214, 30),
    "green": (44, 150, 60),
    "blue": (40, 90, 220),
    "purple": (125, 50, 160),
    "pink": (255, 130, 190),
    "black": (25, 25, 25),
}
SHAPES: dict[str, tuple[str, ...]] = {  # the first name is the usual one, the others are paraphrases
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
LINKS = ("and", "next to", "beside", "left of")
BOILERPLATE = (
    "click here to see more pictures",
    "free shipping on all orders over {n} dollars",
    "photo by {name} all rights reserved",
    "img {n} jpg",
    "buy now best price online shop",
    "download {n} free stock images",
    "page {n} of the {name} gallery",
    "sign up for our newsletter",
)
NAMES = ("anna", "ben", "carla", "dmitri", "elena", "farid")
OBJECT_COUNTS = ((1, 0.25), (2, 0.55), (3, 0.20))
MARKER = "shapes.json"  # written last; a folder without it is unfinished and is made again
SUPERSAMPLING = 4
FORMAT = 1  # raise it when the drawing or the grammar changes, so that an older corpus is not taken for ours


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """What corpus to draw."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    human: Annotated[int, Ge(1)] = 1000
    """Images with a true caption, the stand-in for COCO."""
    web: Annotated[int, Ge(1)] = 8000
    """Images with a noisy text, the stand-in for alt-texts."""
    test: Annotated[int, Ge(1), Le(2000)] = 500
    """Held-out images with a true caption; no two of them show the same shapes."""
    noise: Annotated[float, Ge(0), Le(1)] = 0.55
    """Share of web texts that do not describe their image, all kinds together."""
    boilerplate: Annotated[float, Ge(0), Le(1)] = 0.12
    """Share of web texts that describe no image at all ("free shipping ..."); part of `noise`."""
    partial: Annotated[float, Ge(0), Le(1)] = 0.03
    """Share of web texts that are true but for one colour or shape; part of `noise`. What `noise` leaves
    after `boilerplate` and `partial` are texts of other scenes ("mismatched")."""
    seed: Annotated[int, Ge(0)] = 0
    """Another seed is another corpus."""
    image_size: Annotated[int, Ge(32), Le(1024)] = 64
    """Height and width of the images, pixels."""

    def __post_init__(self) -> None:
        if self.boilerplate + self.partial > self.noise + 1e-9:
            raise ValueError(
                f"boilerplate {self.boilerplate} + partial {self.partial} exceed noise {self.noise}: "
                "they are parts of it; raise noise or lower them"
            )


@dataclass(frozen=True)
class Thing:
    """One shape of a scene; centre and radius as fractions of the image side."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


Scene = tuple[Thing, ...]  # from left to right
Facts = tuple[tuple[str, str], ...]  # (colour, shape) from left to right: what a caption tells


def make_shapes(config: ShapesConfig, folder: str | os.PathLike[str]) -> Path:
    """Write the corpus under `folder`, unless it is there already.

    Layout: `human/annotations.json` and `test/annotations.json` (lists of {"image", "caption", "image_id"}),
    `web/manifest.parquet` (columns url, caption, truth), images under `<split>/images/`; image paths and urls
    are relative to the split's folder. `truth` is clean, mismatched, boilerplate or partial.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds a corpus of another config.
    """
    root = Path(folder)
    identity = {"format": FORMAT, **asdict(config)}
    if (root / MARKER).exists():
        _check_same(root, identity)
        return root
    for split in ("human", "test"):
        _write_annotations(config, root / split, split)
    _write_web(config, root / "web")
    (root / MARKER).write_text(json.dumps(identity, indent=1) + "\n")
    return root


def draw_scene(random: Random, objects: int | None = None) -> Scene:
    """A scene in columns from left to right, no two shapes alike; of one to three if `objects` is not given."""
    count = _weighted(random, OBJECT_COUNTS) if objects is None else objects
    kinds: list[tuple[str, str]] = []
    while len(kinds) < count:
        kind = (_pick(random, tuple(COLOURS)), _pick(random, tuple(SHAPES)))
        if kind not in kinds:
            kinds.append(kind)
    things = []
    for column, (colour, shape) in enumerate(kinds):
        radius = 0.12 + 0.04 * random.random()
        # Columns never overlap: the spread around a column's centre is what its shape leaves free.
        spread = max(0.0, 1 / count - 2 * radius)
        x = (column + 0.5) / count + spread * (random.random() - 0.5)
        y = 0.5 + (1 - 2 * radius) * 0.9 * (random.random() - 0.5)
        things.append(Thing(colour, shape, x, y, radius))
    return tuple(things)


def facts(scene: Scene) -> Facts:
    """What is true of a scene, in the order in which captions tell it."""
    return tuple((thing.colour, thing.shape) for thing in scene)


def describe(what: Facts, random: Random) -> str:
    """One of the wordings of `what`, as a noun phrase that can follow "a picture of"."""
    phrases = []
    for colour, shape in what:
        article = "an" if colour[0] in "aeiou" else "a"
        phrases.append(f"{article} {colour} {_pick(random, SHAPES[shape])}")
    if len(phrases) == 3:
        return f"{phrases[0]} and {phrases[1]} and {phrases[2]}"
    return f" {_pick(random, LINKS)} ".join(phrases)


def paint(scene: Scene, size: int, random: Random) -> Image.Image:
    """Draw a scene, anti-aliased, on a light background.

    Returns:
        RGB image of size x size.
    """
    light = 228 + int(24 * random.random())
    background = tuple(light - int(10 * random.random()) for _ in range(3))
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(canvas)
    for thing in scene:
        _draw(pen, thing, side, background)
    return canvas.reduce(SUPERSAMPLING)


def row_random(config: ShapesConfig, split: str, row: int, purpose: str) -> Random:
    """The random numbers of one purpose of one row; the same on every machine."""
    return Random(f"{config.seed}/{split}/{row}/{purpose}")


def scene_of(config: ShapesConfig, split: str, row: int) -> Scene:
    """The scene that image `row` of "human" or "web" shows; test scenes come from `heldout_scenes`."""
    return draw_scene(row_random(config, split, row, "scene"))


def heldout_scenes(config: ShapesConfig) -> Iterator[Scene]:
    """The test split's scenes: no facts twice, so that each caption has one right image."""
    seen: set[Facts] = set()
    row = 0
    while len(seen) < config.test:
        scene = draw_scene(row_random(config, "test", row, "scene"))
        row += 1
        if facts(scene) not in seen:
            seen.add(facts(scene))
            yield scene


def web_text(config: ShapesConfig, row: int, scene: Scene) -> tuple[str, str]:
    """The text that stands beside web image `row`, and what is wrong with it.

    Returns:
        (text, truth): truth is "clean", "mismatched", "boilerplate" or "partial".
    """
    random = row_random(config, "web", row, "text")
    draw = random.random()
    truth = facts(scene)
    if draw < config.boilerplate:
        text = _pick(random, BOILERPLATE).format(n=1 + int(999 * random.random()), name=_pick(random, NAMES))
        return text, "boilerplate"
    if draw < config.boilerplate + config.partial:
        return describe(_one_wrong(truth, random), random), "partial"
    if draw < config.noise:
        other = truth
        while set(other) <= set(truth):  # a part of the truth would not be wrong
            other = facts(draw_scene(random))
        return describe(other, random), "mismatched"
    return describe(truth, random), "clean"


def _one_wrong(truth: Facts, random: Random) -> Facts:
    """`truth` with one colour or one shape replaced."""
    position = int(len(truth) * random.random())
    colour, shape = truth[position]
    if random.random() < 0.5:
        wrong = (_pick(random, tuple(c for c in COLOURS if c != colour)), shape)
    else:
        wrong = (colour, _pick(random, tuple(s for s in SHAPES if s != shape)))
    return (*truth[:position], wrong, *truth[position + 1 :])


def _write_annotations(config: ShapesConfig, folder: Path, split: str) -> None:
    scenes: Iterator[Scene]
    if split == "test":
        scenes = heldout_scenes(config)
    else:
        scenes = (scene_of(config, split, row) for row in range(config.human))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for row, scene in enumerate(scenes):
        image = _save(config, folder, split, row, scene)
        caption = describe(facts(scene), row_random(config, split, row, "text"))
        entries.append({"image": image, "caption": caption, "image_id": row})
    (folder / "annotations.json").write_text(json.dumps(entries, indent=0) + "\n")


def _write_web(config: ShapesConfig, folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    urls, captions, truths = [], [], []
    for row in range(config.web):
        scene = scene_of(config, "web", row)
        text, truth = web_text(config, row, scene)
        urls.append(_save(config, folder, "web", row, scene))
        captions.append(text)
        truths.append(truth)
    table = pa.table({"url": urls, "caption": captions, "truth": truths})
    pq.write_table(table, folder / "manifest.parquet")


def _save(config: ShapesConfig, folder: Path, split: str, row: int, scene: Scene) -> str:
    name = f"images/{row:06d}.jpg"
    image = paint(scene, config.image_size, row_random(config, split, row, "paint"))
    # 4:4:4, or colours bleed over several pixels of so small an image.
    image.save(folder / name, quality=95, subsampling=0)
    return name


def _check_same(root: Path, identity: dict[str, Any]) -> None:
    found = json.loads((root / MARKER).read_text())
    changed = [
        f"{key} {found.get(key)!r} -> {value!r}" for key, value in identity.items() if found.get(key) != value
    ]
    if changed:
        raise ValueError(
            f"{root} holds a shapes corpus of another config ({', '.join(changed)}): "
            "give another folder, or remove this one"
        )


def _draw(pen: ImageDraw.ImageDraw, thing: Thing, side: int, background: tuple[int, ...]) -> None:
    x, y, r = thing.x * side, thing.y * side, thing.radius * side
    colour = COLOURS[thing.colour]
    if thing.shape in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        if thing.shape == "ring":
            hole = 0.52 * r
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=background)
        return
    pen.polygon([(x + r * dx, y + r * dy) for dx, dy in OUTLINES[thing.shape]], fill=colour)


def _pick(random: Random, options: tuple[Any, ...]) -> Any:
    # random() is the one method whose stream Python promises to keep between versions.
    return options[int(len(options) * random.random())]


def _weighted(random: Random, options: tuple[tuple[int, float], ...]) -> int:
    draw = random.random()
    for value, share in options:
        draw -= share
        if draw < 0:
            return value
    return options[-1][0]
