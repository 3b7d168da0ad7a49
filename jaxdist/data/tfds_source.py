"""Examples of a prepared TFDS folder, decoded when they are asked for; TensorFlow is not needed."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np

SPLITS = ("train", "test")


class SplitSource:
    """One split of an image classification data set; used by any number of threads."""

    def __init__(self, builder: Any, split: str) -> None:
        self._builder, self._split = builder, split
        self._examples = builder.as_data_source(split=split)

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def num_classes(self) -> int:
        return self._builder.info.features["label"].num_classes

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of an image; decodes the first."""
        return self._examples[0]["image"].shape

    def decode(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(images uint8 [n, h, w, c], labels int32 [n]) of `rows`."""
        # All at once: asking for each alone opens the record file anew (738 against 214 microseconds an example).
        found = self._examples.__getitems__([int(row) for row in rows])
        return np.stack([one["image"] for one in found]), np.array([one["label"] for one in found], np.int32)

    def labels(self) -> np.ndarray:
        """int32 [n] of all examples, without decoding an image."""
        import tensorflow_datasets as tfds

        encoded = self._builder.as_data_source(split=self._split, decoders={"image": tfds.decode.SkipDecoding()})
        labels = np.empty(len(encoded), np.int32)
        for start in range(0, len(labels), 1024):
            rows = range(start, min(start + 1024, len(labels)))
            labels[rows.start : rows.stop] = [one["label"] for one in encoded.__getitems__(list(rows))]
        return labels


def open_splits(folder: str) -> dict[str, SplitSource]:
    """{name: split} of one version of a data set."""
    import tensorflow_datasets as tfds  # half a second to import, and only these sources need it

    logging.getLogger("absl").addFilter(lambda record: "OpenCV is not installed" not in record.getMessage())
    builder = tfds.builder_from_directory(folder)
    return {split: SplitSource(builder, split) for split in SPLITS}
