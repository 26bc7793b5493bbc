"""A captioned corpus of painted scenes (`scenes`), with noise planted in the web texts.

The whole loop can run and be judged on it without a network: the truth of every web text is known (column
`truth`), so that the noise ratio and the filter can be compared with the planted noise.

Every row is a function of (seed, split, row number): row 17 stays the same when the counts change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import compress, count
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Gt, Le
from PIL import Image

from capfilt.pipeline.corpora.grammar import Grammar, PlainScenes
from capfilt.pipeline.corpora.marker import check_same_config, read_marker
from capfilt.pipeline.corpora.moving.scenes import MOVING_RADIUS, MovingShape, MovingWords, write_videos
from capfilt.pipeline.corpora.rich_scenes import RichScenes, RichWords
from capfilt.pipeline.corpora.scenes import (
    COLORS,
    SHAPES,
    Scene,
    SceneObject,
    Vocabulary,
    choose,
    compose_scene,
    paint_scene,
)
from capfilt.pipeline.corpora.shapes_tasks import write_dialogs, write_questions, write_statements

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
JPEG_QUALITY = 95
MARKER = "shapes.json"
"""Written last; a folder without it is incomplete, and its corpus is made again."""
ORACLE = "web/oracle.parquet"
FORMAT = 1
"""Raise it when the painting or the wording changes, so that older corpora are not reused."""


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Size and noise of the corpus."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    human: Annotated[int, Ge(1)] = 1000
    """Images with a true caption, in the role of COCO."""
    web: Annotated[int, Ge(1)] = 8000
    """Images with a noisy text, in the role of alt-texts."""
    test: Annotated[int, Ge(1), Le(2000)] = 500
    """Held-out images with a true caption, each with different objects."""
    noise: Annotated[float, Ge(0), Le(1)] = 0.55
    """Share of web texts that do not describe their image, all kinds together."""
    boilerplate: Annotated[float, Ge(0), Le(1)] = 0.12
    """Share of web texts that describe no image at all ("free shipping ..."); part of `noise`."""
    partial: Annotated[float, Ge(0), Le(1)] = 0.03
    """Share of web texts with one wrong word (color, shape, …); part of `noise`. The rest of `noise` are
    descriptions of other scenes ("mismatched")."""
    incomplete: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the true web texts about several objects that name only some of them, as short alt-texts do.
    They describe their image and are not part of `noise`."""
    vocabulary: Literal["plain", "rich"] = "plain"
    """`plain`: colors and shapes, one to three in a row. `rich`: also counts, sizes, textures, backgrounds
    and two relations ("two small striped red circles above a pink star on a gray background"), for models
    with 64 pixels or more."""
    human_words: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the colors and of the shapes (`rich`: of each kind of word) that the human images show. With
    less than 1 the rest are the long tail: concepts that only web images have, as the web reaches beyond
    COCO. Web and test images have all of them, and the test images are also listed apart, as
    `test/common.json` and `test/rare.json`."""
    questions: Annotated[int, Ge(0)] = 0
    """Images of plain scenes with three questions each, for a task of kind vqa; a quarter as many test
    images. 0: none."""
    statements: Annotated[int, Ge(0)] = 0
    """Pairs of images of plain scenes with two statements each, for a task of kind nlvr2; a quarter as many
    test pairs. 0: none."""
    labeled: Annotated[int, Ge(0)] = 0
    """Images of one object, in folders by its color and shape, for a task of kind classification. 0: none."""
    dialogs: Annotated[int, Ge(0)] = 0
    """Images of plain scenes with a dialog of two or four questions each, for a task of kind visdial; a
    quarter as many test images. 0: none."""
    videos: Annotated[int, Ge(0)] = 0
    """Videos of a moving shape with a text and questions, for tasks of the kinds video_retrieval and
    video_qa; a quarter as many test videos, at most 96. Needs the extra `video`. 0: none."""
    seed: Annotated[int, Ge(0)] = 0
    """Another seed gives another corpus."""
    image_size: Annotated[int, Ge(32), Le(1024)] = 64
    """Height and width of the images, pixels."""

    @property
    def grammar(self) -> Grammar:
        """The scenes and their texts."""
        if self.vocabulary == "rich":
            return RichScenes(RichWords.most_common(self.human_words))
        return PlainScenes(Vocabulary.most_common(self.human_words))

    @property
    def has_long_tail(self) -> bool:
        """Whether the human images lack words that web and test images have."""
        grammar, everything = self.grammar, replace(self, human_words=1.0).grammar
        return grammar != everything

    def __post_init__(self) -> None:
        if self.boilerplate + self.partial > self.noise + 1e-9:
            raise ValueError(
                f"boilerplate {self.boilerplate} + partial {self.partial} exceed noise {self.noise}: "
                "they are parts of it; raise noise or lower them"
            )


def make_shapes(config: ShapesConfig, folder: str | os.PathLike[str]) -> Path:
    """Make the corpus in `folder`, unless the folder holds it already.

    Layout: `human/annotations.json` and `test/annotations.json` (lists of {"image", "caption", "image_id"}),
    `web/manifest.parquet` (columns url, caption, truth), images in `<split>/images/`. Image paths and urls
    are relative to the folder of the split. `truth` is clean, incomplete, mismatched, boilerplate or partial.
    With a long tail, `test/common.json` and `test/rare.json` divide the test images into those whose colors
    and shapes the human images show, and all others. `web/oracle.parquet` lists the web images with a true
    text in place of the noisy one: what a perfect captioner and filter would make of them. Questions are in
    `vqa/`, in the layout of VQA v2, statements in `nlvr2/`, in that of NLVR2, dialogs in `visdial/`, in that
    of VisDial 1.0 (`shapes_tasks`). Images with a label are in `labeled/<label>/`.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds a corpus of another config.
    """
    root = Path(folder)
    identity = {"format": FORMAT, **asdict(config)}
    if (root / MARKER).exists():
        made_with = read_marker(root / MARKER)
        # A key that came with a later version: its default makes the same corpus as before.
        check_same_config(root, "shapes", {**asdict(ShapesConfig()), **made_with}, identity)
        if not (root / ORACLE).exists():  # earlier versions wrote none
            _write_oracle(config, root)
        return root
    human = (make_scene(config, "human", row) for row in range(config.human))
    _write_annotated(config, root / "human", "human", human)
    _write_annotated(config, root / "test", "test", make_test_scenes(config))
    _write_web(config, root / "web")
    _write_oracle(config, root)
    _write_tasks(config, root)
    (root / MARKER).write_text(json.dumps(identity, indent=1) + "\n")
    return root


def make_scene(config: ShapesConfig, split: str, row: int) -> Any:
    """The scene of an image of "human" or "web"; those of "test" come from `make_test_scenes`."""
    return config.grammar.compose(_random_for(config, split, row, "scene"), human=split == "human")


def make_test_scenes(config: ShapesConfig) -> Iterator[Any]:
    """The scenes of "test". Their facts are all different, so that each caption belongs to one image."""
    grammar = config.grammar
    seen: set[Any] = set()
    row = 0
    while len(seen) < config.test:
        scene = make_scene(config, "test", row)
        row += 1
        if grammar.facts(scene) not in seen:
            seen.add(grammar.facts(scene))
            yield scene


def make_web_text(config: ShapesConfig, row: int, scene: Any) -> tuple[str, str]:
    """Make the text of a web image.

    Returns:
        (text, truth): truth is "clean", "incomplete", "mismatched", "boilerplate" or "partial".
    """
    grammar = config.grammar
    random = _random_for(config, "web", row, "text")
    draw = random.random()
    facts = grammar.facts(scene)
    if draw < config.boilerplate:
        template = choose(random, BOILERPLATE)
        return template.format(n=1 + int(999 * random.random()), name=choose(random, NAMES)), "boilerplate"
    if draw < config.boilerplate + config.partial:
        return grammar.describe(grammar.alter(facts, random), random), "partial"
    if draw < config.noise:
        other = facts
        while grammar.is_true(other, facts):  # a text about some of the objects would not be wrong
            other = grammar.facts(grammar.compose(random))
        return grammar.describe(other, random), "mismatched"
    # Without incomplete texts nothing is drawn, so that the texts stay those of earlier versions.
    if config.incomplete and grammar.can_omit(facts) and random.random() < config.incomplete:
        return grammar.describe(grammar.omit(facts, random), random), "incomplete"
    return grammar.describe(facts, random), "clean"


def _random_for(config: ShapesConfig, split: str, row: int, purpose: str) -> Random:
    """The random numbers for one purpose of one row; the same on every machine."""
    return Random(f"{config.seed}/{split}/{row}/{purpose}")


def _write_annotated(config: ShapesConfig, folder: Path, split: str, scenes: Iterator[Any]) -> None:
    grammar = config.grammar
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries, is_common = [], []
    for row, scene in enumerate(scenes):
        image = _write_image(config, folder, split, row, scene)
        facts = grammar.facts(scene)
        caption = grammar.describe(facts, _random_for(config, split, row, "text"))
        entries.append({"image": image, "caption": caption, "image_id": row})
        is_common.append(grammar.is_common(facts))
    lists = {"annotations": entries}
    if split == "test" and config.has_long_tail:
        lists["common"] = list(compress(entries, is_common))
        lists["rare"] = [e for e, common in zip(entries, is_common, strict=True) if not common]
    for name, listed in lists.items():
        (folder / f"{name}.json").write_text(json.dumps(listed, indent=0) + "\n")


def _write_web(config: ShapesConfig, folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    urls, captions, truths = [], [], []
    for row in range(config.web):
        scene = make_scene(config, "web", row)
        text, truth = make_web_text(config, row, scene)
        urls.append(_write_image(config, folder, "web", row, scene))
        captions.append(text)
        truths.append(truth)
    table = pa.table({"url": urls, "caption": captions, "truth": truths})
    pq.write_table(table, folder / "manifest.parquet")


def _write_oracle(config: ShapesConfig, root: Path) -> None:
    """Write the manifest of the web images with true texts."""
    rows, grammar = [], config.grammar
    for row in range(config.web):
        facts = grammar.facts(make_scene(config, "web", row))
        caption = grammar.describe(facts, _random_for(config, "web", row, "oracle"))
        rows.append({"url": _image_name(row), "caption": caption, "truth": "clean"})
    temporary = root / f"{ORACLE}.tmp"
    pq.write_table(pa.Table.from_pylist(rows), temporary)
    temporary.rename(root / ORACLE)


def _write_tasks(config: ShapesConfig, root: Path) -> None:
    """Write the data of the downstream tasks."""

    def paint(split: str, row: int, name: str) -> Scene:
        scene = compose_scene(_random_for(config, split, row, "scene"))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = paint_scene(scene, config.image_size, _random_for(config, split, row, "paint"))
        if name.endswith(".jpg"):
            image.save(root / name, quality=JPEG_QUALITY, subsampling=0)
        else:
            image.save(root / name)
        return scene

    random_for = partial(_random_for, config)
    if config.questions:
        write_questions(root, config.questions, paint, random_for)
    if config.statements:
        write_statements(root, config.statements, paint, random_for)
    if config.dialogs:
        write_dialogs(root, config.dialogs, paint, random_for)
    if config.videos:
        words = MovingWords(tuple(COLORS), SHAPES, partial(_paint_frame, config))
        write_videos(root, config.videos, words, random_for)
    _write_labeled(config, root / "labeled")


def _paint_frame(
    config: ShapesConfig, item: MovingShape, place: tuple[float, float], name: str
) -> Image.Image:
    """One frame of a video; the background is that of its name."""
    scene = (SceneObject(item.color, item.shape, *place, MOVING_RADIUS),)
    return paint_scene(scene, config.image_size, Random(f"{config.seed}/{name}/paint"))


def _write_labeled(config: ShapesConfig, folder: Path) -> None:
    """Write images of one object into `folder/<color> <shape>/`."""
    rows = count()
    for number in range(config.labeled):
        scene: Scene = ()
        while len(scene) != 1:
            row = next(rows)
            scene = compose_scene(_random_for(config, "labeled", row, "scene"))
        place = folder / f"{scene[0].color} {scene[0].shape}"
        place.mkdir(parents=True, exist_ok=True)
        image = paint_scene(scene, config.image_size, _random_for(config, "labeled", row, "paint"))
        image.save(place / f"{number:06d}.jpg", quality=JPEG_QUALITY, subsampling=0)


def _image_name(row: int) -> str:
    return f"images/{row:06d}.jpg"


def _write_image(config: ShapesConfig, folder: Path, split: str, row: int, scene: Any) -> str:
    """Paint a scene into a file; its name relative to `folder`."""
    name = _image_name(row)
    image = config.grammar.paint(scene, config.image_size, _random_for(config, split, row, "paint"))
    # Without chroma subsampling: it would blur the colors over several pixels of such a small image.
    image.save(folder / name, quality=JPEG_QUALITY, subsampling=0)
    return name
