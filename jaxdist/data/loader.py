"""Batches from ranges of the stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

from jaxdist.data.augment import flip_and_crop_images
from jaxdist.data.dataset import Augment, Inputs, Split
from jaxdist.data.partition import PartitionedStream
from jaxdist.data.stream import ExampleStream

HostBatch = dict[str, Any]
Stream = ExampleStream | PartitionedStream


class Like(NamedTuple):
    """What an array of one example is like."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Loader:
    """Makes normalised batches of a data set's splits.

        {"inputs": {name: [b, ...]}, "target": [b, ...], "position": uint32 [b]}        of training
        {"inputs": ..., "target": ..., "mask": [b]}                                     of an evaluation
        and "weight": [b] where the examples have weights

    Args:
      means: {input: its mean}, subtracted; scales: {input: divisor after it, None where it is passed on as it is}.
      augment: what is done to training inputs, or None.
      dtype: of what is normalised; integers that are passed on are int32.
    """

    def __init__(
        self,
        *,
        means: Mapping[str, np.ndarray],
        scales: Mapping[str, float | None],
        seed: int,
        augment: Augment | bool | None = None,
        dtype: Any = np.float32,
    ) -> None:
        self._normalised = {
            name: (means[name].astype(dtype), np.asarray(1.0 / scale, dtype))
            for name, scale in scales.items()
            if scale is not None
        }
        self._seed = seed
        self._augment = flip_and_crop_images if augment is True else augment or None
        self._dtype = dtype

    def digest(self) -> str:
        """Of the statistics that batches are normalised by: each process has computed its own."""
        every = (mean.tobytes() + factor.tobytes() for mean, factor in self._normalised.values())
        return xxhash.xxh3_64(b"".join(every)).hexdigest()

    def like(self, split: Split) -> dict[str, Like]:
        """What the model is given of one example; integers stay integers."""
        inputs = self._normalise(split.take(np.array([0])))
        return {name: Like(array.shape[1:], array.dtype) for name, array in inputs.items()}

    def answer_like(self, split: Split) -> Like:
        """The same of its target."""
        target = self._answers(split, np.array([0]))["target"]
        return Like(target.shape[1:], target.dtype)

    def train_batch(self, split: Split, stream: Stream, positions: Sequence[int] | np.ndarray) -> HostBatch:
        """The examples at the positions [b] of the stream."""
        where = np.asarray(positions, np.int64)
        rows = stream.rows(where)
        inputs = self._normalise(split.take(rows))
        if self._augment is not None:
            inputs = self._augment(inputs, where, self._seed)
        return {"inputs": inputs, **self._answers(split, rows), "position": where.astype(np.uint32)}

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
        mask = (wanted < len(split)).astype(self._dtype)
        return {"inputs": self._normalise(split.take(rows)), **self._answers(split, rows), "mask": mask}

    def _answers(self, split: Split, rows: np.ndarray) -> HostBatch:
        """Target, and weight where there are weights, in the run's types."""
        target = split.target[rows]
        found: HostBatch = {"target": target.astype(self._dtype if target.dtype.kind == "f" else np.int32, copy=False)}
        if split.weights is not None:
            found["weight"] = split.weights[rows].astype(self._dtype)
        return found

    def _normalise(self, inputs: Inputs) -> Inputs:
        return {name: self._normalised_one(name, array) for name, array in inputs.items()}

    def _normalised_one(self, name: str, array: np.ndarray) -> np.ndarray:
        if name not in self._normalised:
            return array.astype(np.int32 if array.dtype.kind in "biu" else self._dtype)
        mean, factor = self._normalised[name]
        return (array.astype(self._dtype) - mean) * factor
