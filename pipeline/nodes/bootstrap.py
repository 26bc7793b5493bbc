"""NEW FILE."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes.chain import bootstrap_steps, fetch_configs
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.duplicates import mark_round
from capfilt.pipeline.nodes.failures import check_failed_fraction
from capfilt.pipeline.nodes.shards import count_rows, run_shards
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.pipeline.rundir.outputs import outputs_of
from capfilt.stages.storage.artifacts import absolute


def run_bootstrap(run: RunContext, node: Node) -> dict[str, Any]:
    """Corpus shards (or manifest slices) → judged candidates."""
    sources = [source for source in node.sources if not _fetched_elsewhere(run, source)]
    models, tokenizers, digests = {}, {}, {}
    for role in ("captioner", "filter"):
        models[role], tokenizers[role], digests[role] = _model_of(run, node, role)
    for source in sources:
        _check_corpus(run, source)
    with ExitStack() as stack:
        fetching = fetch_configs(run.config, tuple(sources), stack)
        steps = partial(
            bootstrap_steps,
            run.config,
            run.store,
            node.round,
            models=models,
            tokenizers=tokenizers,
            digests=digests,
            fingerprint=run.prints.of(node.name),
            fetching=fetching,
            corpus_fingerprints={s: fingerprint(run.prints.corpus(s)) for s in sources},
        )
        run_shards(run, node, steps, f"rounds/{node.round}")
    mark_round(run, node, fetched=bool(sources))
    counts = count_rows(run, node, f"rounds/{node.round}")
    for source in node.sources:
        check_failed_fraction(run, source, counts["by_source"][source])
    return {
        "outputs": outputs_of(node),
        "counts": counts,
        "models": digests,
        "summary": candidate_summary(counts["candidates"]),
    }


def _fetched_elsewhere(run: RunContext, source: str) -> bool:
    """Whether a fetch node or an earlier round brought the source's images."""
    fetch = run.nodes.get("fetch")
    return fetch is not None and source in fetch.sources


def _check_corpus(run: RunContext, source: str) -> None:
    """Images that a bootstrap fetched before were fetched with the present settings."""
    committed = run.ledger.committed(f"corpus/{source}")
    if committed:
        record = run.store.read_json(f"corpus/{source}/{committed[0]:06d}.json")
        if record["fingerprint"] != fingerprint(run.prints.corpus(source)):
            raise NodeFailed(
                f"corpus/{source} was fetched with other settings than the config has now; "
                "fetch it again with --fresh fetch, or use another run directory"
            )


def _model_of(
    run: RunContext, node: Node, role: Literal["captioner", "filter"]
) -> tuple[str, str | None, str]:
    """Address, tokenizer address and digest of the captioner or filter of a bootstrap."""
    trained = f"{role}.{node.round}"
    if trained in node.needs:
        return run.store.address(f"models/{trained}"), None, run.prints.of(trained)
    section = getattr(run.config, role)
    tokenizer = absolute(section.tokenizer) if section.tokenizer is not None else None
    return absolute(section.checkpoint), tokenizer, run.prints.checkpoint(role)[:16]


def candidate_summary(candidates: dict[str, dict[str, int]]) -> str:
    """Kept of judged per origin."""
    parts = []
    for origin, verdicts in candidates.items():
        judged = verdicts.get("kept", 0) + verdicts.get("dropped", 0)
        parts.append(f"{origin}: kept {verdicts.get('kept', 0):,} of {judged:,}")
    return ", ".join(parts)
