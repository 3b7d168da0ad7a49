"""What targets may be: checked once, before training, by the objective that is trained for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from jaxdist.errors import UsageError

CheckTarget = Callable[[str, np.ndarray, int], np.ndarray]
"""(what they are, target [n, ...], number of classes or 0) -> the target as it is trained on; raises `UsageError`."""


def class_labels(
    what: str, labels: np.ndarray, num_classes: int, *, ignored: int | None = None, many: bool = False
) -> np.ndarray:
    """Labels of a classification, int32 [n], each from 0 to num_classes - 1.

    Args:
      ignored: a label that does not count; None: there is none.
      many: an example may have several ([n, ...]), each for an output of its own.
    """
    if num_classes < 1:
        raise UsageError(
            f"{what} are to be classes, and the data set has num_classes={num_classes}: say how many classes there "
            "are, or use objective.name='regression'."
        )
    one_hot = labels.ndim > 1 and labels.dtype.kind not in "biu" and labels.shape[-1] == num_classes
    if labels.ndim == 0 or (labels.ndim != 1 and not many) or one_hot:
        remedy = "use labels.argmax(axis=1)" if labels.shape[1:] == (num_classes,) else "use labels.reshape(-1)"
        if labels.ndim == 0 or math.prod(labels.shape[1:]) not in (1, num_classes):
            remedy = "give one class number an example, or set objective.options.sequence=True"
        raise UsageError(
            f"{what} are an array {words_of(labels.shape)}; they must be [n], one class number each: {remedy}."
        )
    if labels.dtype.kind not in "biu":
        raise UsageError(
            f"{what} are {labels.dtype}; they must be integers from 0 to {num_classes - 1}: convert class numbers by "
            "labels.astype(np.int32), or use objective.name='regression'."
        )
    wide = labels.astype(np.int64) if labels.dtype != np.uint64 else np.minimum(labels, 2**62).astype(np.int64)
    good = (wide >= 0) & (wide < num_classes)
    if ignored is not None:
        good |= wide == ignored
    if not good.all():
        wrong = np.argwhere(~good)
        first = tuple(map(int, wrong[0]))
        low, high = int(wide.min()), int(wide.max())
        from_one = low == 1 and high == num_classes
        remedy = "they seem to begin at 1: subtract 1" if from_one else "correct them, or num_classes"
        which = str(first[0]) if len(first) == 1 else words_of(first)
        raise UsageError(
            f"{what} must be 0 to {num_classes - 1} (num_classes={num_classes}), and {len(wrong)} of {labels.size} are "
            f"not: number {which} is {labels[first]}, the least is {low}, the greatest {high}; {remedy}."
        )
    return labels.astype(np.int32)


def finite_numbers(what: str, target: np.ndarray, num_classes: int) -> np.ndarray:
    """Numbers to be estimated, float [n] or [n, outputs]: float32, or float64 where they are."""
    del num_classes
    if target.ndim not in (1, 2):
        raise UsageError(
            f"{what} are an array {words_of(target.shape)}; a regression estimates [n] or [n, outputs]: reshape them."
        )
    if target.dtype.kind not in "iuf" and target.dtype.name != "bfloat16":
        raise UsageError(
            f"{what} are {target.dtype}; a regression estimates numbers: use objective.name='classification'."
        )
    check_finite(what, target)
    return target if target.dtype == np.float64 else target.astype(np.float32)


def check_finite(what: str, array: np.ndarray, start: int = 0) -> None:
    """Refuses NaN, infinities and what is one as float32; `start`: the number of the first example.

    Raises:
      UsageError: with the first place.
    """
    if array.dtype.kind in "biu":
        return
    good = np.abs(array) <= np.finfo(np.float32).max  # False for NaN
    if not good.all():
        place = np.argwhere(~good)[0]
        row, inside = int(place[0]), tuple(map(int, place[1:]))
        where = f"at {words_of(inside)} of example {start + row}" if inside else f"for example {start + row}"
        raise UsageError(
            f"{what} have {array[(row, *inside)]} {where}; every number must be finite (as float32): repair or leave "
            "out such examples."
        )


def words_of(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
