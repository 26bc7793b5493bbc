"""One image under many urls, in the one-pass chain: only the first copies get verdicts."""

import csv
import json
import shutil

import duckdb
import pytest
from rich.console import Console

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.maintenance.verify import verify_run
from capfilt.pipeline.prepare import open_run
from tests.faults.harness import chain_data
from tests.runs import run_dag

ROWS, COPIES, LIMIT = 45, 20, 5
"""Of 45 rows in shards of 20, the even ones below 40 have the url of a placeholder with varying queries."""


@pytest.fixture(scope="module")
def placeholder(finished, tmp_path_factory):
    """(run directory, config) of a bootstrap over urls of which 20 lead to the same image."""
    folder = tmp_path_factory.mktemp("placeholder")
    data = chain_data(folder, finished[0] / "models")
    del data["shapes"]  # it would be made in the finished run, which no test may change
    images = finished[0].parent / "shapes/web"
    shutil.copytree(images, folder / "web")
    names = sorted(
        p.relative_to(folder / "web").as_posix()
        for p in (folder / "web").rglob("*.*")
        if p.suffix in (".jpg", ".png")
    )
    urls = [f"{names[0]}?{i}" if i % 2 == 0 and i < 40 else names[i] for i in range(ROWS)]
    with open(folder / "urls.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [("url", "caption"), *((url, f"text {i}") for i, url in enumerate(urls))]
        )
    data["sources"] = {
        "web": {
            "kind": "web",
            "rows": {"manifest": str(folder / "urls.csv"), "shard_size": 20},
            "serve": str(folder / "web"),
        }
    }
    data["duplicates"] = {"max_copies": LIMIT, "perceptual": False}
    config = parse_config(data, "test")
    outcome = run_dag(config, Console(quiet=True))
    assert outcome.failed == {}
    return folder / "run", config


def test_only_the_first_copies_have_verdicts(placeholder):
    run, _ = placeholder
    glob = f"{run}/rounds/1/**/*.parquet"
    judged = duckdb.sql(
        f"SELECT DISTINCT shard, key[7:]::INT FROM '{glob}' WHERE kept IS NOT NULL ORDER BY ALL"
    ).fetchall()
    surplus = [divmod(i, 20) for i in range(2 * LIMIT, 40, 2)]
    assert len(surplus) == COPIES - LIMIT
    assert judged == [divmod(i, 20) for i in range(ROWS) if divmod(i, 20) not in surplus]
    flagged = duckdb.sql(
        f"SELECT DISTINCT shard, key[7:]::INT FROM '{glob}' WHERE list_contains(flags, 'duplicate_image') "
        "AND kept IS NULL AND itm_prob IS NOT NULL ORDER BY ALL"
    ).fetchall()
    assert flagged == surplus


def test_the_run_verifies_and_the_report_shows_the_placeholder(placeholder):
    run, config = placeholder
    found = verify_run(open_run(config))
    assert found.problems == [] and found.rows == 2 * ROWS
    page = (run / "reports/1/report.html").read_text()
    assert f"<b>{COPIES} copies</b>, {COPIES - LIMIT} over the limit" in page
    record = json.loads((run / "nodes/bootstrap.1.json").read_text())
    assert record["counts"]["candidates"]["web"]["unjudged"] == COPIES - LIMIT
