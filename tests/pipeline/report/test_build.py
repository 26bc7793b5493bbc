"""Tables and report page of a small hand-made round; every expected number is counted by hand below."""

import io
import json
from dataclasses import replace
from pathlib import Path

import duckdb
import fsspec
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.pipeline.evaluation.scores import score_table
from capfilt.pipeline.report.build import build_report
from capfilt.pipeline.report.gallery import printable, thumbnail
from capfilt.pipeline.report.inputs import ReportInputs
from capfilt.pipeline.report.tables import RunTables, by_source
from capfilt.pipeline.report.thresholds import score_arrays, sweep, sweep_names
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA
from capfilt.stages.storage.store import Store
from tests.pipeline.report.report_cases import (
    files_of,
    report_inputs,
    tables_of,
    write_rows,
    write_run,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture
def inputs(run: Path) -> ReportInputs:
    return report_inputs(run)


def test_noise_ratios_count_judged_candidates_only(run: Path) -> None:
    tables = RunTables(files_of(run, "rounds/1"), ())
    by_origin = {row["origin"]: row["noise_ratio"] for row in tables.origin_rows()}
    assert by_origin == pytest.approx({"web": 3 / 6, "synthetic": 2 / 7})
    assert by_source(tables.noise_rows()) == {
        "a": pytest.approx({"web": 2 / 4, "synthetic": 2 / 6}),
        "b": pytest.approx({"web": 1 / 2, "synthetic": 0.0}),
    }
    glob = f"{run}/rounds/1/**/*.parquet"
    plain = duckdb.sql(f"SELECT origin, 1 - avg(kept::INT) FROM '{glob}' GROUP BY 1").fetchall()
    assert dict(plain) == pytest.approx(by_origin), "the query of the README"


def test_noise_rows_add_up_and_stand_beside_what_was_planted(run: Path) -> None:
    rows = {(row["source"], row["origin"]): row for row in tables_of(run).noise_rows()}
    web, synthetic = rows["a", "web"], rows["a", "synthetic"]
    assert (web["candidates"], web["judged"], web["kept"], web["dropped"]) == (5, 4, 2, 2)
    assert (synthetic["candidates"], synthetic["judged"], synthetic["kept"], synthetic["dropped"]) == (
        6,
        6,
        4,
        2,
    )
    assert web["planted"] == pytest.approx(2 / 4)
    assert synthetic["planted"] is None, "what was planted is not the captioner's"
    assert rows["b", "web"]["planted"] is None
    kinds = [(r["kind"], r["judged"], r["dropped"]) for r in tables_of(run).planted_rows()]
    assert kinds == [("clean", 2, 1), ("boilerplate", 1, 0), ("mismatched", 1, 1)]


def test_planted_noise_of_an_all_clean_source_is_zero(tmp_path: Path) -> None:
    row = {"source": "a", "key": "1", "origin": "web", "itm_prob": 0.7, "kept": True}
    write_rows(tmp_path / "rounds/1/a/0.parquet", [row], CANDIDATE_SCHEMA)
    write_rows(
        tmp_path / "corpus/a/0.parquet", [{"source": "a", "key": "1", "truth": "clean"}], CORPUS_SCHEMA
    )
    assert tables_of(tmp_path).noise_rows()[0]["planted"] == 0.0


def test_tables_read_any_fsspec_filesystem(run: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(run / "rounds"), "/report-test/rounds", recursive=True)
    files = [f"memory://{path}" for path in store.find("/report-test/rounds")]
    assert len(files) == 2
    rows = RunTables(files, ()).origin_rows()
    assert {row["origin"]: row["noise_ratio"] for row in rows} == pytest.approx(
        {"web": 3 / 6, "synthetic": 2 / 7}
    )
    store.rm("/report-test", recursive=True)


def test_failures_are_counted_by_status_source_and_host(run: Path) -> None:
    tables = tables_of(run)
    assert [(r["status"], r["n"]) for r in tables.status_rows()] == [
        ("success", 7),
        ("http_404", 2),
        ("timeout", 1),
    ]
    assert tables.source_rows() == [
        {
            "source": "a",
            "rows": 8,
            "stored": 5,
            "failed": 3,
            "commonest": "http_404",
            "commonest_rows": 2,
            "statuses": [("http_404", 2), ("timeout", 1)],
        },
        {
            "source": "b",
            "rows": 2,
            "stored": 2,
            "failed": 0,
            "commonest": None,
            "commonest_rows": None,
            "statuses": [],
        },
    ]
    hosts = [(r["host"], r["rows"], r["failed"]) for r in tables.host_rows()]
    assert hosts == [("two.example", 3, 2), ("one.example", 4, 1), ("[::1]", 1, 0)], "paths have no host"
    # two.example has one of each: the first by name
    assert tables.host_rows(limit=1) == [
        {
            "host": "two.example",
            "rows": 3,
            "stored": 1,
            "failed": 2,
            "commonest": "http_404",
            "commonest_rows": 1,
        }
    ]
    assert [(r["source"], r["shard"], r["failed"]) for r in tables.shard_rows()] == [("a", 0, 3)]


def test_statuses_and_hosts_are_tables_beside_the_page(inputs: ReportInputs, tmp_path: Path) -> None:
    build_report(inputs, Store(str(tmp_path / "reports/1")))
    statuses = pq.read_table(tmp_path / "reports/1/statuses.parquet").to_pylist()
    assert [(r["source"], r["shard"], r["status"], r["retryable"], r["rows"]) for r in statuses] == [
        ("a", 0, "http_404", False, 2), ("a", 0, "success", False, 5), ("a", 0, "timeout", True, 1),
        ("b", 0, "success", False, 2),
    ]  # fmt: skip
    hosts = pq.read_table(tmp_path / "reports/1/hosts.parquet").to_pylist()
    assert [tuple(r.values()) for r in hosts] == [
        (1, "two.example", 3, 1, 2, "http_404", 1), (1, "one.example", 4, 3, 1, "http_404", 1),
        (1, "[::1]", 1, 1, 0, None, None),
    ]  # fmt: skip
    page = (tmp_path / "reports/1/report.html").read_text()
    assert "capfilt retry RUN --class timeout" in page and 'id="copies"' not in page


def test_the_commonest_pictures_are_shown_with_their_counts(inputs: ReportInputs, tmp_path: Path) -> None:
    copies = [
        {"kind": "exact", "copies": 12345, "source": "a", "key": "1", "surplus": 12245},
        {"kind": "perceptual", "copies": 7, "source": "b", "key": "1", "surplus": 0},
    ]
    build_report(replace(inputs, duplicates=copies), Store(str(tmp_path / "reports/1")))
    page = (tmp_path / "reports/1/report.html").read_text()
    part = page[page.index('id="copies"') : page.index('id="examples"')]
    assert part.count("<article>") == 2 and part.count("data:image") == 1, "b/1 has no picture"
    assert "12\u202f345 copies</b>, 12\u202f245 over the limit" in part and "<b>7 copies</b></span>" in part


def test_examples_are_grouped_by_their_verdicts(run: Path) -> None:
    found = tables_of(run).examples(per_section=8)
    keys: dict[str, list[str]] = {}
    for example in found:
        keys.setdefault(example.section, []).append(f"{example.source}{example.key}")
    assert {section: sorted(names) for section, names in keys.items()} == {
        "kept/kept": ["a1"],
        "dropped/kept": ["a2", "a3", "b2"],
        "kept/dropped": ["a4"],
        "none/kept": ["a5"],
        "kept/none": ["b1"],
        "false alarm": ["a3"],
        "miss": ["a4"],
        "close call": sorted(["a1", "a2", "a3", "a4", "a5", "b1", "b2"]),
    }
    # Distances to 0.5: b1 0, b2 .01, a3 .05, a4 .1, a2 .2, a1 .3, a5 .45
    assert keys["close call"] == ["b1", "b2", "a3", "a4", "a2", "a1", "a5"]
    a3 = next(e for e in found if e.key == "3" and e.section == "false alarm")
    assert [(c.origin, c.text, c.kept, c.truth) for c in a3.candidates] == [
        ("web", "a box", False, "clean"),
        ("synthetic", "caption of 3", True, None),
        ("synthetic", "caption of 3", False, None),
    ]


def test_examples_are_the_same_whatever_the_order_of_files(run: Path) -> None:
    files, corpus = files_of(run, "rounds/1"), files_of(run, "corpus")
    forward = RunTables(files, corpus).examples(2)
    assert RunTables(files[::-1], corpus[::-1]).examples(2) == forward
    assert all(sum(e.section == section for e in forward) <= 2 for section in {e.section for e in forward})


def test_sweep_says_what_another_threshold_would_do(run: Path) -> None:
    bins = score_arrays(tables_of(run).score_bins())
    assert sweep_names(bins) == ["web kept", "synthetic kept", "precision", "recall"]
    table = dict(sweep(bins, (0.0, 0.2, 0.5, 0.75)))
    # Kept web of .9 .1 .3 .6 .5 .49; kept synthetic of .8 .7 .55 .05 .2 .95 1.0; noise .1 .6, clean .9 .3
    assert table[0.0] == [1.0, 1.0, None, 0.0]
    assert table[0.2] == pytest.approx([5 / 6, 6 / 7, 1.0, 0.5])
    assert table[0.5] == pytest.approx([3 / 6, 5 / 7, 0.5, 0.5])
    assert table[0.75] == pytest.approx([1 / 6, 3 / 7, 2 / 3, 1.0])


def test_metrics_json_has_the_agreed_keys_and_hand_counted_values(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    metrics = build_report(inputs, Store(str(tmp_path / "reports/1")))
    assert json.loads((tmp_path / "reports/1/metrics.json").read_text()) == metrics
    assert set(metrics) == {
        "round", "counts", "noise_ratio", "noise_ratio_by_source", "planted_noise", "filter",
        "retrieval", "caption", "seconds",
    }  # fmt: skip
    assert metrics["round"] == 1
    assert metrics["counts"] == {"success": 7, "http_404": 2, "timeout": 1}
    assert metrics["noise_ratio"] == pytest.approx({"web": 1 / 2, "synthetic": 2 / 7})
    assert metrics["planted_noise"] == pytest.approx(1 / 2)
    # Noise scores .9 and .4 against clean .1 and .7 (see tests/pipeline/evaluation/test_metrics.py)
    assert metrics["filter"] == pytest.approx({"auc": 0.75, "precision": 0.5, "recall": 0.5})
    assert metrics["retrieval"] == inputs.evaluation["retrieval"]
    assert metrics["seconds"] == {"fetch": 2.5, "pretrain.0": 61.0}


def test_noise_parquet_has_a_row_per_source_and_origin(inputs: ReportInputs, tmp_path: Path) -> None:
    build_report(inputs, Store(str(tmp_path / "reports/1")))
    table = pq.read_table(tmp_path / "reports/1/noise.parquet")
    assert table.column_names == ["round", "source", "origin", "judged", "kept", "dropped", "noise_ratio"]
    assert {"round": 1, "source": "a", "origin": "web", "judged": 4, "kept": 2, "dropped": 2,
            "noise_ratio": 0.5} in table.to_pylist()  # fmt: skip
    assert table.num_rows == 4


def test_printable_cuts_long_texts_and_shows_what_hides() -> None:
    assert printable("a\tb\x00c\u2066d") == "a\tb\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}d"
    assert printable("x" * 300, limit=10) == "x" * 9 + "…"
    assert printable("x" * 10, limit=10) == "x" * 10


def test_thumbnail_re_encodes_and_refuses_what_is_no_picture() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (2000, 1000), "red").save(sink, "JPEG", comment=b"private note")
    uri, small = thumbnail(sink.getvalue())
    assert uri is not None and uri.startswith("data:image/jpeg;base64,") and not small
    assert len(uri) < 20_000
    assert thumbnail(b"<svg onload=alert(1)>") == (None, False)


def test_columns_of_scores_stand_as_papers_print_them() -> None:
    names = ("ir@10", "ir@5", "itc_ir@1", "tr@1", "itc_tr@10", "tr@10", "itc_tr@5", "tr@5")
    table = score_table({"pretrain.0": dict.fromkeys(names, 0.5)})
    assert table.columns == ["itc_tr@5", "itc_tr@10", "itc_ir@1", "tr@1", "tr@5", "tr@10", "ir@5", "ir@10"]
