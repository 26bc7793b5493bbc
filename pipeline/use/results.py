"""The files of an evaluation on a task, and the lines that a command prints about it."""

from __future__ import annotations

import json

from capfilt.pipeline.testset.results import IMAGES, METRICS
from capfilt.pipeline.use.evaluation import TaskEvaluation
from capfilt.stages.status import PENDING, SUCCESS
from capfilt.stages.storage.store import Store


def write_task_results(found: TaskEvaluation, store: Store) -> list[str]:
    """Write the files into a folder, metrics.json last; returns their addresses.

    Raises:
        StoreError: the folder cannot be written.
    """
    request = found.request
    lines = [
        {
            "image": record.key,
            "samples": len(record.samples),
            "status": SUCCESS if record.status == PENDING else record.status,
            "message": record.message,
        }
        for record in found.records
    ]
    metrics = {
        "version": 1,
        "checkpoint": request.checkpoint,
        "model": found.model,
        "data": request.data,
        "task": request.task,
        "samples": found.samples,
        "settings": {"k": request.k, "limit": request.limit, "templates": list(request.templates)},
        "scores": found.scores,
        "notes": found.notes,
        "seconds": found.seconds,
    }
    files = {IMAGES: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), **found.files}
    files[METRICS] = json.dumps(metrics, ensure_ascii=False, indent=1) + "\n"
    store.remove_file(METRICS)  # until it is there again, the folder says nothing
    for name, text in files.items():
        store.put(name, text.encode())
    return [store.address(name) for name in reversed(files)]


def summary_lines(found: TaskEvaluation) -> list[tuple[str, str]]:
    """(label, line) of what was evaluated, the figures, and what could not be used."""
    model, request = found.model, found.request
    lines = [
        ("model", f"{request.checkpoint}: {model['format']} {model['parts']}, {model['image_size']} px"),
        ("data", f"{request.data}: {found.samples.get(SUCCESS, 0):,} samples, task {request.task}"),
    ]
    bad = {status: count for status, count in found.samples.items() if status != SUCCESS}
    if bad:
        what = ", ".join(f"{count:,} {status}" for status, count in bad.items())
        first = found.failed[0]
        lines.append(("failed", f"{what}: the figures are over the other samples"))
        lines.append(("failed", f"{first.key}: {first.status}, {first.message}"))
    lines += [(name, f"{value:.1f}") for name, value in found.scores.items()]
    return lines + [("note", note) for note in found.notes]
