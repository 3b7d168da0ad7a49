"""What a data set must be, whoever made it: checked once, before training, for every strategy and role."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdist.data.dataset import IMAGE, Dataset, Split
from jaxdist.data.targets import CheckTarget, check_finite, class_labels, words_of
from jaxdist.errors import UsageError

_CHUNK = 64 * 2**20  # bytes of inputs looked at at a time


def checked(dataset: Dataset, check_target: CheckTarget = class_labels) -> Dataset:
    """The data set with NumPy arrays, and targets of the type that training takes. Reads every input that has floats.

    Raises:
      UsageError: one sentence with the place, what was expected, what was found and the remedy.
    """
    for what in ("train", "evaluation"):
        if not isinstance(getattr(dataset, what), Split):
            raise _refusal(dataset, what, f"is a {_kind(getattr(dataset, what))}, not a jaxdist.data.Split")
    if not _is_number(dataset.num_classes, np.integer) or dataset.num_classes < 0:
        raise UsageError(
            f"The data set {dataset.name!r} has num_classes={dataset.num_classes!r}: it must be 1 or more, or 0 where "
            "targets are no classes."
        )
    if dataset.augment is not None and not callable(dataset.augment):
        raise UsageError(f"The data set {dataset.name!r} has augment={dataset.augment!r:.80}: it must be a function.")
    train, evaluation = (_checked_split(dataset, what, check_target) for what in ("train", "evaluation"))
    shapes = [_shapes(dataset, what, split) for what, split in (("train", train), ("evaluation", evaluation))]
    if shapes[0] != shapes[1]:
        names = sorted(shapes[0].keys() ^ shapes[1].keys())
        if names:
            raise _refusal(dataset, "evaluation", f"has the inputs {_list(shapes[1])}, and train {_list(shapes[0])}")
        name = next(name for name in shapes[0] if shapes[0][name] != shapes[1][name])
        words = f"has {_plural(name)} {words_of(shapes[1][name])}, and train has {words_of(shapes[0][name])}"
        raise _refusal(dataset, "evaluation", f"{words}: make them equal")
    if train.target.shape[1:] != evaluation.target.shape[1:]:
        words = f"has targets {words_of(evaluation.target.shape[1:])}, and train has {words_of(train.target.shape[1:])}"
        raise _refusal(dataset, "evaluation", f"{words}: make them equal")
    made = dataclasses.replace(dataset, train=train, evaluation=evaluation)
    return dataclasses.replace(made, scale=scales_of(made))


def scales_of(dataset: Dataset) -> dict[str, float | None]:
    """{input: what it is divided by, None where it is passed on as it is}.

    Raises:
      UsageError: it cannot be told, or is no number to divide by.
    """
    example = dataset.train.take(np.array([0]))
    given = dataset.scale
    if isinstance(given, Mapping) and (unknown := sorted(given.keys() - example.keys())):
        raise UsageError(
            f"The data set {dataset.name!r} has a scale for {unknown[0]!r}, and no such input: {_list(example)}."
        )
    found: dict[str, float | None] = {}
    for name, array in example.items():
        if isinstance(given, Mapping) and name in given:
            scale = given[name]
        elif given is not None and not isinstance(given, Mapping):
            scale = given
        elif array.dtype == np.uint8:
            scale = 255.0
        elif array.dtype.kind in "fb" or array.dtype.name == "bfloat16":
            scale = 1.0
        else:
            raise UsageError(
                f"The data set {dataset.name!r} has {array.dtype} in its input {name!r}, and no scale for it: give "
                f"Dataset(..., scale={{{name!r}: None}}) for tokens, which are passed on as they are, or the number "
                "to divide by."
            )
        if scale is not None and (not _is_number(scale, np.number) or not math.isfinite(scale) or scale == 0):
            raise UsageError(f"The data set {dataset.name!r} has scale={scale!r}: {_plural(name)} are divided by it.")
        found[name] = None if scale is None else float(scale)
    return found


def _checked_split(dataset: Dataset, what: str, check_target: CheckTarget) -> Split:
    split = getattr(dataset, what)
    target = _array(dataset, what, "targets", split.target)
    if not target.ndim or not len(target):
        raise _refusal(dataset, what, "has no examples: give it at least one")
    if split.inputs is None and not callable(split.read) and not callable(split.read_many):
        raise _refusal(dataset, what, "has neither inputs nor a function read(row)")
    inputs = split.inputs
    if inputs is not None:
        inputs = {name: _array(dataset, what, _plural(name), array) for name, array in inputs.items()}
        for name, array in inputs.items():
            if array.ndim < 1 or len(array) != len(target):
                count = len(array) if array.ndim else 0
                raise _refusal(dataset, what, f"has {count} {_plural(name)} and {len(target)} targets")
    weights = split.weights
    if weights is not None:
        weights = _array(dataset, what, "weights", weights)
        if weights.shape != (len(target),) or weights.dtype.kind not in "biuf":
            words = f"has weights {words_of(weights.shape)} of {weights.dtype}, and {len(target)} examples"
            raise _refusal(dataset, what, f"{words}: give one number an example")
        _finite(dataset, what, "weights", weights)
        if (weights < 0).any():
            raise _refusal(dataset, what, f"has the weight {weights.min()} at example {int(weights.argmin())}: below 0")
    target = check_target(f"The targets of {what} of the data set {dataset.name!r}", target, dataset.num_classes)
    split = dataclasses.replace(split, inputs=inputs, target=target, weights=weights)
    for name, example in _example(dataset, what, split).items():
        if not isinstance(name, str) or not name or "/" in name:
            raise _refusal(dataset, what, f"has an input called {name!r}: names are words without '/'")
        if 0 in example.shape or (name == IMAGE and not example.shape):
            words = "each must have at least one dimension and no empty one"
            raise _refusal(dataset, what, f"has {_plural(name)} {words_of(example.shape)}; {words}")
        if example.dtype.kind not in "biuf" and example.dtype.name != "bfloat16":
            words = f"has {_plural(name)} of type {example.dtype}; they must be numbers, as uint8 or float32"
            raise _refusal(dataset, what, words)
    for name, array in (inputs or {}).items():
        rows = max(1, _CHUNK // max(array[:1].nbytes, 1))
        for start in range(0, len(array) if array.dtype.kind not in "biu" else 0, rows):
            _finite(dataset, what, _plural(name), array[start : start + rows], start)
    return split


def _finite(dataset: Dataset, what: str, name: str, array: np.ndarray, start: int = 0) -> None:
    check_finite(f"The {name} of {what} of the data set {dataset.name!r}", array, start)


def _example(dataset: Dataset, what: str, split: Split) -> dict[str, np.ndarray]:
    """Inputs of the first example."""
    try:
        found = split.take(np.array([0]))
        if not found:
            raise ValueError("it has no inputs")
        return {name: np.asarray(array[0]) for name, array in found.items()}
    except Exception as e:  # a function of the user's raises what it likes
        raise _refusal(dataset, what, f"cannot be read at example 0: {type(e).__name__}: {e}") from e


def _shapes(dataset: Dataset, what: str, split: Split) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in _example(dataset, what, split).items()}


def _array(dataset: Dataset, what: str, name: str, value: Any) -> np.ndarray:
    if isinstance(value, list | tuple) or not hasattr(value, "__array__"):
        raise _refusal(dataset, what, f"has {name} that are a {_kind(value)}, not a NumPy array: use np.asarray")
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def _plural(name: str) -> str:
    return "images" if name == IMAGE else f"inputs {name!r}"


def _list(named: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, named))


def _is_number(value: Any, kind: type) -> bool:
    return not isinstance(value, bool) and bool(np.issubdtype(type(value), kind))


def _kind(value: Any) -> str:
    return type(value).__name__


def _refusal(dataset: Dataset, what: str, words: str) -> UsageError:
    return UsageError(f"The split {what!r} of the data set {dataset.name!r} {words}.")
