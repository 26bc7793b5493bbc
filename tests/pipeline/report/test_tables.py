"""Queries over a small run; every expected number is counted by hand."""

from pathlib import Path

import duckdb
import fsspec
import pytest

from capfilt.pipeline.report import tables as tables_module
from capfilt.pipeline.report.build import noise_ratio_by_source
from capfilt.pipeline.report.tables import RoundTables
from tests.pipeline.report.report_cases import files_of, tables_of, write_candidates, write_corpus


def test_noise_ratios_count_judged_candidates_only(run: Path) -> None:
    tables = RoundTables(files_of(run, "rounds/1"), ())
    by_origin = {row["origin"]: row["noise_ratio"] for row in tables.origin_rows()}
    assert by_origin == pytest.approx({"web": 3 / 6, "synthetic": 2 / 7})
    assert noise_ratio_by_source(tables.noise_rows()) == {
        "a": pytest.approx({"web": 2 / 4, "synthetic": 2 / 6}),
        "b": pytest.approx({"web": 1 / 2, "synthetic": 0.0}),
    }
    glob = f"{run}/rounds/1/**/*.parquet"
    plain = duckdb.sql(f"SELECT origin, 1 - avg(kept::INT) FROM '{glob}' GROUP BY 1").fetchall()
    assert dict(plain) == pytest.approx(by_origin), "the query of the README"


def test_noise_rows_add_up_and_show_the_planted_noise(run: Path) -> None:
    rows = {(row["source"], row["origin"]): row for row in tables_of(run).noise_rows()}
    web, synthetic = rows["a", "web"], rows["a", "synthetic"]
    columns = ("candidates", "judged", "kept", "dropped")
    assert [web[name] for name in columns] == [5, 4, 2, 2]
    assert [synthetic[name] for name in columns] == [6, 6, 4, 2]
    assert web["planted"] == pytest.approx(2 / 4)
    assert synthetic["planted"] is None, "captions have no truth"
    assert rows["b", "web"]["planted"] is None
    kinds = [(r["kind"], r["judged"], r["dropped"]) for r in tables_of(run).planted_rows()]
    assert kinds == [("clean", 2, 1), ("boilerplate", 1, 0), ("mismatched", 1, 1)]


def test_planted_noise_of_a_clean_source_is_zero(tmp_path: Path) -> None:
    write_candidates(tmp_path, {"key": "1", "itm_prob": 0.7, "kept": True})
    write_corpus(tmp_path, {"key": "1", "truth": "clean"})
    assert tables_of(tmp_path).noise_rows()[0]["planted"] == 0.0


def test_noise_ratio_without_verdicts_is_none(tmp_path: Path) -> None:
    write_candidates(tmp_path, {"key": "1", "kept": None})
    (row,) = RoundTables(files_of(tmp_path, "rounds/1"), ()).origin_rows()
    assert (row["candidates"], row["judged"], row["noise_ratio"]) == (1, 0, None)


def test_files_can_be_on_any_fsspec_filesystem(run: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(run / "rounds"), "/report-test/rounds", recursive=True)
    files = [f"memory://{path}" for path in store.find("/report-test/rounds")]
    assert len(files) == 2
    rows = RoundTables(files, ()).origin_rows()
    store.rm("/report-test", recursive=True)
    ratios = {row["origin"]: row["noise_ratio"] for row in rows}
    assert ratios == pytest.approx({"web": 3 / 6, "synthetic": 2 / 7})


def test_scores_are_counted_in_bins_of_a_thousandth(tmp_path: Path) -> None:
    scores = (0.0, 0.0009, 0.001, 0.5, 0.9989, 0.999, 1.0)
    rows = [{"key": str(i), "itm_prob": score, "kept": True} for i, score in enumerate(scores)]
    write_candidates(tmp_path, *rows, {"key": "n", "itm_prob": None, "kept": None})
    found = RoundTables(files_of(tmp_path, "rounds/1"), ()).score_bins()
    assert [(row["bin"], row["n"]) for row in found] == [(0, 2), (1, 1), (500, 1), (998, 1), (999, 2)]
    assert {(row["origin"], row["noise"]) for row in found} == {("web", None)}


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
    # two.example has two failures with one row each; the first by name counts as the most common.
    assert tables.host_rows(limit=1) == [
        {
            "host": "two.example",
            "rows": 3,
            "stored": 1,
            "failed": 2,
            "commonest": "http_404",
            "commonest_rows": 1,
            "judged": 1,
            "kept": 1,
            "dropped": 0,
            "noise_ratio": 0.0,
            "noise_low": 0.0,
            "noise_high": pytest.approx(0.79345, abs=1e-5),
        }
    ]
    assert [(r["source"], r["shard"], r["failed"]) for r in tables.shard_rows()] == [("a", 0, 3)]


def test_ten_hosts_and_shards_with_most_failures_are_listed(tmp_path: Path) -> None:
    rows = [
        {"key": f"{i}-{j}", "shard": i, "url": f"http://h{i:02d}.example/", "status": "timeout"}
        for i in range(12)
        for j in range(i + 1)
    ]
    write_corpus(tmp_path, *rows)
    tables = tables_of(tmp_path)
    assert [row["host"] for row in tables.host_rows()] == [f"h{i:02d}.example" for i in range(11, 1, -1)]
    assert [row["shard"] for row in tables.shard_rows()] == list(range(11, 1, -1))


def test_settings_are_those_of_the_captions_if_there_are_any(tmp_path: Path) -> None:
    web = {"key": "1", "filter": "f", "captioner": None}
    write_candidates(tmp_path, web)
    (row,) = tables_of(tmp_path).settings()
    assert (row["captioner"], row["filter"], row["threshold"]) == (None, "f", 0.5)
    write_candidates(tmp_path, {"key": "1", "origin": "synthetic", "captioner": "c", "top_p": 0.5}, shard=1)
    (row,) = tables_of(tmp_path).settings()
    assert (row["captioner"], row["top_p"]) == ("c", 0.5)


def test_drift_is_computed_over_a_bounded_number_of_first_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"key": str(i), "text": f"text {i}", "caption_index": j} for i in range(5) for j in range(2)]
    write_candidates(tmp_path, *rows, {"key": "6", "text": None})
    for limit, texts in ((4, 4), (5, 5), (6, 5)):
        monkeypatch.setattr(tables_module, "MAX_DRIFT_TEXTS", limit)
        drift = tables_of(tmp_path).drift()["web"]
        assert drift is not None and drift["texts"] == texts and drift["duplicate_share"] == 0


def test_frequent_texts_occur_repeatedly_and_have_a_word(tmp_path: Path) -> None:
    texts = ["often", "often", "once", " ", " ", "Twice", "Twice", "often"]
    write_candidates(tmp_path, *({"key": str(i), "text": text} for i, text in enumerate(texts)))
    assert tables_of(tmp_path).common_texts() == {
        "web": [
            {"origin": "web", "text": "often", "n": 3, "share": 0.5},
            {"origin": "web", "text": "Twice", "n": 2, "share": pytest.approx(2 / 6)},
        ]
    }
    assert [row["text"] for row in tables_of(tmp_path).common_texts(limit=1)["web"]] == ["often"]


def test_urls_of_some_images(run: Path) -> None:
    places = [("a", "1"), ("b", "2"), ("a", "9")]
    assert tables_of(run).urls(places) == {("a", "1"): "http://one.example/1", ("b", "2"): "images/2.png"}


def test_copies_of_an_image_count_once_in_the_funnel(tmp_path: Path) -> None:
    copies = [{"key": str(i), "sha256": "f" * 64} for i in range(3)]
    unknown = [{"key": str(i), "sha256": None} for i in range(3, 5)]
    failed = {"key": "5", "status": "decode", "sha256": "e" * 64}
    write_corpus(tmp_path, *copies, *unknown, failed)
    kept = [row | {"kept": row["key"] != "4", "itm_prob": 0.9} for row in (*copies, *unknown)]
    write_candidates(tmp_path, *kept)
    funnel = tables_of(tmp_path).funnel(["a"])
    assert funnel.model_dump() == {
        "rows": 6, "stored": 5, "different": 3, "kept_images": 2, "kept_pairs": 4,
    }  # fmt: skip
    assert tables_of(tmp_path).funnel([]).rows == 0
