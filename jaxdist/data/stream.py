"""The one deterministic stream of training examples, the same for any number of processes.

    epoch 0                epoch 1                epoch 2
    |--- permutation 0 ---|--- permutation 1 ---|--- ...
    0                     n                     2n            position in the stream

A batch is a set of positions and may cross an epoch's end. Which process reads which ones is the strategy's affair.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


class ExampleStream:
    """Maps positions in the stream to rows of the training set, or of a worker's own part of it."""

    def __init__(self, num_examples: int, seed: int, worker: int | None = None) -> None:
        def permutation(epoch: int) -> np.ndarray:
            words = [seed, epoch] if worker is None else [seed, worker, epoch, 23]
            return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words))).permutation(num_examples)

        self.num_examples = self.examples_per_epoch = num_examples
        self._permutation = lru_cache(maxsize=2)(permutation)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows at `positions` (int64 [b]): int64 [b]."""
        epochs, offsets = np.divmod(positions, self.num_examples)
        rows = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._permutation(int(epoch))[offsets[here]]
        return rows
