"""The order in which trainings of version 0.1 have read their pairs, which half-done trainings resume."""

from itertools import islice

import numpy as np

from capfilt.stages.pairs.draw import DrawConfig, draw_texts


class FormerStream:
    """Every worker read this whole stream, and took its slice of each global batch.

    Args:
        shards: `ShardRef`s.
        read: {"source", "shard", …} of shards -> their tables.
        batch_size, pieces: of the training.
    """

    def __init__(self, shards, read, *, seed=0, window_shards=2, batch_size=1, pieces=1, draw=None):
        self.shards = sorted(shards, key=lambda ref: (ref.source, ref.shard))
        self.read, self.seed, self.window_shards = read, seed, window_shards
        self.batch_size, self.pieces = batch_size, pieces
        self.draw = draw or DrawConfig(seed=seed)

    def samples(self, epochs):
        """((row, text), (epoch, window, offset after it)) of each pair."""
        for epoch in range(epochs):
            used = [ref for ref in self.shards if ref.is_in_epoch(epoch)]
            order = self._rng(epoch, -1).permutation(len(used))
            for window in range(-(-len(used) // self.window_shards)):
                chosen = order[window * self.window_shards : (window + 1) * self.window_shards]
                refs = [used[i] for i in chosen]
                if len(self.shards) <= self.window_shards:
                    refs = used
                tables = self.read([vars(ref) for ref in refs])
                pairs = [pair for table in tables for pair in draw_texts(table.to_pylist(), epoch, self.draw)]
                for offset, number in enumerate(self._rng(epoch, window).permutation(len(pairs))):
                    yield pairs[number], (epoch, window, offset + 1)

    def batches(self, epochs):
        """(texts, position after them) of each whole global batch."""
        samples = self.samples(epochs)
        while len(batch := list(islice(samples, self.batch_size))) == self.batch_size:
            yield [text for (_, text), _ in batch], batch[-1][1]

    def texts_of(self, batch, rank, workers):
        """The texts of one worker in a global batch, piece by piece."""
        size = self.batch_size // (self.pieces * workers)
        firsts = [(number * workers + rank) * size for number in range(self.pieces)]
        return [text for first in firsts for text in batch[first : first + size]]

    def _rng(self, epoch, window):
        return np.random.default_rng([self.seed, epoch, window + 1])
