"""The scripts of examples/ that start no Ray."""

import re

import duckdb
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.config.load import load_config
from capfilt.stages.rows import CANDIDATE_SCHEMA, table_of
from tests.examples.scripts import EXAMPLES, run_example

HELPERS = {"tiny_blip.py"}
"""Modules that the examples import."""


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """(folder in which own_captioner.py ran, its output)."""
    folder = tmp_path_factory.mktemp("own")
    return folder, run_example("own_captioner.py", folder=folder)


def test_every_example_is_run_by_a_test():
    scripts = {path.name for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".sh")} - HELPERS
    tests = "".join(path.read_text() for path in (EXAMPLES.parent / "tests/examples").glob("test_*.py"))
    assert scripts == set(re.findall(r"([\w-]+\.(?:py|sh))\"", tests)) - HELPERS
    assert all(name in (EXAMPLES / "README.md").read_text() for name in scripts)


def test_one_stage(tmp_path):
    output = run_example("one_stage.py", folder=tmp_path)
    statuses = re.findall(r"│ \d\.jpg +│ (\w+)", output)
    assert statuses == ["success"] * 8 + ["decode", "too_small"]


def test_a_model_is_used_in_a_few_lines(tmp_path):
    output = run_example("use_a_model.py", folder=tmp_path)
    starts = [line.split()[0] for line in output.splitlines()]
    assert starts == ["caption"] * 3 + ["match"] * 3 + ["answer", "choose", "rank", "find", "class"]
    places = [sorted(map(int, found.split(","))) for found in re.findall(r"\[(\d, \d, \d)\]", output)]
    assert places[:3] == [[0, 1, 2]] * 3
    assert set(re.findall(r"'(\w+)'", output.splitlines()[-1])) <= {"red", "green", "blue"}


def test_own_captioner_writes_candidates_beside_the_web_texts(own_run):
    folder, output = own_run
    rows = duckdb.sql(
        "SELECT origin, captioner, count(*), count(DISTINCT text) > 2, bool_and(kept = (itm_prob >= 0.5)) "
        f"FROM '{folder}/own-run/rounds/1/web/*.parquet' GROUP BY ALL ORDER BY origin"
    ).fetchall()
    assert rows == [("synthetic", "color-captioner", 10, True, True), ("web", None, 10, True, True)]
    assert "something red" in output
    assert re.findall(r"│ (synthetic|web) +│ +[\d.]+ │\n", output).count("web") == 1


def test_run_is_read_by_datasets_and_webdataset(own_run):
    folder, _ = own_run
    output = run_example("read_run.py", str(folder / "own-run"), folder=folder)
    (kept,) = duckdb.sql(f"SELECT sum(kept::INT) FROM '{folder}/own-run/rounds/1/web/*.parquet'").fetchone()
    assert 0 < kept < 20
    assert f"20 candidates, {kept} kept" in output and f"{kept} training pairs" in output
    assert "64 x 64  " in output


def test_noise_ratio_by_host(tmp_path):
    hosts = [("https://a.example/1.jpg", "web", 0.95, True), ("http://A.example:80/2.jpg", "web", 0.1, False)]
    hosts += [("https://user@b.example/3.jpg", "synthetic", 0.6, True), ("images/4.jpg", "web", 0.2, False)]
    hosts += [("https://a.example/5.jpg", "web", None, None)]
    rows = [dict(zip(("url", "origin", "itm_prob", "kept"), row, strict=True)) for row in hosts]
    place = tmp_path / "run/rounds/1/web"
    place.mkdir(parents=True)
    pq.write_table(table_of(rows, CANDIDATE_SCHEMA), place / "000000.parquet")
    output = run_example("noise_by_host.py", "run", folder=tmp_path)
    found = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    assert found[2:] == [
        ["a.example", "web", "2", "0.5", "0.5"],
        ["", "web", "1", "1.0", "1.0"],
        ["b.example", "synthetic", "1", "0.0", "0.0"],
    ]


def test_config_of_released_checkpoints_is_valid():
    config = load_config(EXAMPLES / "released-checkpoints/config.yaml")
    shipped = load_config("configs/released-checkpoints.yaml")
    assert config.pretrain is None and config.of_kind("web") == ["web"]
    assert config.captioner.generate.sampling == shipped.captioner.generate.sampling
    assert config.fetch.image == shipped.fetch.image
