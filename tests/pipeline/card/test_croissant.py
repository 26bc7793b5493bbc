"""The Croissant file of an export is valid, and mlcroissant loads pictures and texts by it."""

import json

import mlcroissant
import pyarrow.parquet as pq

from capfilt.stages.storage.store import sha256
from tests.pipeline.export.exported_run import by_image, export, kept_pairs, make_run


def test_mlcroissant_reads_what_was_exported(tmp_path):
    run_dir, out = make_run(tmp_path), tmp_path / "out"
    export(run_dir, out, "hf", human=True)
    data = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    issues = data.metadata.ctx.issues
    assert issues.errors == set()
    assert all("is recommended" in warning for warning in issues.warnings)  # license, date, version, citation
    rows = list(data.records("images"))
    expected = by_image(kept_pairs(run_dir.store.url))
    assert len(rows) == len(expected)
    for row, ((source, key), pairs) in zip(rows, expected.items(), strict=True):
        assert (row["images/source"].decode(), row["images/key"].decode()) == (source, key)
        assert [text.decode() for text in row["images/texts"]] == [pair["text"] for pair in pairs]
        assert row["images/image"].size == (40, 30)
    described = json.loads((out / "croissant.json").read_text())
    fields = [field["name"] for field in described["recordSet"][0]["field"]]
    assert fields == pq.read_schema(out / "data/000000.parquet").names
    digests = {each["@id"]: each.get("sha256") for each in described["distribution"]}
    digests.pop("parquet-files")
    assert digests == {f"data/{path.name}": sha256(path.read_bytes()) for path in (out / "data").iterdir()}
