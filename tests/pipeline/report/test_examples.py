"""Selection of example images; every expected number is counted by hand."""

from pathlib import Path

import pytest

from capfilt.pipeline.report import database
from capfilt.pipeline.report.tables import RoundTables
from tests.pipeline.report.report_cases import files_of, tables_of, write_candidates, write_corpus


@pytest.mark.parametrize(("files", "sampled"), [(3, [0, 1, 2]), (4, [0, 1, 2]), (7, [0, 2, 4])])
def test_examples_come_from_evenly_spaced_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, sampled: list[int]
) -> None:
    monkeypatch.setattr(database, "SAMPLED_FILES", 3)
    for shard in range(files):
        row = {"key": str(shard), "itm_prob": 0.9, "kept": True, "text": "a text"}
        write_candidates(tmp_path, row, shard=shard)
    tables = tables_of(tmp_path)
    examples = [e for e in tables.examples(per_section=99) if e.section == "kept/none"]
    assert sorted(int(e.key) for e in examples) == sampled
    assert tables.drift()["web"]["texts"] == len(sampled)  # type: ignore[index]
    assert tables.origin_rows()[0]["judged"] == files, "all files are counted"


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
        "flag: empty": ["a5"],
    }
    # Distances to 0.5: b1 0, b2 .01, a3 .05, a4 .1, a2 .2, a1 .3, a5 .45
    assert keys["close call"] == ["b1", "b2", "a3", "a4", "a2", "a1", "a5"]
    a3 = next(e for e in found if e.key == "3" and e.section == "false alarm")
    assert [(c.origin, c.text, c.kept, c.truth) for c in a3.candidates] == [
        ("web", "a box", False, "clean"),
        ("synthetic", "caption of 3", True, None),
        ("synthetic", "caption of 3", False, None),
    ]


def test_examples_do_not_depend_on_the_order_of_the_files(run: Path) -> None:
    files, corpus = files_of(run, "rounds/1"), files_of(run, "corpus")
    forward = RoundTables(files, corpus).examples(2)
    assert RoundTables(files[::-1], corpus[::-1]).examples(2) == forward
    counts = [sum(e.section == section for e in forward) for section in ("dropped/kept", "close call")]
    assert counts == [2, 2], "three and seven images qualify"


def test_examples_of_mistakes_have_the_most_extreme_scores_first(tmp_path: Path) -> None:
    clean = [{"key": f"c{i}", "itm_prob": p, "kept": False} for i, p in enumerate((0.3, 0.1, 0.2))]
    noise = [{"key": f"n{i}", "itm_prob": p, "kept": True} for i, p in enumerate((0.7, 0.9, 0.8))]
    write_candidates(tmp_path, *clean, *noise)
    truths = [
        {"key": row["key"], "truth": "clean" if row in clean else "partial"} for row in (*clean, *noise)
    ]
    write_corpus(tmp_path, *truths)
    examples = tables_of(tmp_path).examples(per_section=2)
    assert [e.key for e in examples if e.section == "false alarm"] == ["c1", "c2"]
    assert [e.key for e in examples if e.section == "miss"] == ["n1", "n2"]
