"""Batches from ranges of the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xxhash

from jaxdist.data.augment import flip_and_crop
from jaxdist.data.dataset import Split
from jaxdist.data.stream import ExampleStream

HostBatch = dict[str, np.ndarray]


class Loader:
    """Makes normalised batches of a data set's splits.

    Args:
      mean: per-pixel mean, subtracted; scale: divisor after it.
      augment: random flip and crop of training images ([h, w, c]).
      dtype: of the images handed out.
    """

    def __init__(self, *, mean: np.ndarray, scale: float, seed: int, augment: bool, dtype: Any = np.float32) -> None:
        self._mean = mean.astype(dtype)
        self._factor = np.asarray(1.0 / scale, dtype)
        self._seed = seed
        self._augment = augment
        self._dtype = dtype

    def digest(self) -> str:
        """Of the statistics that batches are normalised by: each process has computed its own."""
        return xxhash.xxh3_64(self._mean.tobytes() + self._factor.tobytes()).hexdigest()

    def train_batch(self, split: Split, stream: ExampleStream, positions: Sequence[int] | np.ndarray) -> HostBatch:
        """image [b, ...], label int32 [b], position uint32 [b] of the positions [b] of the stream."""
        where = np.asarray(positions, np.int64)
        rows = stream.rows(where)
        image = self._normalise(split.take(rows))
        if self._augment:
            image = flip_and_crop(image, where, self._seed)
        return {"image": image, "label": split.labels[rows], "position": where.astype(np.uint32)}

    def eval_batches(self, split: Split, batch_size: int, part: int, parts: int) -> Iterator[HostBatch]:
        """Part `part` of `parts` of each batch of `batch_size`, in order, padded with mask 0 to equal shapes.

        Every part yields the same number of batches; `batch_size` is a multiple of `parts`.
        """
        for start in range(0, len(split), batch_size):
            yield self.eval_batch(split, start, batch_size, part, parts)

    def eval_batch(self, split: Split, start: int, batch_size: int, part: int, parts: int) -> HostBatch:
        """The one of `eval_batches` that begins at row `start`; called from any thread."""
        share = batch_size // parts
        wanted = np.arange(start + part * share, start + (part + 1) * share)
        rows = np.minimum(wanted, len(split) - 1)
        return {
            "image": self._normalise(split.take(rows)),
            "label": split.labels[rows],
            "mask": (wanted < len(split)).astype(self._dtype),
        }

    def _normalise(self, images: np.ndarray) -> np.ndarray:
        return (images.astype(self._dtype) - self._mean) * self._factor
