"""How much every node of a run has to do: rows, steps, images and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.estimate.measured import Machines, MeasuredNode, SourceSize
from capfilt.pipeline.estimate.spans import Span
from capfilt.pipeline.node import Node

if TYPE_CHECKING:
    from capfilt.cluster.sizing import Sizing

NORMAL_QUANTILE = 1.96
"""Factor of a two-sided 95 % interval by the normal distribution."""
ON_KEPT_TEXTS = ("pretrain", "filter_only", "web_repeated", "itc_top")
"""Kinds of training on what a filter has kept, from round 1 on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The run, and the machines of the small run and of the run."""

    config: Config
    nodes: Mapping[str, Node]
    probe: Mapping[str, MeasuredNode]
    """Nodes of the small run, which has at most one round."""
    sources: Mapping[str, SourceSize]
    probed_on: Machines
    planned_on: Machines
    sizing: Sizing
    """How the planned machines are divided."""
    unknown_stages: frozenset[str] = field(default_factory=frozenset)
    """Stages that the small run could not measure."""

    def measured(self, node: Node) -> MeasuredNode | None:
        """The node of the small run that stands for this one: that of the first round for every later one."""
        name = f"{node.kind.name}.{min(1, node.round)}"
        return self.probe.get(node.name) or self.probe.get(name)


def planned_steps(setting: Setting, node: Node, measured: MeasuredNode) -> Span:
    """Optimizer steps of a training: those of the config, or of its epochs over as many pairs as there will
    be."""
    train = setting.config.training(node.kind.trains)
    if train.steps is not None:
        return Span(train.steps)
    pairs = _planned_pairs(setting, node, measured)
    epochs = train.epochs or 1
    steps = max(1.0, round(epochs * max(1, round(pairs.value) // train.batch_size)))
    return Span(steps, epochs * pairs.error / train.batch_size)


def _planned_pairs(setting: Setting, node: Node, measured: MeasuredNode) -> Span:
    """Pairs of an epoch.

    Those of human sources are counted. Those of web sources grow like their rows, with the error of a number
    that was counted in a sample. A filter that the run itself trains has hardly been trained in the small
    run, so what it will keep is not known: anything from nothing to all texts, and half of them is assumed.
    """
    config, sources = setting.config, setting.sources
    kinds = {name: config.sources[name].kind for name in config.trains_on(node.kind.trains)}
    human = [sources[name] for name, kind in kinds.items() if kind == "human"]
    web = [name for name, kind in kinds.items() if kind == "web"]
    counted = Span(sum(size.probed_texts * size.growth for size in human))
    if not web:
        return counted
    # An epoch reads one of the parts of a source.
    read = {name: sources[name].growth / config.sources[name].parts for name in web}
    if node.round > 0 and node.kind.name in ON_KEPT_TEXTS and config.filter.checkpoint is None:
        written = config.captioner.generate.captions_per_image if config.captions_itself else 0
        written = 0 if node.kind.name != "pretrain" else written
        texts = sum(
            read[name] * (sources[name].probed_texts + written * sources[name].probed_images) for name in web
        )
        return counted + Span(texts / 2, texts / 2)
    found = max(0, measured.pairs - sum(size.probed_texts for size in human))
    growth = sum(read[name] * sources[name].probed_rows for name in web)
    growth /= max(1, sum(sources[name].probed_rows for name in web))
    return counted + Span(found * growth, NORMAL_QUANTILE * math.sqrt(found) * growth)


def planned_units(setting: Setting, node: Node, measured: MeasuredNode) -> float | None:
    """Images or texts of a node with other parts; None where nothing is counted."""
    config, kind = setting.config, node.kind.name
    if kind == "evaluate":
        names = config.of_kind("test")
        images = sum(s.probed_images * s.growth for s in (setting.sources[name] for name in names))
        return min(images, config.evaluate.limit or images)
    if kind == "calibrate":
        names = config.of_kind("web")
        texts = sum(s.probed_texts * s.growth for s in (setting.sources[name] for name in names))
        held_out = config.held_out_for(node.round) or 1.0
        return min(config.filter.calibrate.pairs, texts * held_out)
    if kind == "export" and measured.units:
        web = [setting.sources[name] for name in config.of_kind("web")]
        return measured.units * sum(s.rows for s in web) / max(1, sum(s.probed_rows for s in web))
    return None
