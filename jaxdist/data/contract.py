"""What a data set must be, whoever made it: checked once, before training, for every strategy and role."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdist.data.dataset import Dataset, Split
from jaxdist.errors import UsageError

_CHUNK = 64 * 2**20  # bytes of images looked at at a time

CheckLabels = Callable[[str, np.ndarray, int], np.ndarray]
"""(what they are, labels, number of classes) -> the labels as they are trained on; raises `UsageError`.

What labels may be is for what is trained to say: this room has `class_labels` for classification."""


def checked(dataset: Dataset, check_labels: CheckLabels | None = None) -> Dataset:
    """The data set with NumPy arrays and labels of the type that training takes. Reads every image that has floats.

    Raises:
      UsageError: one sentence with the place, what was expected, what was found and the remedy.
    """
    check_labels = check_labels or class_labels
    for what in ("train", "evaluation"):
        if not isinstance(getattr(dataset, what), Split):
            raise _refusal(dataset, what, f"is a {_kind(getattr(dataset, what))}, not a jaxdist.data.Split")
    if not _is_number(dataset.num_classes, np.integer) or dataset.num_classes < 1:
        raise UsageError(
            f"The data set {dataset.name!r} has num_classes={dataset.num_classes!r}: it must be 1 or more."
        )
    if not _is_number(dataset.scale, np.number) or not math.isfinite(dataset.scale) or dataset.scale == 0:
        raise UsageError(f"The data set {dataset.name!r} has scale={dataset.scale!r}: images are divided by it.")
    train, evaluation = (_checked_split(dataset, what, check_labels) for what in ("train", "evaluation"))
    shapes = [_example(dataset, what, split).shape for what, split in (("train", train), ("evaluation", evaluation))]
    if shapes[0] != shapes[1]:
        raise _refusal(
            dataset, "evaluation", f"has images {_words(shapes[1])}, and train has {_words(shapes[0])}: make them equal"
        )
    return dataclasses.replace(dataset, train=train, evaluation=evaluation)


def class_labels(what: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels of a classification, int32 [n], each from 0 to num_classes - 1."""
    if labels.ndim != 1:
        remedy = "use labels.argmax(axis=1)" if labels.shape[1:] == (num_classes,) else "use labels.reshape(-1)"
        if labels.ndim == 0 or math.prod(labels.shape[1:]) not in (1, num_classes):
            remedy = "give one class number an example"
        raise UsageError(
            f"{what} are an array {_words(labels.shape)}; they must be [n], one class number each: {remedy}."
        )
    if labels.dtype.kind not in "biu":
        raise UsageError(
            f"{what} are {labels.dtype}; they must be integers from 0 to {num_classes - 1}: convert class numbers by "
            "labels.astype(np.int32)."
        )
    wide = labels.astype(np.int64) if labels.dtype != np.uint64 else np.minimum(labels, 2**62).astype(np.int64)
    wrong = np.flatnonzero((wide < 0) | (wide >= num_classes))
    if len(wrong):
        low, high = int(wide.min()), int(wide.max())
        from_one = low == 1 and high == num_classes
        remedy = "they seem to begin at 1: subtract 1" if from_one else "correct them, or num_classes"
        raise UsageError(
            f"{what} must be 0 to {num_classes - 1} (num_classes={num_classes}), and {len(wrong)} of {len(labels)} are "
            f"not: number {wrong[0]} is {labels[wrong[0]]}, the least is {low}, the greatest {high}; {remedy}."
        )
    return labels.astype(np.int32)


def _checked_split(dataset: Dataset, what: str, check_labels: CheckLabels) -> Split:
    split = getattr(dataset, what)
    labels = _array(dataset, what, "labels", split.labels)
    if not labels.ndim or not len(labels):
        raise _refusal(dataset, what, "has no examples: give it at least one")
    if split.images is None and not callable(split.read) and not callable(split.read_many):
        raise _refusal(dataset, what, "has neither images nor a function read(row)")
    images = split.images
    if images is not None:
        images = _array(dataset, what, "images", images)
        if images.ndim < 1 or len(images) != len(labels):
            raise _refusal(dataset, what, f"has {len(images) if images.ndim else 0} images and {len(labels)} labels")
    labels = check_labels(f"The labels of {what} of the data set {dataset.name!r}", labels, dataset.num_classes)
    split = dataclasses.replace(split, images=images, labels=labels)
    example = _example(dataset, what, split)
    if not example.shape or 0 in example.shape:
        raise _refusal(
            dataset, what, f"has images {_words(example.shape)}; each must have at least one dimension and no empty one"
        )
    if example.dtype.kind not in "biuf" and example.dtype.name != "bfloat16":
        raise _refusal(dataset, what, f"has images of type {example.dtype}; they must be numbers, as uint8 or float32")
    if images is not None and images.dtype.kind not in "biu":
        _check_finite(dataset, what, images)
    return split


def _check_finite(dataset: Dataset, what: str, images: np.ndarray) -> None:
    rows = max(1, _CHUNK // max(images[:1].nbytes, 1))
    for start in range(0, len(images), rows):
        good = np.abs(images[start : start + rows]) <= np.finfo(np.float32).max  # False for NaN
        if not good.all():
            place = np.argwhere(~good)[0]
            row, inside = start + int(place[0]), tuple(map(int, place[1:]))
            words = f"has {images[(row, *inside)]} at {_words(inside)} of image {row}; every number must be finite"
            raise _refusal(dataset, what, f"{words} (as float32): repair or leave out such examples")


def _example(dataset: Dataset, what: str, split: Split) -> np.ndarray:
    try:
        return np.asarray(split.take(np.array([0]))[0])
    except Exception as e:  # a function of the user's raises what it likes
        raise _refusal(dataset, what, f"cannot be read at image 0: {type(e).__name__}: {e}") from e


def _array(dataset: Dataset, what: str, name: str, value: Any) -> np.ndarray:
    if isinstance(value, list | tuple) or not hasattr(value, "__array__"):
        raise _refusal(dataset, what, f"has {name} that are a {_kind(value)}, not a NumPy array: use np.asarray")
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def _is_number(value: Any, kind: type) -> bool:
    return not isinstance(value, bool) and bool(np.issubdtype(type(value), kind))


def _kind(value: Any) -> str:
    return type(value).__name__


def _words(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _refusal(dataset: Dataset, what: str, words: str) -> UsageError:
    return UsageError(f"The split {what!r} of the data set {dataset.name!r} {words}.")
