"""Where data sets come from: TFDS directories, scikit-learn's digits, what is made up, a function of the user's."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.data import land_cover, number_words, redshift
from jaxdist.data.dataset import Dataset, Split
from jaxdist.data.tfds_reader import TFDS_NAMES, prepared_names, read_tfds
from jaxdist.data.tfds_source import Chosen
from jaxdist.dotted import function_of
from jaxdist.errors import UsageError, nearest


def load(
    name: str,
    *,
    data_dir: str = "",
    cache: str = "file",
    workers: int = 0,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    features: Sequence[str] = (),
    target: str = "",
    decoding: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Dataset:
    """Loads a data set.

    Args:
      name: one of `NAMES`, another prepared TFDS data set ('NAME' or 'NAME/CONFIG'), or 'package.module:function' for a
        function `f(**options) -> Dataset` of the user's.
      data_dir: TFDS directory; default $TFDS_DATA_DIR, then ~/tensorflow_datasets.
      cache: for TFDS: 'memory', 'file' (decoded once, mapped from a file beside the data) or 'none'.
      workers: for TFDS: processes that decode beside this one.
      seed: for `synthetic` alone.
      options: keyword arguments of `synthetic` and of a user's function.
      features, target: which features of a TFDS data set are trained on; (): its image, '': its label.
      decoding: opened around what decodes the whole of a split.

    Raises:
      UsageError: unknown name, or data that are missing, incomplete or damaged (with the remedy).
    """
    options = dict(options or {})
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    ours = _EMBEDDED | _PREPARED
    if name in ours or ":" in name:
        if features or target:
            raise UsageError(f"data.features and data.target are for TFDS data sets, and data.name={name!r} is none.")
        if ":" in name:
            return _of_function(name, options)
        make = functools.partial(_PREPARED[name], root) if name in _PREPARED else _EMBEDDED[name]
        return _made(name, make, seed, options)
    if name not in TFDS_NAMES and "/" not in name and not (root / name).is_dir():
        there = [*NAMES, *prepared_names(root)]
        raise UsageError(
            f"data.name={name!r} is not known{nearest(name, there)}; one of {', '.join(NAMES)}, a TFDS data set that "
            f"`python tools/prepare_data.py {name} --data_dir={root}` has prepared, or 'package.module:function'."
        )
    return read_tfds(name, root, cache, workers, decoding, Chosen(tuple(features), target))


def _of_function(name: str, options: dict[str, Any]) -> Dataset:
    try:
        loader = function_of(name, "data.name")
    except ValueError as e:
        raise UsageError(str(e)) from e
    dataset = loader(**options)
    if not isinstance(dataset, Dataset):
        raise UsageError(f"data.name={name!r} returned {type(dataset).__name__}, not a jaxdist.data.Dataset.")
    return dataset


def _made(name: str, make: Callable[..., Dataset], seed: int, options: dict[str, Any]) -> Dataset:
    try:
        return make(seed=seed, **options)
    except (TypeError, ValueError) as e:
        raise UsageError(f"data.options does not fit data.name={name!r}: {e}.") from e


def _digits(*, seed: int) -> Dataset:
    """1,797 real handwritten digits, 8x8 (UCI 'Optical recognition of handwritten digits', test part).

    Every fifth is for evaluation: 1,437 training and 360 evaluation examples, the same in every run.
    """
    del seed
    from sklearn.datasets import load_digits  # a second to import, and only this source needs it

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    held = np.arange(len(labels)) % 5 == 4
    held[-1] = True
    return Dataset("digits", Split(images[~held], labels[~held]), Split(images[held], labels[held]), 10)


def _synthetic(
    *,
    seed: int,
    num_train: int = 512,
    num_eval: int = 128,
    shape: tuple[int, ...] = (16, 16, 1),
    num_classes: int = 10,
    noise: float = 40.0,
) -> Dataset:
    """8-bit images, one random pattern a class plus noise: learnable, of any size, made from the seed."""
    rng = np.random.default_rng([seed, 7])
    patterns = rng.uniform(64, 192, size=(num_classes, *shape))

    def split(n: int) -> Split:
        labels = rng.integers(num_classes, size=n).astype(np.int32)
        images = patterns[labels] + rng.normal(0, noise, size=(n, *shape))
        return Split(np.clip(np.rint(images), 0, 255).astype(np.uint8), labels)

    return Dataset("synthetic", split(num_train), split(num_eval), num_classes)


def import_reader(name: str) -> None:
    """Imports what reads a data set, before anything of this process answers calls.

    While TFDS is imported, it replaces Python's `__import__` for all threads, and a gRPC server, which imports in every
    call, then fails to answer.
    """
    if name not in _EMBEDDED | _PREPARED and ":" not in name:
        import tensorflow_datasets as tfds

        tfds.builder_from_directory  # noqa: B018 - its modules come with their first use


_EMBEDDED: dict[str, Callable[..., Dataset]] = {
    "digits": _digits,
    "synthetic": _synthetic,
    "number_words": number_words.load,
    "synthetic_pair": land_cover.synthetic_pair,
}
_PREPARED: dict[str, Callable[..., Dataset]] = {  # from files of `tools/prepare_data.py`
    "redshift": redshift.load,
    "landsat": land_cover.landsat,
}
NAMES = (*TFDS_NAMES, *_PREPARED, *_EMBEDDED)
