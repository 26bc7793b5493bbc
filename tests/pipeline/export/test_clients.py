"""Each form is read by the library that it is made for, and compared row for row with DuckDB over the run."""

import json
from argparse import Namespace

import duckdb
import numpy as np
import pandas as pd
import pytest
import webdataset as wds
from datasets import Image, load_dataset
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.export.commands import tar_pattern
from tests.pipeline.export.exported_run import (
    FORMATS,
    SHARDS,
    by_image,
    export,
    kept_pairs,
    make_run,
    original_image,
)

READ_BY_OPEN_CLIP = ("jpg", "png", "jpeg", "webp")
TARS = sum(SHARDS.values())


@pytest.fixture(scope="module")
def pairs(exported_run):
    found = kept_pairs(exported_run.store.url)
    assert {pair["origin"] for pair in found} == {"web", "synthetic", "human"}
    assert any(len(texts) == 4 for texts in by_image(found).values())
    return found


def samples(folder):
    pattern = tar_pattern(f"{folder}/data", TARS)
    return list(wds.WebDataset(pattern, shardshuffle=False, empty_check=False))


def extension(data):
    return {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"RI": "webp"}[data[:2]]


def test_webdataset_has_every_image_with_all_its_kept_texts(exported_run, pairs, tmp_path):
    export(exported_run, tmp_path, "webdataset", human=True)
    found = samples(tmp_path)
    expected = by_image(pairs)
    assert [sample["__key__"] for sample in found] == [f"{source}-{key}" for source, key in expected]
    for sample, ((source, key), texts) in zip(found, expected.items(), strict=True):
        image = original_image(source, key)
        meta = json.loads(sample["json"])
        assert sample[extension(image)] == image
        assert sample["txt"].decode() == texts[0]["text"]
        assert meta["texts"] == [pair["text"] for pair in texts]
        assert meta["origins"] == [pair["origin"] for pair in texts]
        assert meta["itm_probs"] == [
            None if p["itm_prob"] is None else pytest.approx(p["itm_prob"]) for p in texts
        ]
        for name in ("source", "key", "url", "sha256", "uid", "similarity", "LICENSE", "width"):
            assert meta[name] == texts[0][name]


def open_clip_pairs(folder, captions=None):
    """(image, text) as open_clip's data module gives them to the model."""
    from open_clip_train.data import get_wds_dataset

    args = Namespace(
        train_data=None,
        val_data=tar_pattern(f"{folder}/data", TARS),
        val_num_samples=None,
        batch_size=4,
        workers=0,
        world_size=1,
        seed=0,
    )
    info = get_wds_dataset(args, np.asarray, is_train=False, tokenizer=lambda text: [text])
    return [
        (image, text) for images, texts in info.dataloader for image, text in zip(images, texts, strict=True)
    ]


def test_open_clip_s_data_module_reads_every_image_of_a_format_that_it_knows(exported_run, pairs, tmp_path):
    done = export(exported_run, tmp_path, "open_clip", human=True)
    images = by_image(pairs)
    known = {k: v for k, v in images.items() if extension(original_image(*k)) in READ_BY_OPEN_CLIP}
    assert 0 < len(known) < len(images) and "GIF" in FORMATS
    found = open_clip_pairs(tmp_path)
    assert [text for _, text in found] == [texts[0]["text"] for texts in known.values()]
    assert {image.shape for image, _ in found} == {(30, 40, 3)}
    assert done.summary.images == len(known)
    assert done.summary.status["unreadable"] == len(images) - len(known)
    read = json.loads((tmp_path / "data/sizes.json").read_text())
    assert sum(read.values()) == len(known) and sorted(read) == [f"{n:06d}.tar" for n in range(TARS)]


def test_open_clip_s_json_keys_give_each_kept_text_once(exported_run, pairs, tmp_path):
    done = export(exported_run, tmp_path, "open_clip", human=True)
    keys = [f"{origin}_{i}" for origin, most in done.summary.most.items() for i in range(most)]
    assert keys == ["human_0", "human_1", "synthetic_0", "synthetic_1", "web_0", "web_1"]
    texts = {(p["source"], p["key"]): [] for p in pairs}
    for pair in pairs:
        texts[pair["source"], pair["key"]].append(pair["text"])
    for sample in samples(tmp_path):
        meta = json.loads(sample["json"])
        assert sorted(meta[k] for k in keys if k in meta) == sorted(texts[meta["source"], meta["key"]])


def test_datasets_opens_the_folder_with_pictures_and_types(exported_run, pairs, tmp_path):
    export(exported_run, tmp_path / "out", "hf", human=True)
    data = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    features, expected = data.features, by_image(pairs)
    assert isinstance(features["image"], Image)
    assert (features["similarity"].dtype, features["uid"].dtype) == ("float64", "string")
    assert features["itm_probs"].feature.dtype == "float32"
    assert len(data) == len(expected)
    assert data[0]["image"].size == (40, 30)
    rows = data.cast_column("image", Image(decode=False))
    for row, ((source, key), texts) in zip(rows, expected.items(), strict=True):
        assert row["image"]["bytes"] == original_image(source, key)
        assert row["texts"] == [pair["text"] for pair in texts]
        for name in ("source", "key", "url", "uid", "similarity", "LICENSE"):
            assert row[name] == texts[0][name]


def test_the_parquet_table_has_a_row_per_pair_with_the_user_s_types(exported_run, pairs, tmp_path):
    export(exported_run, tmp_path, "parquet", human=True)
    table = pd.read_parquet(tmp_path / "data", dtype_backend="pyarrow")
    names = ["source", "key", "url", "text", "origin", "caption_index", "captioner", "sha256", "uid",
             "similarity", "LICENSE", "width"]  # fmt: skip
    found = json.loads(table[names].to_json(orient="records"))
    assert found == [
        {n: pytest.approx(p[n]) if isinstance(p[n], float) else p[n] for n in names} for p in pairs
    ]
    assert str(table["similarity"].dtype) == "double[pyarrow]"


@pytest.mark.parametrize("human", [False, True])
def test_uids_are_sorted_as_datacomp_reads_them(exported_run, tmp_path, human):
    done = export(exported_run, tmp_path, "datacomp-uids", human=human)
    found = np.load(tmp_path / "uids.npy", mmap_mode="r")
    pairs = kept_pairs(exported_run.store.url, human)
    uids = {pair["uid"] for pair in pairs if pair["origin"] != "synthetic"}
    # DataComp's own line: baselines/apply_filter.py.
    expected = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))
    expected.sort()
    assert found.dtype == np.dtype("u8,u8") and np.array_equal(found, expected)
    assert done.summary.images == len(uids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capfilt-export.json", "uids.npy"]


def test_blip_s_lists_have_a_url_or_the_path_of_an_image(exported_run, pairs, tmp_path):
    export(exported_run, tmp_path, "blip-json", human=True)
    found = [item for path in sorted((tmp_path / "data").iterdir()) for item in json.loads(path.read_text())]
    sections = exported_run.config.sources

    def place(pair):
        section = sections[pair["source"]]
        if pair["url"].startswith("https://"):
            return {"url": pair["url"]}
        return {"image": f"{section.images or section.serve}/{pair['url']}"}

    assert found == [place(pair) | {"caption": pair["text"]} for pair in pairs]
    assert {"url", "image"} == {name for item in found for name in item} - {"caption"}


def test_only_web_candidates_are_exported_without_the_human_pairs(exported_run, tmp_path):
    export(exported_run, tmp_path, "parquet", origins=("synthetic",))
    table = pd.read_parquet(tmp_path / "data")
    expected = [p for p in kept_pairs(exported_run.store.url, human=False) if p["origin"] == "synthetic"]
    assert list(table["text"]) == [pair["text"] for pair in expected]


def test_columns_are_those_that_the_user_names(exported_run, tmp_path):
    export(exported_run, tmp_path, "webdataset", human=True, columns=("threshold", "similarity"))
    meta = json.loads(samples(tmp_path)[0]["json"])
    assert "uid" not in meta and "LICENSE" not in meta
    assert meta["threshold"] == [0.5] * len(meta["texts"]) and "similarity" in meta


def test_a_named_set_of_verdicts_decides_instead_of_the_run_s_own(tmp_path):
    run_dir = make_run(tmp_path)
    url = run_dir.store.url
    made = CliRunner().invoke(app, ["rejudge", url, "--name", "first", "--keep", "caption_index = 0"])
    assert made.exit_code == 0, made.output
    done = CliRunner().invoke(
        app, ["export", url, str(tmp_path / "out"), "--to", "parquet", "--verdicts", "first"]
    )
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(tmp_path / "out/data")
    expected = duckdb.sql(
        f"SELECT text FROM '{url}/rounds/1/**/*.parquet' WHERE caption_index = 0 AND itm_prob IS NOT NULL"
    ).fetchall()
    assert sorted(table["text"]) == sorted(text for (text,) in expected)
    unknown = CliRunner().invoke(
        app, ["export", url, str(tmp_path / "no"), "--to", "parquet", "--verdicts", "other"]
    )
    assert unknown.exit_code == 2 and "has no verdict set other; it has default, first" in unknown.output
    assert not (tmp_path / "no").exists()
