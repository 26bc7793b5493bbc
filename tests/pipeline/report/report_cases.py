"""A run with two sources and one round, small enough that its numbers can be counted by hand."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from capfilt.pipeline.report.inputs import ReportInputs
from capfilt.pipeline.report.metrics_file import StageTime
from capfilt.pipeline.report.tables import RoundTables
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA, table_of
from tests.pipeline.report.html_page import Page, parse_page

HOSTILE = "</li><script>alert(1)</script><img src=http://evil.example/x onerror=y> & \u202egnp.exe \x07"

# (source, key, status, url, truth, web text)
CORPUS = [
    ("a", "1", "success", "http://one.example/1", "clean", "a red star"),
    ("a", "2", "success", "http://one.example/2", "mismatched", "a blue ring"),
    ("a", "3", "success", "http://one.example/3", "clean", "a box"),
    ("a", "4", "success", "http://user:secret@TWO.example:8080/4?q", "boilerplate", "free shipping"),
    ("a", "5", "success", "https://[::1]:80/5", "mismatched", ""),
    ("a", "6", "http_404", "http://one.example/6", "clean", "gone"),
    ("a", "7", "timeout", "http://two.example/7", "partial", "late"),
    ("a", "8", "http_404", "http://two.example/8", None, "gone too"),
    ("b", "1", "success", "images/1.png", None, HOSTILE),
    ("b", "2", "success", "images/2.png", None, "a plain text"),
]
# (source, key, origin, caption_index, itm_prob): kept from 0.5 on; None: not judged
CANDIDATES = [
    ("a", "1", "web", 0, 0.9), ("a", "1", "synthetic", 0, 0.8),
    ("a", "2", "web", 0, 0.1), ("a", "2", "synthetic", 0, 0.7),
    ("a", "3", "web", 0, 0.3), ("a", "3", "synthetic", 0, 0.55), ("a", "3", "synthetic", 1, 0.05),
    ("a", "4", "web", 0, 0.6), ("a", "4", "synthetic", 0, 0.2),
    ("a", "5", "web", 0, None), ("a", "5", "synthetic", 0, 0.95),
    ("b", "1", "web", 0, 0.5),
    ("b", "2", "web", 0, 0.49), ("b", "2", "synthetic", 0, 1.0),
]  # fmt: skip
# web: 6 judged, dropped a2 a3 b2; 4 with known truth, of which a2 a4 are noise.
# synthetic: 7 judged, dropped the second text of a3, and a4.


def write_run(folder: Path) -> Path:
    """Write CORPUS and CANDIDATES as the Parquet files of a run directory; returns `folder`."""
    texts = {(source, key): text for source, key, *_, text in CORPUS}
    urls = {(source, key): url for source, key, _, url, *_ in CORPUS}
    for source in "ab":
        rows = [
            {"source": s, "key": k, "shard": 0, "status": status, "url": url, "truth": truth,
             "caption": text, "texts": [text], "width": 8, "height": 8}
            for s, k, status, url, truth, text in CORPUS if s == source
        ]  # fmt: skip
        write_rows(folder / f"corpus/{source}/000000.parquet", rows, CORPUS_SCHEMA)
        rows = [
            {"source": s, "key": k, "shard": 0, "round": 1, "origin": origin, "caption_index": index,
             "text": texts[s, k] if origin == "web" else f"caption of {k}", "itm_prob": p,
             "itc_sim": None if p is None else p / 2, "kept": None if p is None else p >= 0.5,
             "threshold": 0.5, "flags": [] if p is not None else ["empty"], "captioner": "c" * 16,
             "filter": "f" * 16, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.0, "version": 1,
             "url": urls[s, k]}
            for s, k, origin, index, p in CANDIDATES if s == source
        ]  # fmt: skip
        write_rows(folder / f"rounds/1/{source}/000000.parquet", rows, CANDIDATE_SCHEMA)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(table_of(rows, schema), path)


def write_candidates(run: Path, *rows: dict[str, Any], shard: int = 0) -> None:
    defaults = {"source": "a", "origin": "web", "caption_index": 0, "threshold": 0.5}
    write_rows(run / f"rounds/1/a{shard}/0.parquet", [defaults | row for row in rows], CANDIDATE_SCHEMA)


def write_corpus(run: Path, *rows: dict[str, Any]) -> None:
    defaults = {"source": "a", "shard": 0, "status": "success"}
    write_rows(run / "corpus/a/0.parquet", [defaults | row for row in rows], CORPUS_SCHEMA)


def files_of(run: Path, folder: str) -> list[str]:
    return [str(path) for path in sorted((run / folder).rglob("*.parquet"))]


def tables_of(run: Path) -> RoundTables:
    return RoundTables(files_of(run, "rounds/1"), files_of(run, "corpus"))


def read_image(source: str, key: str) -> bytes | None:
    """A stored image; b/1 has none, and b/2 is not an image."""
    if (source, key) == ("b", "2"):
        return b"not an image"
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (10 * int(key), 0, 200)).save(sink, "PNG")
    return None if source == "b" else sink.getvalue()


def report_inputs(run: Path) -> ReportInputs:
    return ReportInputs(
        run="quickstart <b>",
        round=1,
        candidate_files=files_of(run, "rounds/1"),
        corpus_files=files_of(run, "corpus"),
        read_image=read_image,
        retrieval={"pretrain.1": {"itc_tr@1": 82.5}, "pretrain.0": {"itc_tr@1": 70.25}},
        caption={"pretrain.1": {"cider": 31.0}, "pretrain.0": {"cider": 35.5}},
        seconds={"fetch": 2.5, "pretrain.0": 61.0},
        config={"threshold": "0.5"},
        web_sources=("a", "b"),
        stages=[
            StageTime(kind="corpus", stage="fetch", shards=2, images=7, seconds=0.5),
            StageTime(
                kind="candidates",
                stage="filter",
                shards=2,
                images=7,
                seconds=0.0,
                efficiency=0.93,
                model_images_per_second=41.26,
            ),
        ],
        origin={"written": "2026-01-02 03:04 UTC", "command": "capfilt run config.yaml"},
        query='duckdb -c "SELECT 1 < 2"',
    )


def page_of(folder: Path, round: int = 1) -> Page:
    """The page of a report that has been written."""
    return parse_page((folder / f"reports/{round}/report.html").read_text())
