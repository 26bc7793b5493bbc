"""NEW FILE."""

from __future__ import annotations

from capfilt.pipeline.plan import Node

VOCABULARY = "models/tokenizer"
"""Where a run keeps the vocabulary that its first pretraining trains on the corpus."""


def outputs_of(node: Node) -> list[str]:
    """Folders a node makes, inside the run directory."""
    if node.kind == "fetch":
        return [f"corpus/{source}" for source in node.sources]
    if node.kind == "bootstrap":
        return [f"rounds/{node.round}/{source}" for source in node.sources]
    if node.kind == "report":
        return [f"reports/{node.round}"]
    if node.kind == "evaluate":
        return []
    return [f"models/{node.name}", f"train/{node.name}", f"logs/{node.name}"]
