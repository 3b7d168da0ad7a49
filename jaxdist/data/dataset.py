"""A data set in memory (or mapped from a file): what every source returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import xxhash


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of one split.

    Attributes:
      images: [n, ...], any numeric dtype; `None` where examples are decoded one at a time by `read`.
      labels: int32 [n].
      read: row -> image; for sources that keep nothing (data.cache = 'none'). Called from `data.workers` threads.
      read_many: rows int64 [n] -> images [n, ...], in place of `read` where several at once cost less.
    """

    images: np.ndarray | None
    labels: np.ndarray
    read: Callable[[int], np.ndarray] | None = None
    read_many: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Images of `rows`, stacked: a fresh array."""
        if self.images is not None:
            return self.images[rows]
        if self.read_many is not None:
            return self.read_many(rows)
        assert self.read is not None
        return np.stack([self.read(int(row)) for row in rows])

    def select(self, start: int, stop: int) -> Split:
        """Rows [start, stop) as a split of its own, without copying the images."""
        images = None if self.images is None else self.images[start:stop]
        read, many = self.read, self.read_many
        one = None if read is None else lambda row: read(start + row)
        several = None if many is None else lambda rows: many(start + np.asarray(rows))
        return Split(images, self.labels[start:stop], one, several)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and evaluation examples of a classification problem.

    Attributes:
      scale: images are divided by this after the training set's mean was subtracted (255 for 8-bit images).
      close: ends what its splits read with; nothing can be read of them after it.
    """

    name: str
    train: Split
    evaluation: Split
    num_classes: int
    scale: float = 255.0
    close: Callable[[], None] = lambda: None

    @property
    def example_shape(self) -> tuple[int, ...]:
        return tuple(self.train.take(np.array([0])).shape[1:])

    def fingerprint(self) -> str:
        """Digest of all images and labels, equal on processes that hold the same data. Reads all of it."""
        return "-".join(scan(split)[1] for split in (self.train, self.evaluation))


def scan(split: Split, chunk: int = 1024) -> tuple[np.ndarray, str]:
    """(per-pixel mean of the images, float32 [...]; digest of images and labels); one pass, in chunks."""
    total, digest = None, xxhash.xxh3_128(np.ascontiguousarray(split.labels, dtype="<i4").tobytes())
    for start in range(0, len(split), chunk):
        images = np.ascontiguousarray(split.take(np.arange(start, min(start + chunk, len(split)))))
        if total is None:
            digest.update(f"{images.dtype} {images.shape[1:]}".encode())
        digest.update(images.reshape(-1).view(np.uint8).data)
        part = images.sum(axis=0, dtype=np.float64)
        total = part if total is None else total + part
    assert total is not None
    return (total / len(split)).astype(np.float32), digest.hexdigest()[:16]


def mean_image(split: Split, chunk: int = 1024) -> np.ndarray:
    """Per-pixel mean of the images, float32 [...]; one pass, in chunks."""
    return scan(split, chunk)[0]
