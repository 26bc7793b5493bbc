"""Rows that raise, kill, hang or take too much memory: a run with them, compared with one without."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.faults.harness import Poison, chain_data, finish, start
from tests.tiny import write_config

LIMITS = {"stall_seconds": 10, "worker_memory_gb": 1.5}
KINDS = ("raise", "kill", "segv", "hang", "leak")
STAGES = ("read", "fetch", "caption", "filter", "write")
SHORT: Poison = {
    "fetch": {"00000300002": "hang", "00000400009": "leak"},
    "caption": {"00000100000": "kill"},
    "filter": {"00000200004": "raise"},
    "write": {"00000200005": "segv"},
}
"""What `make test-all` runs."""
LONG: dict[str, Poison] = {
    **{
        f"{kind} in each stage": {s: {f"0000{n:02d}00007": kind} for n, s in enumerate(STAGES)}
        for kind in KINDS
    },
    "several in one shard": {
        "caption": {f"000002000{n:02d}": "kill" for n in (3, 4, 15)} | {"00000200009": "hang"}
    },
    "one row in each stage of one shard": {s: {f"000001000{n:02d}": "kill"} for n, s in enumerate(STAGES)},
}


def poisoned(folder: Path, models: Path, poison: Poison, seconds: float = 600) -> str:
    """Run the tiny bootstrap with these rows in it, to its end; its output."""
    data = chain_data(folder, models)
    data["cluster"] = LIMITS
    code, output = finish(start(write_config(folder / "config.yaml", data), poison=poison), seconds)
    assert code == 0, f"{poison}: ended with {code}: {output}"
    return output


def differences(run: Path, undisturbed: Path, poison: Poison) -> list[str]:
    """What is not as it should be: poisoned rows have their status and reason and nothing else, all others equal
    the undisturbed run's (scores but for rounding: they were judged in other micro-batches)."""
    bad = {key: (stage, kind) for stage, rows in poison.items() for key, kind in rows.items()}
    mine, theirs = rows_of(run), rows_of(undisturbed)
    found = [
        f"row {key}: {mine.get(key)}" for key in theirs if key not in bad and mine.get(key) != theirs[key]
    ]
    found += [
        f"row {key}: {said}" for key, how in bad.items() if (said := verdict(mine[key])) not in expected(*how)
    ]
    pictures = {k: v for k, v in pictures_of(undisturbed).items() if k.partition(".")[0] not in bad}
    if pictures_of(run) != pictures:
        found.append(f"pictures differ: {sorted(set(pictures_of(run)) ^ set(pictures))}")
    texts, scores = candidates_of(run, bad)
    same_texts, same_scores = candidates_of(undisturbed, bad)
    if texts != same_texts or scores != pytest.approx(same_scores, abs=1e-5):
        found.append("candidates differ")
    with_bad, _ = candidates_of(run, {})
    return found + [f"candidate of {row[0]}" for row in with_bad if row[0] in bad]


def expected(stage: str, kind: str) -> list[tuple[str, str]]:
    """(status, reason) of a poisoned row."""
    if kind == "raise":
        return [("internal", "ValueError: poisoned")]
    alone = "with this row alone"
    reason = {
        "kill": f"its process died of SIGKILL, twice {alone}",
        "segv": f"its process died of SIGSEGV, twice {alone}",
        "hang": f"no progress for {LIMITS['stall_seconds']} s, {alone}",
        "leak": f"its process took _ GB of memory, 1.5 GB are allowed, twice {alone}",
    }[kind]
    return [("crashed", f"{stage}: {reason}")]


def verdict(row: tuple[Any, ...]) -> tuple[str, str]:
    status, reason = row[:2]
    before, took, after = (reason or "").partition(" took ")
    return status, f"{before} took _ {after.partition(' ')[2]}" if took else before


def rows_of(run: Path) -> dict[str, tuple[Any, ...]]:
    query = "SELECT key, status, error_message, * EXCLUDE (key, status, error_message)"
    return {row[0]: row[1:] for row in duckdb.sql(f"{query} FROM '{run}/corpus/web/*.parquet'").fetchall()}


def pictures_of(run: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((run / "corpus/web").glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def candidates_of(run: Path, without: Any) -> tuple[list[Any], list[float]]:
    files = f"FROM '{run}/rounds/1/web/*.parquet' WHERE NOT list_contains({sorted(without)}::VARCHAR[], key)"
    order = "ORDER BY key, origin, caption_index"
    texts = duckdb.sql(f"SELECT * EXCLUDE (itm_prob, itc_sim) {files} {order}").fetchall()
    scores = duckdb.sql(f"SELECT itm_prob, itc_sim {files} {order}").fetchall()
    return texts, [number for row in scores for number in row]
