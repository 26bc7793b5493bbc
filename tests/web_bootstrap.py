"""The chain of a bootstrap that downloads the web source itself, run without its node."""

from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

from capfilt.cluster.sizing import ActorPool, Sizing, Split
from capfilt.pipeline.nodes.chain import bootstrap_steps, fetch_configs
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.prepare import open_run
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.manifest.index import build_index


def bootstrap_web(config, store, models, engine, *, actors=1, reverse=False, fused=False):
    """Bootstrap the source `web`, from urls to candidates.

    Args:
        store: the run directory.
        models: "captioner" and "filter" → address of a checkpoint.
        engine: `run_local` or `run_chain`.
        actors: number of captioners, and of filters.
        reverse: process the last shard first.
        fused: captioner and filter share their actors.

    Returns:
        The index of the manifest, and the rows that the last step has returned.
    """
    index = build_index(config.sources["web"].rows, store / "manifests/web", source="web")
    items = [{"source": "web", "shard": shard} for shard in range(index.shards)]
    share = ActorPool(actors, 0.5, 0.0)
    sizing = Sizing(ActorPool(1, 0.5, 0.0), share, share, 4, 0, split=Split(fused=fused))
    run_dir = open_run(config)
    fingerprints = SimpleNamespace(of=lambda node: "f", corpus=lambda source: "c")
    context = RunContext(replace(run_dir, store=store, fingerprints=fingerprints), None, None, None)
    roles = {
        role: ModelSource(checkpoint=address, digest="d", run_dir=store) for role, address in models.items()
    }
    with ExitStack() as stack:
        configs = fetch_configs(config, ("web",), stack)
        steps = bootstrap_steps(context, run_dir.nodes["bootstrap.1"], roles, configs, sizing)
        return index, list(engine(items[::-1] if reverse else items, steps))
