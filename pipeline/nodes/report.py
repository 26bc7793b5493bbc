"""The report of a round from what the ledger says: which files count, which images can be shown."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.duplicates import most_copied_images
from capfilt.pipeline.plan import Node
from capfilt.pipeline.report.build import build_report, previous_reports
from capfilt.pipeline.report.inputs import ReportInputs
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.outputs import outputs_of
from capfilt.stages.shards.tars import read_tar_images
from capfilt.stages.storage.filesystems import filesystem_options
from capfilt.stages.storage.store import Store


def write_report(
    config: Config, run: Store, ledger: Ledger, nodes: dict[str, Node], round_: int
) -> dict[str, Any]:
    """Write `reports/<round>/` and return its metrics."""
    sources = [source for source in config.sources if ledger.committed(f"corpus/{source}")]
    evaluation: dict[str, Any] = {"retrieval": {}, "caption": {}}
    seconds = {}
    for name, node in nodes.items():
        record = ledger.node(name)
        if record is not None and node.round <= round_:
            seconds[name] = record["seconds"]
            for model, result in record.get("results", {}).items():
                evaluation["retrieval"][model] = result["retrieval"]
                evaluation["caption"][model] = result["caption"]
    reader = ImageReader(run)
    return build_report(
        ReportInputs(
            run=config.run.name,
            round=round_,
            candidate_files=_files(run, ledger, [f"rounds/{round_}/{s}" for s in config.of_kind("web")]),
            corpus_files=_files(run, ledger, [f"corpus/{source}" for source in sources]),
            read_image=reader,
            evaluation=evaluation,
            seconds=seconds,
            config=summary(config, run, round_),
            previous=previous_reports(run / "reports", round_),
            storage_options=filesystem_options(run.url, run.options),
            duplicates=most_copied_images(config, run),
            examples_per_section=max(1, config.report.examples // 4),
        ),
        run / f"reports/{round_}",
    )


def summary(config: Config, run: Store, round_: int) -> dict[str, str]:
    """What the report says of the config, label → value."""
    sampling = config.captioner.generate.sampling
    first = round_ == 1
    decoding = f"top_p {sampling.top_p:g}" + (f", top_k {sampling.top_k}" if sampling.top_k else "")
    return {
        "run directory": run.url,
        "captioner": (config.captioner.checkpoint if first else None) or f"captioner.{round_}",
        "filter": (config.filter.checkpoint if first else None) or f"filter.{round_}",
        "threshold": f"{config.filter.judge.threshold:g}",
        "decoding": f"{sampling.strategy}, {decoding}"
        if sampling.strategy == "nucleus"
        else sampling.strategy,
        "captions per image": str(config.captioner.generate.captions_per_image),
        "seed": str(config.run.seed),
    }


def _files(run: Store, ledger: Ledger, folders: list[str]) -> list[str]:
    """Addresses of the Parquet files that commit records list."""
    return [
        run.address(f"{folder}/{file['name']}")
        for folder in folders
        for record in ledger.records(folder)
        for file in record["files"]
        if file["name"].endswith(".parquet")
    ]


class ImageReader:
    """(source, key) → stored image bytes, or None; the last few tars stay in memory."""

    def __init__(self, run: Store) -> None:
        self.run = run
        self._tar = lru_cache(maxsize=4)(self._read_tar)

    def __call__(self, source: str, key: str) -> bytes | None:
        return self._tar(source, key[:6]).get(key)

    def _read_tar(self, source: str, shard: str) -> dict[str, bytes]:
        name = f"corpus/{source}/{shard}.tar"
        return read_tar_images(self.run.read(name)) if self.run.exists(name) else {}


def run_report(run: RunContext, node: Node) -> dict[str, Any]:
    """Noise ratios, metrics and the page."""
    from capfilt.pipeline.nodes.report import write_report

    metrics = write_report(run.config, run.store, run.ledger, run.nodes, node.round)
    ratios = ", ".join(f"{origin} {value:.3f}" for origin, value in metrics["noise_ratio"].items())
    return {"outputs": outputs_of(node), "counts": {}, "summary": f"noise ratio {ratios}"}
