"""The corpus of painted scenes: true captions, configured noise, reproducible bytes."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.pipeline.corpora.scenes import COLORS, SHAPES, Facts, Vocabulary, scene_facts
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_scene, make_shapes, make_web_text

SMALL = ShapesConfig(human=20, web=400, test=30, seed=3)
SHAPE_OF_WORD = {word: shape for shape, words in SHAPES.items() for word in words}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(SMALL, tmp_path_factory.mktemp("shapes") / "corpus")


def colors_by_position(image: Image.Image) -> list[str]:
    """The named colors in an image, ordered by the mean column of their pixels."""
    columns: dict[str, list[int]] = {name: [] for name in COLORS}
    for y in range(image.height):
        for x in range(image.width):
            pixel = image.getpixel((x, y))
            for name, color in COLORS.items():
                if max(abs(a - b) for a, b in zip(pixel, color, strict=True)) < 20:
                    columns[name].append(x)
    present = {name: sum(xs) / len(xs) for name, xs in columns.items() if len(xs) >= 12}
    return sorted(present, key=present.__getitem__)


def parse_caption(caption: str) -> Facts:
    words = caption.split()
    return tuple((w, SHAPE_OF_WORD[words[i + 1]]) for i, w in enumerate(words) if w in COLORS)


def test_human_captions_name_the_colors_in_the_image_from_left_to_right(corpus: Path) -> None:
    entries = json.loads((corpus / "human/annotations.json").read_text())
    assert [entry["image_id"] for entry in entries] == list(range(20))
    for entry in entries:
        named = [color for color, _ in parse_caption(entry["caption"])]
        if len(set(named)) < len(named):
            continue  # two objects of one color have one mean column
        assert colors_by_position(Image.open(corpus / "human" / entry["image"])) == named, entry


def test_web_texts_have_the_planted_noise_and_its_truth(corpus: Path) -> None:
    rows = pq.read_table(corpus / "web/manifest.parquet").to_pylist()
    assert len(rows) == 400
    for number, row in enumerate(rows):
        facts = scene_facts(make_scene(SMALL, "web", number))
        described = parse_caption(row["caption"])
        assert (corpus / "web" / row["url"]).is_file()
        if row["truth"] == "clean":
            assert described == facts
        elif row["truth"] == "boilerplate":
            assert described == ()
        elif row["truth"] == "partial":
            pairs = zip(described, facts, strict=True)
            assert sum(a != b for new, old in pairs for a, b in zip(new, old, strict=True)) == 1
        else:
            assert row["truth"] == "mismatched" and not set(described) <= set(facts)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SMALL, {"boilerplate": 0.12, "partial": 0.03, "mismatched": 0.40, "clean": 0.45}),
        (
            ShapesConfig(noise=0.9, boilerplate=0.3, partial=0.2),
            {"boilerplate": 0.3, "partial": 0.2, "mismatched": 0.4, "clean": 0.1},
        ),
    ],
)
def test_shares_of_noise_are_those_of_the_config(config: ShapesConfig, expected: dict[str, float]) -> None:
    rows = 3000
    truths = [make_web_text(config, row, make_scene(config, "web", row))[1] for row in range(rows)]
    for kind, share in expected.items():
        three_standard_errors = 3 * (share * (1 - share) / rows) ** 0.5
        assert truths.count(kind) / rows == pytest.approx(share, abs=three_standard_errors), kind


def test_boilerplate_contains_numbers_and_names() -> None:
    config = ShapesConfig(noise=1, boilerplate=1, partial=0)
    texts = [make_web_text(config, row, make_scene(config, "web", row))[0] for row in range(2000)]
    assert not any("{" in text for text in texts)
    numbers = [int(word) for text in texts for word in text.split() if word.isdigit()]
    assert min(numbers) < 10 and 990 < max(numbers) <= 999
    assert {"anna", "farid"} <= {word for text in texts for word in text.split()}


def test_all_test_images_have_different_facts(corpus: Path) -> None:
    entries = json.loads((corpus / "test/annotations.json").read_text())
    assert len(entries) == len({parse_caption(entry["caption"]) for entry in entries}) == 30


def test_without_noise_every_text_is_clean(tmp_path: Path) -> None:
    config = ShapesConfig(human=1, web=40, test=1, noise=0, boilerplate=0, partial=0)
    table = pq.read_table(make_shapes(config, tmp_path) / "web/manifest.parquet")
    assert set(table["truth"].to_pylist()) == {"clean"}


def test_rows_do_not_change_when_the_counts_do(corpus: Path, tmp_path: Path) -> None:
    larger = make_shapes(ShapesConfig(human=21, web=405, test=30, seed=3), tmp_path)
    for name in ("human/images/000019.jpg", "web/images/000399.jpg", "test/images/000029.jpg"):
        assert (larger / name).read_bytes() == (corpus / name).read_bytes()
    rows = pq.read_table(larger / "web/manifest.parquet").to_pylist()
    assert rows[:400] == pq.read_table(corpus / "web/manifest.parquet").to_pylist()


def test_texts_of_the_default_seed_do_not_change() -> None:
    """The figures of the quickstart depend on them. Raise `shapes.FORMAT` when they change on purpose."""
    config = ShapesConfig()
    rows = [make_web_text(config, row, make_scene(config, "web", row)) for row in range(6)]
    assert rows == [
        ("a blue ring", "partial"),
        ("a black square", "clean"),
        ("an orange square and a red disc and a purple circle", "mismatched"),
        ("an orange ring", "clean"),
        ("a red cross and a yellow triangle", "clean"),
        ("a pink triangle and a yellow square and a purple disc", "clean"),
    ]


def test_complete_corpus_is_unchanged_and_an_incomplete_one_is_made_again(tmp_path: Path) -> None:
    config = ShapesConfig(human=2, web=3, test=2)
    make_shapes(config, tmp_path)
    image = tmp_path / "web/images/000002.jpg"
    image.unlink()
    make_shapes(config, tmp_path)
    assert not image.exists()
    (tmp_path / "shapes.json").unlink()
    make_shapes(config, tmp_path)
    assert image.exists()


def test_another_config_in_the_same_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    make_shapes(ShapesConfig(human=2, web=3, test=2), tmp_path)
    with pytest.raises(ValueError, match=r"holds a shapes corpus .*noise 0\.55 -> 0\.4.*another folder"):
        make_shapes(ShapesConfig(human=2, web=3, test=2, noise=0.4), tmp_path)


def test_kinds_of_noise_cannot_exceed_all_noise() -> None:
    with pytest.raises(ValueError, match="parts of it"):
        ShapesConfig(noise=0.1)
    ShapesConfig(noise=0.3, boilerplate=0.1, partial=0.2)  # 0.1 + 0.2 > 0.3 in floating point


LONG_TAIL = ShapesConfig(human=300, web=400, test=60, seed=3, human_words=0.65, incomplete=0.7)


def test_human_images_show_only_the_most_common_words_and_web_and_test_images_all(tmp_path: Path) -> None:
    root = make_shapes(LONG_TAIL, tmp_path)
    captions = {
        split: [entry["caption"] for entry in json.loads((root / split / "annotations.json").read_text())]
        for split in ("human", "test")
    } | {"web": pq.read_table(root / "web/manifest.parquet")["caption"].to_pylist()}
    named = {
        split: {fact for text in texts for fact in parse_caption(text)} for split, texts in captions.items()
    }
    assert {color for color, _ in named["human"]} == {"red", "blue", "green", "yellow", "black"}
    assert {shape for _, shape in named["human"]} == {"circle", "square", "triangle", "star"}
    for split in ("web", "test"):
        assert {color for color, _ in named[split]} == set(COLORS), split
        assert {shape for _, shape in named[split]} == set(SHAPES), split


def test_number_of_objects_is_as_before_in_a_small_vocabulary() -> None:
    scenes = [make_scene(LONG_TAIL, "human", row) for row in range(2000)]
    shares = [sum(len(scene) == count for scene in scenes) / 2000 for count in (1, 2, 3)]
    assert shares == pytest.approx([0.25, 0.55, 0.20], abs=0.035)


def test_test_images_are_listed_as_common_and_rare(tmp_path: Path) -> None:
    root = make_shapes(LONG_TAIL, tmp_path)
    every, common, rare = (
        json.loads((root / f"test/{name}.json").read_text()) for name in ("annotations", "common", "rare")
    )
    assert sorted([*common, *rare], key=lambda entry: entry["image_id"]) == every
    known = Vocabulary.most_common(0.65)
    assert common and all(known.covers(parse_caption(entry["caption"])) for entry in common)
    assert rare and not any(known.covers(parse_caption(entry["caption"])) for entry in rare)


def test_without_a_long_tail_the_test_images_are_not_divided(corpus: Path) -> None:
    assert [path.name for path in (corpus / "test").glob("*.json")] == ["annotations.json"]


def test_incomplete_texts_name_some_of_the_objects_in_order() -> None:
    shares = {2: [0, 0], 3: [0, 0]}
    for row in range(3000):
        scene = make_scene(LONG_TAIL, "web", row)
        text, truth = make_web_text(LONG_TAIL, row, scene)
        facts, described = scene_facts(scene), parse_caption(text)
        if truth == "incomplete":
            assert 1 <= len(described) < len(facts)
            rest = iter(facts)
            assert all(fact in rest for fact in described), (described, facts)
        if truth in ("clean", "incomplete") and len(facts) > 1:
            shares[len(facts)][truth == "incomplete"] += 1
        assert not (truth == "incomplete" and len(facts) == 1)
    for clean, incomplete in shares.values():
        assert incomplete / (clean + incomplete) == pytest.approx(0.7, abs=0.07)


def test_noise_does_not_depend_on_incomplete_texts() -> None:
    config = ShapesConfig(human_words=0.65)
    for row in range(300):
        scene = make_scene(config, "web", row)
        text, truth = make_web_text(config, row, scene)
        with_incomplete = make_web_text(LONG_TAIL.__class__(incomplete=1.0), row, scene)
        if truth != "clean":
            assert with_incomplete == (text, truth)
        else:
            assert with_incomplete[1] == ("incomplete" if len(scene) > 1 else "clean")


@pytest.mark.parametrize(
    ("share", "colors", "shapes"), [(1e-9, 2, 2), (0.5, 4, 3), (0.65, 5, 4), (1.0, 8, 6)]
)
def test_vocabulary_is_a_share_of_the_words(share: float, colors: int, shapes: int) -> None:
    vocabulary = Vocabulary.most_common(share)
    assert (len(vocabulary.colors), len(vocabulary.shapes)) == (colors, shapes)
    assert vocabulary.colors == tuple(color for color in COLORS if color in vocabulary.colors)


def test_corpus_of_an_earlier_version_is_reused(tmp_path: Path) -> None:
    config = ShapesConfig(human=2, web=3, test=2)
    marker = make_shapes(config, tmp_path) / "shapes.json"
    made_with = json.loads(marker.read_text())
    marker.write_text(
        json.dumps({k: v for k, v in made_with.items() if k not in ("incomplete", "human_words")})
    )
    make_shapes(config, tmp_path)
    with pytest.raises(ValueError, match=r"incomplete 0\.0 -> 0\.5"):
        make_shapes(ShapesConfig(human=2, web=3, test=2, incomplete=0.5), tmp_path)


def test_oracle_texts_describe_the_web_images(corpus: Path) -> None:
    rows = pq.read_table(corpus / "web/oracle.parquet").to_pylist()
    noisy = pq.read_table(corpus / "web/manifest.parquet").to_pylist()
    assert [row["url"] for row in rows] == [row["url"] for row in noisy]
    assert {row["truth"] for row in rows} == {"clean"}
    for number, row in enumerate(rows):
        assert parse_caption(row["caption"]) == scene_facts(make_scene(SMALL, "web", number))


def test_oracle_texts_are_added_to_a_corpus_of_an_earlier_version(tmp_path: Path) -> None:
    config = ShapesConfig(human=1, web=3, test=1)
    make_shapes(config, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "web/oracle.parquet").unlink()
    make_shapes(config, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
