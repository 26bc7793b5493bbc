"""Rows that raise, kill, hang or use too much memory: compare a run that has such rows with one that has
none."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.faults.harness import Poison, chain_data, start, wait_for_exit
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


def run_poisoned(folder: Path, models: Path, poison: Poison, seconds: float = 600) -> str:
    """Run the tiny bootstrap with these rows, which it must finish by itself; return its output."""
    data = chain_data(folder, models)
    data["cluster"] = LIMITS
    config = write_config(folder / "config.yaml", data)
    code, output = wait_for_exit(start(config, poison=poison), seconds)
    assert code == 0, f"{poison}: exited with {code}: {output}"
    return output


def find_differences(run: Path, reference_run: Path, poison: Poison) -> list[str]:
    """What is not as expected: poisoned rows must have their status and reason, no image and no candidates.
    All other rows must equal those of the reference run, scores up to rounding, since micro-batches
    differ."""
    bad = {key: (stage, kind) for stage, rows in poison.items() for key, kind in rows.items()}
    ours, theirs = read_rows(run), read_rows(reference_run)
    found = [
        f"row {key}: {ours.get(key)}" for key in theirs if key not in bad and ours.get(key) != theirs[key]
    ]
    for key, (stage, kind) in bad.items():
        outcome = status_and_reason(ours[key])
        if outcome != expected_outcome(stage, kind):
            found.append(f"row {key}: {outcome}")
    images = {
        name: data for name, data in read_images(reference_run).items() if name.partition(".")[0] not in bad
    }
    if read_images(run) != images:
        found.append(f"images differ: {sorted(set(read_images(run)) ^ set(images))}")
    texts, scores = read_candidates(run, bad)
    expected_texts, expected_scores = read_candidates(reference_run, bad)
    if texts != expected_texts or scores != pytest.approx(expected_scores, abs=1e-5):
        found.append("candidates differ")
    all_texts, _ = read_candidates(run, {})
    return found + [f"candidate of {row[0]}" for row in all_texts if row[0] in bad]


def expected_outcome(stage: str, kind: str) -> tuple[str, str]:
    """(status, reason) of a poisoned row."""
    if kind == "raise":
        return "internal", "ValueError: poisoned"
    attempts = "in an attempt" if kind == "hang" else "in two attempts"
    reason = {
        "kill": "the worker process was killed by SIGKILL",
        "segv": "the worker process was killed by SIGSEGV",
        "hang": f"no progress for {LIMITS['stall_seconds']} s (cluster.stall_seconds)",
        "leak": "the worker process used _ GB of memory, the limit is 1.5 GB (cluster.worker_memory_gb)",
    }[kind]
    return "crashed", f"{stage}: {reason}, {attempts} with only this row"


def status_and_reason(row: tuple[Any, ...]) -> tuple[str, str]:
    """Of a row of `read_rows`; `_` replaces the used memory."""
    status, reason = row[:2]
    before, used, after = (reason or "").partition(" used ")
    return status, f"{before} used _ {after.partition(' ')[2]}" if used else before


def read_rows(run: Path) -> dict[str, tuple[Any, ...]]:
    """{key: (status, error_message, other columns)} of the corpus."""
    query = "SELECT key, status, error_message, * EXCLUDE (key, status, error_message)"
    return {row[0]: row[1:] for row in duckdb.sql(f"{query} FROM '{run}/corpus/web/*.parquet'").fetchall()}


def read_images(run: Path) -> dict[str, bytes]:
    """Members of the corpus tars."""
    found = {}
    for path in sorted((run / "images/web").glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def read_candidates(run: Path, without: Any) -> tuple[list[Any], list[float]]:
    """(candidate rows, their scores) except for the keys in `without`."""
    files = f"FROM '{run}/rounds/1/web/*.parquet' WHERE NOT list_contains({sorted(without)}::VARCHAR[], key)"
    order = "ORDER BY key, origin, caption_index"
    texts = duckdb.sql(f"SELECT * EXCLUDE (itm_prob, itc_sim) {files} {order}").fetchall()
    scores = duckdb.sql(f"SELECT itm_prob, itc_sim {files} {order}").fetchall()
    return texts, [number for row in scores for number in row]
