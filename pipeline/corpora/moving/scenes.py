"""Videos of one shape that moves, in the layouts of MSRVTT and MSRVTT-QA.

A shape moves sideways or up and down. Only the axis is asked for, not the direction along it: models that
concatenate the states of frames, as the paper's do, cannot know the order of the frames.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from capfilt.pipeline.corpora.moving.encode import write_video

AXES = ("sideways", "up and down")
FRAMES = 16
MOVING_RADIUS = 0.16
"""Of the shape, in units of the side."""
PATH = (0.2, 0.8)
"""Where the center starts and ends, or the reverse, in units of the side."""
TEST_SHARE = 4
"""For each of this many training videos there is one test video."""


@dataclass(frozen=True)
class MovingShape:
    """What happens in a video."""

    color: str
    shape: str
    axis: str
    """One of `AXES`."""


@dataclass(frozen=True)
class MovingWords:
    """The words and the brush of a corpus."""

    colors: Sequence[str]
    shapes: Mapping[str, Sequence[str]]
    """Words for each shape."""
    paint: Callable[[MovingShape, tuple[float, float], str], Image.Image]
    """Paints a shape at a place (x, y), in units of the side; the name is that of the video."""

    @property
    def kinds(self) -> list[MovingShape]:
        """All different contents of a video."""
        return [
            MovingShape(color, shape, axis) for color in self.colors for shape in self.shapes for axis in AXES
        ]


def write_videos(
    folder: Path, videos: int, words: MovingWords, random_for: Callable[[str, int, str], Random]
) -> None:
    """Write `videos/files/`, `videos/msrvtt.json`, `videos/test.csv`, `videos/train_qa.json` and
    `videos/test_qa.json`.

    The contents of the test videos are all different, so that each text belongs to one video.

    Args:
        folder: the corpus.
        videos: training videos.
        words: words and brush.
        random_for: the random numbers for one purpose of (split, row).
    """
    (folder / "videos/files").mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    for split, items in (
        ("train", _draw_training(videos, words, random_for)),
        ("test", _draw_test(videos, words, random_for)),
    ):
        questions: list[dict[str, Any]] = []
        for row, item in enumerate(items):
            number, random = len(listed), random_for(f"videos-{split}", row, "text")
            name = f"video{number}"
            places = move(item.axis, random_for(f"videos-{split}", row, "path"))
            frames = (words.paint(item, place, name) for place in places)
            write_video(folder / f"videos/files/{name}.mp4", frames)
            listed.append({"video_id": name, "split": split})
            sentences.append({"video_id": name, "caption": describe(item, words, random), "sen_id": number})
            for text, answer in ask(item, words, random):
                questions.append(
                    {"id": len(questions), "video_id": number, "question": text, "answer": answer}
                )
        (folder / f"videos/{split}_qa.json").write_text(json.dumps(questions))
    (folder / "videos/msrvtt.json").write_text(json.dumps({"videos": listed, "sentences": sentences}))
    with open(folder / "videos/test.csv", "w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        for video, sentence in zip(listed, sentences, strict=True):
            if video["split"] == "test":
                number = sentence["sen_id"]
                rows.writerow([f"ret{number}", f"msr{number}", video["video_id"], sentence["caption"]])


def move(axis: str, random: Random) -> list[tuple[float, float]]:
    """The centers of a shape in each frame: along the axis at an even pace, with the other coordinate
    fixed."""
    start, end = PATH if random.random() < 0.5 else PATH[::-1]
    fixed = PATH[0] + (PATH[1] - PATH[0]) * random.random()
    along = [start + (end - start) * frame / (FRAMES - 1) for frame in range(FRAMES)]
    return [(place, fixed) if axis == AXES[0] else (fixed, place) for place in along]


def describe(item: MovingShape, words: MovingWords, random: Random) -> str:
    """A text about a video."""
    article = "an" if item.color[0] in "aeiou" else "a"
    return f"{article} {item.color} {_word(item, words, random)} moves {item.axis}"


def ask(item: MovingShape, words: MovingWords, random: Random) -> list[tuple[str, str]]:
    """Questions about a video with their answers."""
    return [
        (f"what color is the {_word(item, words, random)}?", item.color),
        ("what shape moves?", item.shape),
        (f"how does the {_word(item, words, random)} move?", item.axis),
    ]


def _draw_training(
    videos: int, words: MovingWords, random_for: Callable[[str, int, str], Random]
) -> list[MovingShape]:
    kinds = words.kinds
    return [
        kinds[int(len(kinds) * random_for("videos-train", row, "scene").random())] for row in range(videos)
    ]


def _draw_test(
    videos: int, words: MovingWords, random_for: Callable[[str, int, str], Random]
) -> list[MovingShape]:
    kinds, random = words.kinds, random_for("videos-test", 0, "scene")
    count = min(len(kinds), max(1, videos // TEST_SHARE))
    return [kinds.pop(int(len(kinds) * random.random())) for _ in range(count)]


def _word(item: MovingShape, words: MovingWords, random: Random) -> str:
    options = words.shapes[item.shape]
    return options[int(len(options) * random.random())]
