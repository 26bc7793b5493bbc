"""The stages of fetch and bootstrap nodes as one chain: read → fetch → caption → filter → write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from capfilt.cluster.chain.engine import Step
from capfilt.cluster.chain.isolation import Isolation, Stage
from capfilt.cluster.sizing import Share, Sizing
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.corpora.serve import serve_folder
from capfilt.stages.bootstrap.caption import Caption
from capfilt.stages.bootstrap.filter import Filter
from capfilt.stages.fetch.by_source import FetchBySource
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.rows import count_active, mark_crashed, mark_failed, shard_name
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import Read, ReadConfig, Unpack
from capfilt.stages.shards.retry import ReadFailed, RetryConfig, StageRetried
from capfilt.stages.shards.write import Provenance, Write, WriteConfig
from capfilt.stages.storage.artifacts import absolute
from capfilt.stages.storage.store import Store, StoreError

ISOLATION = Isolation(
    fail=mark_failed, crash=mark_crashed, live=count_active, name=shard_name, never=(StoreError, OutOfMemory)
)


def fetch_configs(config: Config, sources: tuple[str, ...], stack: ExitStack) -> dict[str, FetchConfig]:
    """Fetch settings per source; folders that the run serves are served until `stack` closes."""
    configs = {}
    for name in sources:
        section = config.sources[name]
        fetch = section.fetch or config.fetch
        if section.images is not None:
            fetch = replace(fetch, image_root=absolute(section.images), backend="capfilt")
        elif section.base_url is not None:
            fetch = replace(fetch, base_url=section.base_url)
        elif section.serve is not None:
            address = stack.enter_context(serve_folder(section.serve))
            # Our own server on this machine: it needs no manners.
            fetch = replace(
                fetch,
                base_url=address,
                allow_private=(*fetch.allow_private, "127.0.0.1"),
                robots=False,
                per_host_per_second=None,
            )
        fetch = replace(fetch, blocked=tuple(absolute(address) for address in fetch.blocked))
        configs[name] = fetch
    return configs


def fetch_steps(
    config: Config,
    run: Store,
    configs: Mapping[str, FetchConfig],
    fingerprints: Mapping[str, str],
    sizing: Sizing,
) -> list[Step]:
    """Manifest slice → corpus shard."""
    return [
        _read(config, run),
        _fetch(configs, sizing),
        _write(WriteConfig(run=run, corpus_fingerprints=dict(fingerprints))),
    ]


def retry_steps(retry: RetryConfig, configs: Mapping[str, FetchConfig], sizing: Sizing) -> list[Step]:
    """Committed corpus shard → its next generation, staged."""
    return [
        Step(name="read", make=partial(ReadFailed, retry), kind="read", isolation=ISOLATION),
        _fetch(configs, sizing),
        Step(
            name="write",
            make=partial(StageRetried, retry),
            kind="write",
            rowwise=Pack,
            isolation=ISOLATION,
        ),
    ]


def bootstrap_steps(
    config: Config,
    run: Store,
    round_: int,
    sizing: Sizing,
    *,
    models: Mapping[str, str],
    tokenizers: Mapping[str, str | None],
    digests: Mapping[str, str],
    fingerprint: str,
    fetching: Mapping[str, FetchConfig],
    corpus_fingerprints: Mapping[str, str],
) -> list[Step]:
    """Shard → candidates with scores and verdicts; with `fetching` also url → corpus shard, in the same pass.

    Args:
        models, tokenizers, digests: of "captioner" and "filter": address, tokenizer address, first 16 hex
            digits of the checkpoint's sha256.
    """
    generate, judge = config.captioner.generate, config.filter.judge
    caption = partial(
        Caption,
        generate,
        checkpoint=models["captioner"],
        run=run,
        tokenizer=tokenizers["captioner"],
        seed=config.run.seed,
        round=round_,
    )
    score = partial(
        Filter,
        judge,
        checkpoint=models["filter"],
        run=run,
        tokenizer=tokenizers["filter"],
        keep_images=bool(fetching),
    )
    made = Provenance(
        captioner=digests["captioner"],
        filter=digests["filter"],
        top_p=generate.sampling.top_p,
        top_k=generate.sampling.top_k,
        repetition_penalty=generate.sampling.repetition_penalty,
        threshold=judge.threshold,
    )
    write = WriteConfig(
        run=run,
        corpus_fingerprints=dict(corpus_fingerprints),
        round=round_,
        round_fingerprint=fingerprint,
        provenance=made,
    )
    steps = [_read(config, run)]
    if fetching:
        steps.append(_fetch(fetching, sizing))
    steps.append(_model_step("caption", caption, sizing.caption))
    steps.append(_model_step("filter", score, sizing.filter))
    return [*steps, _write(write)]


def _read(config: Config, run: Store) -> Step:
    tar_options = {name: source.rows.storage_options for name, source in config.sources.items()}
    make = partial(Read, ReadConfig(run=run, tar_options=tar_options))
    return Step(name="read", make=make, kind="read", rowwise=Unpack, isolation=ISOLATION)


def _fetch(configs: Mapping[str, FetchConfig], sizing: Sizing) -> Step:
    share = sizing.fetch
    return Step(
        name="fetch",
        make=partial(FetchBySource, dict(configs), share.actors),
        actors=share.actors,
        cpus=share.cpus,
        isolation=ISOLATION,
    )


def _model_step(name: str, make: Callable[[], Stage], share: Share) -> Step:
    return Step(
        name=name, make=make, actors=share.actors, cpus=share.cpus, gpus=share.gpus, isolation=ISOLATION
    )


def _write(config: WriteConfig) -> Step:
    return Step(name="write", make=partial(Write, config), kind="write", rowwise=Pack, isolation=ISOLATION)
