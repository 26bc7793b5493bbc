"""A bootstrap of the web source in one pass, from urls to candidates, by given checkpoints."""

from contextlib import ExitStack

from capfilt.cluster.sizing import Share, Sizing
from capfilt.pipeline.nodes.chain import bootstrap_steps, fetch_configs
from capfilt.stages.manifest.index import build_index


def bootstrap_web(config, store, models, engine, *, actors=1, reverse=False):
    """(the manifest's index, rows that the last step returned).

    Args:
        models: checkpoints of "captioner" and "filter".
        engine: `run_local` or `run_chain`.
        actors: of captioner and filter each.
        reverse: last shard first.
    """
    index = build_index(config.sources["web"].rows, store / "corpus/web/index", source="web")
    items = [{"source": "web", "shard": shard} for shard in range(index.shards)]
    share = Share(actors, 0.5, 0.0)
    with ExitStack() as stack:
        steps = bootstrap_steps(
            config,
            store,
            1,
            models=models,
            tokenizers=dict.fromkeys(models),
            digests=dict.fromkeys(models, "d"),
            fingerprint="f",
            fetching=fetch_configs(config, ("web",), stack),
            corpus_fingerprints={"web": "c"},
            sizing=Sizing(Share(1, 0.5, 0.0), share, share, 4, 0),
        )
        return index, list(engine(items[::-1] if reverse else items, steps))
