"""A data set in memory (or mapped from files): what every source returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash

Inputs = dict[str, np.ndarray]

IMAGE = "image"  # the name of an input that is given without one


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of one split.

        Split(images, labels)                                       one input, called 'image'
        Split({"spectrum": s, "noise": n}, redshift)                several
        Split(None, labels, read=decode)                            decoded one at a time

    Attributes:
      inputs: {name: array [n, ...]} of any numeric dtypes, or one such array; `None` where examples are decoded one at
        a time by `read`. Arrays may be mapped from files.
      target: [n, ...] of any shape and dtype that the objective takes: int [n] for classes.
      read: row -> inputs of one example; for sources that keep nothing. Called from `data.workers` threads.
      read_many: rows int64 [n] -> inputs [n, ...], in place of `read` where several at once cost less.
      weights: [n], by which each example's loss is multiplied; None: all by 1.
    """

    inputs: Any
    target: np.ndarray
    read: Callable[[int], Any] | None = None
    read_many: Callable[[np.ndarray], Any] | None = None
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.inputs is not None:
            object.__setattr__(self, "inputs", named(self.inputs))

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: np.ndarray) -> Inputs:
        """Inputs of `rows`, stacked: fresh arrays."""
        if self.inputs is not None:
            return {name: array[rows] for name, array in self.inputs.items()}
        if self.read_many is not None:
            return named(self.read_many(rows))
        assert self.read is not None
        every = [named(self.read(int(row))) for row in rows]
        return {name: np.stack([one[name] for one in every]) for name in every[0]}

    def select(self, start: int, stop: int) -> Split:
        """Rows [start, stop) as a split of its own, without copying the inputs."""
        inputs = None if self.inputs is None else {name: a[start:stop] for name, a in self.inputs.items()}
        read, many = self.read, self.read_many
        one = None if read is None else lambda row: read(start + row)
        several = None if many is None else lambda rows: many(start + np.asarray(rows))
        weights = None if self.weights is None else self.weights[start:stop]
        return Split(inputs, self.target[start:stop], one, several, weights)


def named(inputs: Any) -> dict[str, Any]:
    """{name: array}; an array without a name is an image."""
    return dict(inputs) if isinstance(inputs, Mapping) else {IMAGE: inputs}


Augment = Callable[[Inputs, np.ndarray, int], Inputs]
"""(normalised inputs [n, ...], positions in the stream int64 [n], seed) -> inputs of the same shapes.

What it does to an example may depend on the example, its position and the seed alone, so that every strategy trains on
the same ones."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and evaluation examples.

    Attributes:
      num_classes: of a classification; 0 where targets are no classes.
      scale: inputs are divided by this after the training set's mean was subtracted: a number for all, or one for each
        by name, None for an input that is passed on as it is (tokens, masks). By default 255 for 8-bit images and 1 for
        floating-point numbers; other integers need to be told.
      close: ends what its splits read with; nothing can be read of them after it.
      augment: what data.augment does to training examples in place of flipping and cropping images.
    """

    name: str
    train: Split
    evaluation: Split
    num_classes: int = 0
    scale: float | Mapping[str, float | None] | None = None
    close: Callable[[], None] = lambda: None
    augment: Augment | None = None

    @property
    def example_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs, by name."""
        return {name: tuple(array.shape[1:]) for name, array in self.train.take(np.array([0])).items()}

    def fingerprint(self) -> str:
        """Digest of all inputs and targets, equal on processes that hold the same data. Reads all of it."""
        return "-".join(scan(split)[1] for split in (self.train, self.evaluation))


def scan(split: Split, chunk: int = 1024) -> tuple[Inputs, str]:
    """({input: its mean over the examples, float32 [...]}; digest of inputs, target and weights); in one pass."""
    targets = split.target.astype("<i4") if split.target.dtype == np.int32 else split.target
    digest = xxhash.xxh3_128(np.ascontiguousarray(targets).tobytes())
    if targets.dtype != np.int32 or targets.ndim > 1:
        digest.update(f"{targets.dtype} {targets.shape[1:]}".encode())
    if split.weights is not None:
        digest.update(b"weights" + np.ascontiguousarray(split.weights).tobytes())
    totals: dict[str, np.ndarray] = {}
    for start in range(0, len(split), chunk):
        for name, array in split.take(np.arange(start, min(start + chunk, len(split)))).items():
            array = np.ascontiguousarray(array)
            if name not in totals:
                digest.update(f"{'' if name == IMAGE else name + ' '}{array.dtype} {array.shape[1:]}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
            part = array.sum(axis=0, dtype=np.float64)
            totals[name] = totals[name] + part if name in totals else part
    return {name: (total / len(split)).astype(np.float32) for name, total in totals.items()}, digest.hexdigest()[:16]


def mean_of(split: Split, chunk: int = 1024) -> Inputs:
    """{input: its mean over the examples, float32 [...]}; one pass, in chunks."""
    return scan(split, chunk)[0]
