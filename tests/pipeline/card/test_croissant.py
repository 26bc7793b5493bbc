"""The Croissant files of exports and runs are valid, and mlcroissant loads pictures and texts by them."""

import json
from pathlib import Path

import duckdb
import mlcroissant
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.shards.write import encode_parquet
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


def test_mlcroissant_reads_the_candidates_of_a_run(tmp_path):
    run_dir = make_run(tmp_path)
    for file in Path(run_dir.store.url).rglob("rounds/1/*/*.parquet"):  # a column that the rows brought
        table = pq.read_table(file)
        licenses = pa.array([f"cc-{key[-1]}" for key in table["key"].to_pylist()])
        data = encode_parquet(table.append_column("LICENSE", licenses))
        file.write_bytes(data)
        record = (
            Path(run_dir.store.url) / "records" / file.relative_to(run_dir.store.url).with_suffix(".json")
        )
        content = json.loads(record.read_text())
        content["files"][0] |= {"sha256": sha256(data), "bytes": len(data)}
        record.write_text(json.dumps(content))
    card = str(tmp_path / "card.md")
    done = CliRunner().invoke(app, ["card", run_dir.store.url, card, "--croissant"])
    assert done.exit_code == 0, done.output
    place = Path(run_dir.store.url) / "croissant.json"
    assert str(place) in done.output
    data = mlcroissant.Dataset(jsonld=str(place))
    assert data.metadata.ctx.issues.errors == set()
    assert all("is recommended" in warning for warning in data.metadata.ctx.issues.warnings)
    found = [
        (row["candidates/source"], row["candidates/key"], row["candidates/text"], row["candidates/kept"],
         row["candidates/LICENSE"])
        for row in data.records("candidates")
    ]  # fmt: skip
    found = [tuple(x.decode() if isinstance(x, bytes) else x for x in row) for row in found]
    query = f"SELECT source, key, text, kept, LICENSE FROM '{run_dir.store.url}/rounds/1/**/*.parquet'"
    expected = duckdb.sql(query).fetchall()
    assert len(found) == len(expected)
    assert sorted(map(repr, normalize(found))) == sorted(map(repr, expected))
    described = json.loads(place.read_text())
    fields = [field["name"] for field in described["recordSet"][0]["field"]]
    assert fields == [*CANDIDATE_SCHEMA.names, "LICENSE"]
    for each in described["distribution"]:
        if each["@type"] == "cr:FileObject":
            assert each["sha256"] == sha256((place.parent / each["contentUrl"]).read_bytes())


def normalize(rows):
    """Values of pandas as Python has them: missing ones are None."""
    return [tuple(None if value is None or value != value else
                  bool(value) if isinstance(value, (bool, np.bool_)) else value for value in row)
            for row in rows]  # fmt: skip
