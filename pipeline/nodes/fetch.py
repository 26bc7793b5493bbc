"""The node that downloads images: manifests → corpus shards."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.stages.storage.layout import corpus_folder, source_folders

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints


def _outputs(node: Node) -> list[str]:
    return [folder for source in node.sources for folder in source_folders(source)]


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    return {"sources": {source: fingerprints.corpus_inputs(source) for source in node.sources}}


def run_fetch(context: RunContext, node: Node) -> NodeResult:
    """Download the images of every row of the node's sources, and commit the corpus shards."""
    from capfilt.pipeline.nodes.chain import fetch_configs, fetch_steps
    from capfilt.pipeline.nodes.duplicates import count_copies
    from capfilt.pipeline.nodes.failures import check_failed_fraction
    from capfilt.pipeline.nodes.shards import run_shards
    from capfilt.pipeline.rundir.contents.totals import count_records, status_summary

    config = context.config
    folders = {source: corpus_folder(source) for source in node.sources}
    with ExitStack() as stack:
        configs = fetch_configs(config, node.sources, stack, context.serving_host())
        run_shards(context, node, partial(fetch_steps, context, configs), folders)
    if config.duplicates.policy != "keep" and set(node.sources) & set(config.of_kind("web")):
        context.progress.describe(node.name, "counting the copies of images")
        count_copies(context.run_dir)
    counts = count_records(context.ledger, folders)
    for source in node.sources:
        check_failed_fraction(config, source, counts["by_source"][source])
    return NodeResult(status_summary(counts["status"]), tuple(node.outputs), counts)


FETCH = NodeKind("fetch", outputs=_outputs, inputs=_inputs, run=run_fetch, streams_shards=True)
