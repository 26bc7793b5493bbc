"""What a corpus of painted scenes needs to know about its scenes: the interface, and the plain scenes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from PIL import Image

from capfilt.pipeline.corpora.scenes import (
    ALL_WORDS,
    Facts,
    Scene,
    Vocabulary,
    alter_facts,
    compose_scene,
    describe_facts,
    omit_facts,
    paint_scene,
    scene_facts,
)


class Grammar(Protocol):
    """Composes scenes, describes and paints them.

    A scene is what is painted; facts, hashable, are the content of a text about it.
    """

    def compose(self, random: Random, *, human: bool = False) -> Any:
        """Compose a scene; `human`: of the words that the human images show."""

    def facts(self, scene: Any) -> Any:
        """What a complete text says about a scene."""

    def describe(self, facts: Any, random: Random) -> str:
        """Describe facts in one of several wordings."""

    def alter(self, facts: Any, random: Random) -> Any:
        """Replace one of the facts by a wrong one."""

    def can_omit(self, facts: Any) -> bool:
        """Whether a part of the facts can be left out."""

    def omit(self, facts: Any, random: Random) -> Any:
        """Leave out a part of the facts."""

    def is_true(self, said: Any, facts: Any) -> bool:
        """Whether facts hold of a scene with these facts, complete or not."""

    def is_common(self, facts: Any) -> bool:
        """Whether the human images show all words of the facts."""

    def paint(self, scene: Any, size: int, random: Random) -> Image.Image:
        """Paint a scene: RGB image of size x size."""


@dataclass(frozen=True)
class PlainScenes:
    """One to three colored shapes in a row: `scenes`."""

    human_words: Vocabulary

    def compose(self, random: Random, *, human: bool = False) -> Scene:
        """Compose a scene of one to three objects."""
        return compose_scene(random, self.human_words if human else ALL_WORDS)

    def facts(self, scene: Scene) -> Facts:
        """Color and shape of each object."""
        return scene_facts(scene)

    def describe(self, facts: Facts, random: Random) -> str:
        """Describe the objects."""
        return describe_facts(facts, random)

    def alter(self, facts: Facts, random: Random) -> Facts:
        """Replace one color or one shape."""
        return alter_facts(facts, random)

    def can_omit(self, facts: Facts) -> bool:
        """Whether there are several objects."""
        return len(facts) > 1

    def omit(self, facts: Facts, random: Random) -> Facts:
        """Leave out at least one object."""
        return omit_facts(facts, random)

    def is_true(self, said: Facts, facts: Facts) -> bool:
        """Whether all objects that are said are in the scene."""
        return set(said) <= set(facts)

    def is_common(self, facts: Facts) -> bool:
        """Whether the human images show all colors and shapes."""
        return self.human_words.covers(facts)

    def paint(self, scene: Scene, size: int, random: Random) -> Image.Image:
        """Paint the objects on a light background."""
        return paint_scene(scene, size, random)
