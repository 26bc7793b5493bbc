"""The figures of a page against counts over the rows of the Parquet files, made here without SQL."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.evaluation.intervals import wilson_interval
from capfilt.pipeline.report.build import build_report
from capfilt.pipeline.report.inputs import ReportInputs
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA
from capfilt.stages.storage.store import Store
from tests.pipeline.report.html_page import Page
from tests.pipeline.report.report_cases import files_of, page_of, report_inputs, write_rows

Row = dict[str, Any]
WEB = ("one", "two")
TRUTHS = ("clean", "clean", "mismatched", "boilerplate", None)
STATUSES = ("success", "success", "success", "http_404", "timeout")
THRESHOLD = 0.5


def write_random_run(folder: Path) -> None:
    """400 rows of two web sources and one human source, with copies, failures, hosts and flags."""
    draw = random.Random(7)
    for source in (*WEB, "human"):
        rows: list[Row] = []
        for number in range(150 if source == "one" else 125):
            host = draw.choice(("a.example", "B.example:8080", "user@c.example", "d.example"))
            url = f"http://{host}/{number}" if draw.random() < 0.9 else f"images/{number}.jpg"
            status = draw.choice(STATUSES)
            digest = f"{draw.randrange(60):064x}" if status == "success" and draw.random() < 0.8 else None
            rows.append({"source": source, "key": f"000000{number:05d}", "shard": 0, "status": status,
                         "url": url, "truth": draw.choice(TRUTHS), "sha256": digest})  # fmt: skip
        write_rows(folder / f"corpus/{source}/000000.parquet", rows, CORPUS_SCHEMA)
        if source in WEB:
            stored = [row for row in rows if row["status"] == "success"]
            candidates = [text for row in stored for text in draw_texts(draw, row)]
            write_rows(folder / f"rounds/1/{source}/000000.parquet", candidates, CANDIDATE_SCHEMA)


def draw_texts(draw: random.Random, row: Row) -> Iterable[Row]:
    """The candidates of an image."""
    for origin, number in (("web", draw.randrange(3)), ("synthetic", 2)):
        for index in range(number):
            probability = draw.choice((None, round(draw.random(), 4), round(draw.random(), 4)))
            yield {
                **{name: row[name] for name in ("source", "key", "shard", "url", "sha256")},
                "round": 1,
                "origin": origin,
                "caption_index": index,
                "text": f"text {draw.randrange(30)}",
                "itm_prob": probability,
                "kept": None if probability is None else probability >= THRESHOLD,
                "threshold": THRESHOLD,
                "flags": ["empty"] if probability is None else [],
                "captioner": "c" if origin == "synthetic" else None,
            }


def read_rows(folder: Path, part: str) -> list[Row]:
    return [row for file in files_of(folder, part) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report."""
    folder = tmp_path_factory.mktemp("run")
    write_random_run(folder)
    inputs: ReportInputs = replace(
        report_inputs(folder), web_sources=WEB, read_image=lambda source, key: None
    )
    build_report(inputs, Store(str(folder)))
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return page_of(folder)


@pytest.fixture(scope="module")
def corpus(folder: Path) -> list[Row]:
    return read_rows(folder, "corpus")


@pytest.fixture(scope="module")
def candidates(folder: Path) -> list[Row]:
    return read_rows(folder, "rounds/1")


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def ratio_cell(texts: Iterable[Row]) -> str:
    """A noise ratio with its interval, as its cell shows them."""
    verdicts = Counter(row["kept"] for row in texts)
    dropped, judged = verdicts[False], verdicts[False] + verdicts[True]
    interval = wilson_interval(dropped, judged)
    if interval is None:
        return "–"
    return f"{percent(dropped, judged)} {100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def test_noise_ratios(page: Page, candidates: list[Row]) -> None:
    rows = page.table("Noise ratios by source")
    assert [(row["source"], row["origin"]) for row in rows] == [
        (source, origin) for source in WEB for origin in ("web", "synthetic")
    ]
    for row in rows:
        texts = [c for c in candidates if (c["source"], c["origin"]) == (row["source"], row["origin"])]
        verdicts = Counter(c["kept"] for c in texts)
        assert row["noise ratio"] == ratio_cell(texts)
        shown = [int(row[name]) for name in ("judged", "dropped", "kept", "not judged")]
        assert shown == [verdicts[True] + verdicts[False], verdicts[False], verdicts[True], verdicts[None]]


def test_planted_noise(page: Page, candidates: list[Row], corpus: list[Row]) -> None:
    truths = {(row["source"], row["key"]): row["truth"] for row in corpus}
    judged, dropped = Counter[str](), Counter[str]()
    for text in candidates:
        truth = truths[text["source"], text["key"]]
        if text["origin"] == "web" and text["kept"] is not None and truth is not None:
            judged[truth] += 1
            dropped[truth] += not text["kept"]
    rows = page.table("Planted noise")
    assert rows[0]["truth"] == "clean" and {row["truth"] for row in rows} == set(judged)
    for row in rows:
        found = (row["share dropped"], int(row["judged"]), int(row["dropped"]))
        kind = row["truth"]
        assert found == (percent(dropped[kind], judged[kind]), judged[kind], dropped[kind])


def test_funnel(page: Page, corpus: list[Row], candidates: list[Row]) -> None:
    rows = [row for row in corpus if row["source"] in WEB]
    stored = [row for row in rows if row["status"] == "success"]
    kept = [row for row in candidates if row["kept"]]

    def different(images: list[Row]) -> int:
        return len({row["sha256"] or (row["source"], row["key"]) for row in images})

    counts = [len(rows), len(stored), different(stored), different(kept)]
    assert counts == sorted(set(counts), reverse=True), "each step loses something"
    assert [(row["number"], row["share of the rows"]) for row in page.table("From the rows")] == [
        *((str(count), percent(count, len(rows))) for count in counts),
        (str(len(kept)), "–"),
    ]


def test_statuses_and_sources(page: Page, corpus: list[Row]) -> None:
    statuses = Counter(row["status"] for row in corpus)
    assert {row["status"]: (row["rows"], row["share"]) for row in page.table("Rows by status")} == {
        status: (str(n), percent(n, len(corpus))) for status, n in statuses.items()
    }
    for row in page.table("Rows by source"):
        found = Counter(each["status"] for each in corpus if each["source"] == row["source"])
        stored = found.pop("success")
        assert [int(row[name]) for name in ("rows", "stored", "failed")] == [
            found.total() + stored, stored, found.total(),
        ]  # fmt: skip
        assert sorted(row["failures"].split(", ")) == sorted(f"{status} {n}" for status, n in found.items())


def test_hosts(page: Page, corpus: list[Row], candidates: list[Row]) -> None:
    hosts = {(row["source"], row["key"]): urlsplit(row["url"]).hostname for row in corpus}
    for title, order in (("Hosts with most rows", "rows"), ("Hosts with most failures", "failed")):
        rows = page.table(title)
        assert {row["host"] for row in rows} == {"a.example", "b.example", "c.example", "d.example"}
        assert [int(row[order]) for row in rows] == sorted((int(row[order]) for row in rows), reverse=True)
        for row in rows:
            statuses = Counter(r["status"] for r in corpus if hosts[r["source"], r["key"]] == row["host"])
            stored, count = statuses.pop("success"), statuses.total()
            assert (int(row["rows"]), int(row["failed"])) == (count + stored, count)
            assert row["success"] == percent(stored, count + stored)
            status, n = row["most frequent failure"].split()
            assert statuses[status] == int(n) == max(statuses.values())
            texts = [
                text
                for text in candidates
                if text["origin"] == "web" and hosts[text["source"], text["key"]] == row["host"]
            ]
            assert row["noise ratio"] == ratio_cell(texts)
            assert int(row["judged"]) == sum(text["kept"] is not None for text in texts)


def test_frequent_texts(page: Page, candidates: list[Row]) -> None:
    for origin in ("web", "synthetic"):
        texts = Counter(row["text"] for row in candidates if row["origin"] == origin)
        rows = page.table(f"Most frequent {origin} texts")
        assert len(rows) == 10
        assert [int(row["texts"]) for row in rows] == sorted(texts.values(), reverse=True)[:10]
        for row in rows:
            assert int(row["texts"]) == texts[row["text"]]
            assert row["share"] == percent(texts[row["text"]], texts.total())


def test_diversity(page: Page, candidates: list[Row]) -> None:
    for row in page.table("Diversity"):
        texts = [c["text"] for c in candidates if c["origin"] == row["origin"] and c["caption_index"] == 0]
        words = [word for text in texts for word in text.split()]
        assert int(row["texts measured"]) == len(texts) and row["words per text"] == "2.0"
        assert row["different words"] == f"{100 * len(set(words)) / len(words):.2f} %"
        assert row["different pairs of words"] == f"{100 * len(set(texts)) / len(texts):.2f} %"
        assert row["repeated texts"] == percent(len(texts) - len(set(texts)), len(texts))


def test_other_thresholds(page: Page, candidates: list[Row]) -> None:
    for row in page.table("What other thresholds"):
        for origin in ("web", "synthetic"):
            scores = [c["itm_prob"] for c in candidates if c["origin"] == origin and c["kept"] is not None]
            kept = sum(score >= float(row["threshold"]) for score in scores)
            assert row[f"{origin} kept"] == percent(kept, len(scores)), row["threshold"]


def test_tiles(page: Page, corpus: list[Row], candidates: list[Row]) -> None:
    tiles = {each.all("span")[0].text: each.text for each in page.all("li", "tile")}
    stored = sum(row["status"] == "success" for row in corpus)
    kept = sum(row["kept"] is True for row in candidates)
    judged = sum(row["kept"] is not None for row in candidates)
    assert tiles["images stored"] == f"images stored {stored} of {len(corpus)} rows"
    assert tiles["texts kept"] == f"texts kept {kept} of {judged} judged"
    for origin in ("web", "synthetic"):
        ratio, interval = ratio_cell(c for c in candidates if c["origin"] == origin).split(" %", 1)
        assert tiles[f"noise ratio, {origin}"].startswith(
            f"noise ratio, {origin} {ratio} % interval{interval}"
        )


def test_stages_and_nodes_are_those_of_the_inputs(page: Page) -> None:
    assert [tuple(row.values()) for row in page.table("Speed of the stages")] == [
        ("corpus", "fetch", "14", "–", "–", "0.5", "7", "2"),
        ("candidates", "filter", "–", "41.3", "93.0 %", "0.0", "7", "2"),
    ]
    assert [tuple(row.values()) for row in page.table("Time of the nodes")] == [
        ("pretrain.0", "1 min 01 s"),
        ("fetch", "2.5 s"),
    ]
