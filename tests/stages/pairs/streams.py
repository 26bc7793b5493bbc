"""Streams of pairs whose tables are made in this process."""

from itertools import islice

import pyarrow as pa

from capfilt.stages.pairs.draw import DrawConfig
from capfilt.stages.pairs.order import Position
from capfilt.stages.pairs.samples import Division, PairUnpacking, SampleSource
from capfilt.stages.pairs.stream import SampleStream, StreamConfig
from tests.local_feed import LocalWindow


def source_of(read, draw):
    """A source of pairs: `read` makes the tables of {"source", "shard", …}."""

    def make_reader(store):
        return lambda batch: pa.concat_tables(list(read(batch.to_pylist())))

    return SampleSource(name="training", run_dir=None, make_reader=make_reader, unpack=PairUnpacking(draw))


def make_stream(shards, read, *, rank=0, request=None, draw=None, **config):
    """One worker's stream; with the defaults all samples, one per batch."""
    division = {name: config.pop(name, 1) for name in ("batch_size", "pieces", "workers")}
    config = StreamConfig(**{"seed": 0, "window_shards": 2} | config, division=Division(**division))
    draw = draw or DrawConfig(seed=config.seed)
    return SampleStream(
        shards, source_of(read, draw), request or (lambda window: LocalWindow(window, rank)), config
    )


def read_pairs(shards, read, *, count=None, epochs=None, position=None, **options):
    """(pair, position after it) of the first `count` samples, or of so many epochs from the first one on."""
    batches = make_stream(shards, read, **options).batches(position or Position())
    found = []
    for batch in islice(batches, count):
        if epochs is not None and batch.position.epoch >= epochs:
            break
        found.append((batch.samples[0], batch.position))
    return found
