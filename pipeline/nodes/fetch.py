"""NEW FILE."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from capfilt.pipeline.nodes.chain import fetch_configs, fetch_steps
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.duplicates import count_copies
from capfilt.pipeline.nodes.failures import check_failed_fraction
from capfilt.pipeline.nodes.shards import count_rows, run_shards, status_summary
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.pipeline.rundir.outputs import outputs_of


def run_fetch(run: RunContext, node: Node) -> dict[str, Any]:
    """Manifests → corpus shards."""
    prints = {source: fingerprint(run.prints.corpus(source)) for source in node.sources}
    with ExitStack() as stack:
        configs = fetch_configs(run.config, node.sources, stack)
        steps = partial(fetch_steps, run.config, run.store, configs, prints)
        run_shards(run, node, steps, "corpus")
    if run.config.duplicates.policy != "keep" and set(node.sources) & set(run.config.of_kind("web")):
        count_copies(run.config, run.store, run.ledger)
    counts = count_rows(run, node, "corpus")
    for source in node.sources:
        check_failed_fraction(run, source, counts["by_source"][source])
    return {"outputs": outputs_of(node), "counts": counts, "summary": status_summary(counts["status"])}
