"""Examples of a prepared TFDS folder, decoded when they are asked for; TensorFlow is not needed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdist.errors import UsageError, nearest

TRAIN = "train"
EVALUATION = ("test", "validation")  # whichever there is, the first of them


class Chosen(NamedTuple):
    """Which features of a data set are trained on.

    Attributes:
      features: the inputs; (): the image.
      target: '': the label.
    """

    features: tuple[str, ...] = ()
    target: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.features or ("image",)

    @property
    def answer(self) -> str:
        return self.target or "label"

    def check(self, there: Sequence[str]) -> None:
        """Raises `UsageError` where one is not among the data set's features."""
        for key, names in (("data.features", self.inputs), ("data.target", (self.answer,))):
            for name in names:
                if name not in there:
                    raise UsageError(
                        f"{key}: the data set has no feature {name!r}{nearest(name, list(there))}; it has "
                        f"{', '.join(sorted(there))}."
                    )


class SplitSource:
    """One split of a data set; used by any number of threads."""

    def __init__(self, builder: Any, split: str, chosen: Chosen) -> None:
        self._builder, self._split, self._chosen = builder, split, chosen
        self._examples = builder.as_data_source(split=split)

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def num_classes(self) -> int:
        """Of the target; 0 where it is no class."""
        return getattr(self._builder.info.features[self._chosen.answer], "num_classes", None) or 0

    @functools.cached_property
    def first(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(inputs, target) of the first example, decoded."""
        one = self._examples[0]
        return {name: _there(one, name) for name in self._chosen.inputs}, self._answer(one)

    def _answer(self, example: Any) -> np.ndarray:
        value = _there(example, self._chosen.answer)
        return value.astype(np.int32) if value.dtype.kind in "iub" else value

    def decode(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """({input: array [n, ...]}, targets [n, ...]) of `rows`."""
        # All at once: asking for each alone opens the record file anew (738 against 214 microseconds an example).
        found = self._examples.__getitems__([int(row) for row in rows])
        inputs = {name: np.stack([_there(one, name) for one in found]) for name in self._chosen.inputs}
        return inputs, np.stack([self._answer(one) for one in found])

    def targets(self) -> np.ndarray:
        """[n, ...] of all examples, without decoding an input."""
        import tensorflow_datasets as tfds

        skipped = {name: tfds.decode.SkipDecoding() for name in self._chosen.inputs}
        encoded = self._builder.as_data_source(split=self._split, decoders=skipped)
        every = []
        for start in range(0, len(encoded), 1024):
            rows = range(start, min(start + 1024, len(encoded)))
            every += [self._answer(one) for one in encoded.__getitems__(list(rows))]
        return np.stack(every)


def _there(example: Any, name: str) -> np.ndarray:
    """A feature of an example. A record that is cut off has none."""
    if example[name] is None:
        raise ValueError(f"a record has no {name!r}")
    return np.asarray(example[name])


def open_splits(folder: str, chosen: Chosen) -> dict[str, SplitSource]:
    """{'train': ..., 'test': ...} of one version of a data set; its validation split, where there is no other.

    Raises:
      UsageError: it lacks a feature that is chosen, or a split.
    """
    import tensorflow_datasets as tfds  # half a second to import, and only these sources need it

    logging.getLogger("absl").addFilter(lambda record: "OpenCV is not installed" not in record.getMessage())
    builder = tfds.builder_from_directory(folder)
    chosen.check(list(builder.info.features))
    return {name: SplitSource(builder, name, chosen) for name in split_names(folder, list(builder.info.splits))}


def split_names(folder: str, there: Sequence[str]) -> tuple[str, str]:
    """(what is trained on, what is evaluated).

    Raises:
      UsageError: one is not there.
    """
    evaluation = next((name for name in EVALUATION if name in there), "")
    if TRAIN not in there or not evaluation:
        raise UsageError(
            f"The data set in {folder} has the splits {', '.join(there)}; a run needs {TRAIN!r} and one of "
            f"{', '.join(EVALUATION)}."
        )
    return TRAIN, evaluation
