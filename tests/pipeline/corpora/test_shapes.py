"""The procedural corpus: its captions are true, its noise is what it says, and it is the same every time."""

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.pipeline.corpora.shapes import (
    COLOURS,
    ShapesConfig,
    draw_scene,
    facts,
    make_shapes,
    paint,
    scene_of,
)

SMALL = ShapesConfig(human=20, web=400, test=30, seed=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(SMALL, tmp_path_factory.mktemp("shapes") / "corpus")


def colours_by_position(image: Image.Image) -> list[str]:
    """The named colours in a picture, by the mean column of their pixels: read off the pixels alone."""
    columns: dict[str, list[int]] = {name: [] for name in COLOURS}
    for y in range(image.height):
        for x in range(image.width):
            pixel = image.getpixel((x, y))
            for name, colour in COLOURS.items():
                if max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 20:
                    columns[name].append(x)
    present = {name: sum(xs) / len(xs) for name, xs in columns.items() if len(xs) >= 12}
    return sorted(present, key=present.__getitem__)


def words_of_colour(caption: str) -> list[str]:
    return [word for word in caption.split() if word in COLOURS]


def test_human_captions_name_the_colours_in_the_picture_from_left_to_right(
    corpus: Path,
) -> None:
    entries = json.loads((corpus / "human/annotations.json").read_text())
    assert [entry["image_id"] for entry in entries] == list(range(20))
    for entry in entries:
        named = words_of_colour(entry["caption"])
        if len(set(named)) < len(named):
            continue  # two shapes of one colour have one mean column
        assert colours_by_position(Image.open(corpus / "human" / entry["image"])) == named, entry


def test_web_texts_carry_the_planted_noise_and_its_truth(corpus: Path) -> None:
    rows = pq.read_table(corpus / "web/manifest.parquet").to_pylist()
    assert len(rows) == 400
    counts = {
        kind: sum(row["truth"] == kind for row in rows) for kind in ("mismatched", "boilerplate", "partial")
    }
    # Three standard errors of a share of 400 draws around .40, .12 and .03.
    assert abs(counts["mismatched"] / 400 - 0.40) < 0.075
    assert abs(counts["boilerplate"] / 400 - 0.12) < 0.05
    assert 0 < counts["partial"] / 400 < 0.06
    for number, row in enumerate(rows):
        truth = [colour for colour, _ in facts(scene_of(SMALL, "web", number))]
        assert (corpus / "web" / row["url"]).is_file()
        if row["truth"] == "clean":
            assert words_of_colour(row["caption"]) == truth
        elif row["truth"] == "boilerplate":
            assert words_of_colour(row["caption"]) == []


def test_no_two_test_images_show_the_same_shapes(corpus: Path) -> None:
    usual = {"disc": "circle", "box": "square", "plus": "cross", "hoop": "ring"}
    entries = json.loads((corpus / "test/annotations.json").read_text())
    told = set()
    for entry in entries:
        words = entry["caption"].split()
        told.add(tuple((w, usual.get(n, n)) for w, n in pairwise(words) if w in COLOURS))
    assert len(entries) == len(told) == 30


def test_noise_zero_leaves_every_text_clean(tmp_path: Path) -> None:
    config = ShapesConfig(human=1, web=40, test=1, noise=0, boilerplate=0, partial=0)
    table = pq.read_table(make_shapes(config, tmp_path) / "web/manifest.parquet")
    assert set(table["truth"].to_pylist()) == {"clean"}


def test_the_same_config_gives_the_same_bytes_and_larger_counts_only_add_rows(
    corpus: Path, tmp_path: Path
) -> None:
    larger = make_shapes(ShapesConfig(human=21, web=405, test=30, seed=3), tmp_path)
    for name in (
        "human/images/000019.jpg",
        "web/images/000399.jpg",
        "test/images/000029.jpg",
    ):
        assert (larger / name).read_bytes() == (corpus / name).read_bytes()
    rows = pq.read_table(larger / "web/manifest.parquet").to_pylist()
    assert rows[:400] == pq.read_table(corpus / "web/manifest.parquet").to_pylist()


def test_a_finished_corpus_is_left_alone_and_an_unfinished_one_is_completed(
    tmp_path: Path,
) -> None:
    config = ShapesConfig(human=2, web=3, test=2)
    make_shapes(config, tmp_path)
    image = tmp_path / "web/images/000002.jpg"
    image.unlink()
    make_shapes(config, tmp_path)
    assert not image.exists()
    (tmp_path / "shapes.json").unlink()
    make_shapes(config, tmp_path)
    assert image.exists()


def test_another_config_in_the_same_folder_is_refused_with_what_changed(
    tmp_path: Path,
) -> None:
    make_shapes(ShapesConfig(human=2, web=3, test=2), tmp_path)
    with pytest.raises(ValueError, match=r"noise 0\.55 -> 0\.4.*another folder"):
        make_shapes(ShapesConfig(human=2, web=3, test=2, noise=0.4), tmp_path)


def test_kinds_of_noise_cannot_exceed_all_noise() -> None:
    with pytest.raises(ValueError, match="parts of it"):
        ShapesConfig(noise=0.1)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_paint_gives_the_size_asked_for_and_shapes_stay_inside(size: int) -> None:
    for number in range(20):
        image = paint(draw_scene(Random(number)), size, Random(0))
        assert image.size == (size, size)
        corners = [image.getpixel((x, y)) for x in (0, size - 1) for y in (0, size - 1)]
        assert len(set(corners)) == 1  # only background there
