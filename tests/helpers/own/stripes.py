"""A data set, as somebody would add it: a function that returns a `Dataset`. Touches nothing."""

from __future__ import annotations

import numpy as np

from jaxdist.data import Dataset, Split


def build(*, num_train: int = 96, num_eval: int = 24) -> Dataset:
    """Images of one bright row, whose number is the label."""

    def split(count: int) -> Split:
        labels = (np.arange(count) * 5 % 8).astype(np.int32)
        images = np.random.default_rng(count).integers(0, 60, (count, 8, 8, 1)).astype(np.uint8)
        images[np.arange(count), labels] += 150
        return Split(images, labels)

    return Dataset("stripes", split(num_train), split(num_eval), 8)
