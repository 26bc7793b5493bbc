"""The chains of stages of fetch nodes, bootstrap nodes and retries: read → fetch → caption → filter →
write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from capfilt.cluster.chain.efficiency import StageProcesses
from capfilt.cluster.chain.isolation import Isolation
from capfilt.cluster.chain.stage import Stage
from capfilt.cluster.chain.steps import Step
from capfilt.cluster.sizing import ActorPool, Sizing
from capfilt.models.images.shared import SharedPixels
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.logs import shard_log_context, with_worker_logging
from capfilt.pipeline.corpora.serve import LOOPBACK, serve_folder
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.context import RunContext
from capfilt.stages.bootstrap.caption import Caption
from capfilt.stages.bootstrap.filter import Filter
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.fetch.by_source import FetchBySource
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.rows import count_active, mark_crashed, mark_failed, shard_name
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import Read, ReadConfig, Unpack
from capfilt.stages.shards.retry import ReadFailed, RetryConfig, StageRetried
from capfilt.stages.shards.write import Provenance, Write, WriteConfig
from capfilt.stages.storage.artifacts import absolute_address
from capfilt.stages.storage.store import StoreError


def with_step_logging(step: Step, node: str) -> Step:
    """The step with logging configured in its workers; records name the run, the node and the shard."""
    rowwise = None if step.rowwise is None else with_worker_logging(step.rowwise, node=node)
    make = with_worker_logging(step.make, node=node)
    return replace(step, make=make, rowwise=rowwise, log_context=shard_log_context)


ISOLATION = Isolation(
    mark_failed=mark_failed,
    mark_crashed=mark_crashed,
    count_active=count_active,
    shard_name=shard_name,
    propagate=(StoreError, OutOfMemory),
)


def fetch_configs(
    config: Config, sources: tuple[str, ...], stack: ExitStack, host: str = LOOPBACK
) -> dict[str, FetchConfig]:
    """Fetch settings by source.

    Args:
        stack: folders that sources ask to be served (`serve`) are served until it closes.
        host: address of this machine at which they are served.
    """
    configs = {}
    for name in sources:
        section = config.sources[name]
        fetch = section.fetch or config.fetch
        if section.images is not None:
            fetch = replace(fetch, image_root=absolute_address(section.images), backend="capfilt")
        elif section.base_url is not None:
            fetch = replace(fetch, base_url=section.base_url)
        elif section.serve is not None:
            address = stack.enter_context(serve_folder(section.serve, host))
            # This process serves the folder itself: there is no other server to protect.
            fetch = replace(
                fetch,
                base_url=address,
                allow_private=(*fetch.allow_private, host),
                robots=False,
                per_host_per_second=None,
            )
        fetch = replace(fetch, blocked=tuple(absolute_address(address) for address in fetch.blocked))
        configs[name] = fetch
    return configs


def fetch_steps(context: RunContext, configs: Mapping[str, FetchConfig], sizing: Sizing) -> list[Step]:
    """The chain of a fetch node: slice of a manifest → corpus shard."""
    fingerprints = {source: context.fingerprints.corpus(source) for source in configs}
    write = WriteConfig(run_dir=context.store, corpus_fingerprints=fingerprints)
    return [_read_step(context), _fetch_step(configs, sizing), _write_step(write)]


def retry_steps(retry: RetryConfig, configs: Mapping[str, FetchConfig], sizing: Sizing) -> list[Step]:
    """The chain of `capfilt retry`: committed corpus shard → its next generation, staged."""
    read = Step(name="read", make=partial(ReadFailed, retry), kind="read", isolation=ISOLATION)
    stage = partial(StageRetried, retry)
    write = Step(name="write", make=stage, kind="write", rowwise=Pack, isolation=ISOLATION)
    return [read, _fetch_step(configs, sizing), write]


def bootstrap_steps(
    context: RunContext,
    node: Node,
    models: Mapping[str, ModelSource],
    configs: Mapping[str, FetchConfig],
    sizing: Sizing,
) -> list[Step]:
    """The chain of a bootstrap node: shard → candidates with scores and verdicts.

    Args:
        models: "captioner" (if there is one) and "filter" → model.
        configs: fetch settings of the sources whose images are downloaded in the same pass.

    Raises:
        ClusterError: a large model would run on CPUs.
    """
    context.check_device(models, sizing)
    steps = [_read_step(context, frozenset(context.config.described_sources))]
    if configs:
        steps.append(_fetch_step(configs, sizing))
    judge = partial(
        Filter, context.run_dir.judge_settings(node.round), models["filter"], keep_images=bool(configs)
    )
    if "captioner" in models:
        generate, seed = context.config.captioner.generate, context.config.run.seed
        caption = partial(Caption, generate, models["captioner"], seed=seed, round=node.round)
        steps += model_steps(caption, judge, sizing)
    else:
        alone = sizing.without_captioners(context.config.cluster)
        steps.append(_model_step("filter", judge, alone.filter))
    return [*steps, _write_step(_write_config(context, node, models, configs))]


def model_steps(caption: partial[Caption], judge: partial[Filter], sizing: Sizing) -> list[Step]:
    """Captioning and filtering: in processes of their own, or in the same ones, where an image is decoded
    once for both."""
    if sizing.split.fused:
        # One object for both: they are sent to a process together.
        pixels = SharedPixels()
        caption, judge = partial(caption, pixels=pixels), partial(judge, pixels=pixels)
    captioning = _model_step("caption", caption, sizing.caption)
    return [captioning, replace(_model_step("filter", judge, sizing.filter), fused=sizing.split.fused)]


def _write_config(
    context: RunContext, node: Node, models: Mapping[str, ModelSource], configs: Mapping[str, FetchConfig]
) -> WriteConfig:
    sampling = context.config.captioner.generate.sampling
    captioners = [each.digest for each in models["captioner"].members] if "captioner" in models else []
    provenance = Provenance(
        captioner=captioners[0] if captioners else None,
        other_captioners=tuple(captioners[1:]),
        filter=models["filter"].digests,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        thresholds=context.run_dir.judge_settings(node.round).numbers,
        language=context.config.filter.judge.language,
    )
    return WriteConfig(
        run_dir=context.store,
        corpus_fingerprints={source: context.fingerprints.corpus(source) for source in configs},
        round=node.round,
        round_fingerprint=context.fingerprints.of(node.name),
        provenance=provenance,
    )


def _read_step(context: RunContext, captions: frozenset[str] = frozenset()) -> Step:
    sources = context.config.sources
    read = ReadConfig(
        run_dir=context.store,
        manifests={name: source.rows for name, source in sources.items()},
        captions=captions,
        max_bytes={n: (source.fetch or context.config.fetch).max_bytes for n, source in sources.items()},
    )
    make = partial(Read, read)
    return Step(name="read", make=make, kind="read", rowwise=Unpack, isolation=ISOLATION)


def _fetch_step(configs: Mapping[str, FetchConfig], sizing: Sizing) -> Step:
    share = sizing.fetch
    return Step(
        name="fetch",
        make=partial(FetchBySource, dict(configs), share.actors),
        actors=share.actors,
        cpus=share.cpus,
        labels=share.labels,
        isolation=ISOLATION,
    )


def _model_step(name: str, make: Callable[[], Stage], share: ActorPool) -> Step:
    return Step(
        name=name, make=make, actors=share.actors, cpus=share.cpus, gpus=share.gpus, isolation=ISOLATION
    )


def _write_step(config: WriteConfig) -> Step:
    return Step(name="write", make=partial(Write, config), kind="write", rowwise=Pack, isolation=ISOLATION)


def mark_first_steps(steps: Iterable[Step]) -> list[Step]:
    """The steps, of which the reader and the first one with actors skip shards while the chain drains: small
    shards are read long before an actor works on them."""
    steps = list(steps)
    first = next((step.name for step in steps if step.actors), None)
    return [replace(step, begins=step.kind == "read" or step.name == first) for step in steps]


def stage_processes(step: Step, sizing: Sizing) -> StageProcesses:
    """How many processes of a stage can work side by side."""
    number = step.actors or max(1.0, sizing.cpus / step.cpus)
    gpus = 0.0 if step.fused else step.actors * step.gpus
    return StageProcesses(step.name, number, long_lived=step.actors > 0, gpus=gpus, fused=step.fused)
