"""What a data set must be: each kind of fault is refused in one sentence that says where, what and the remedy."""

from __future__ import annotations

import dataclasses
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.data import Dataset, Split, checked
from jaxdist.errors import UsageError

N, CLASSES = 12, 4


def images(n: int = N, shape=(8, 8, 1), dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 200, (n, *shape)).astype(dtype)


def labels(n: int = N) -> np.ndarray:
    return (np.arange(n) % CLASSES).astype(np.int32)


def dataset(train: Split | None = None, evaluation: Split | None = None, **values) -> Dataset:
    good = Split(images(), labels())
    train, evaluation = (good if split is None else split for split in (train, evaluation))  # an empty one is false
    return Dataset("mine", train, evaluation, **{"num_classes": CLASSES} | values)


def changed(array: np.ndarray, place, value) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


WRONG_LABELS = {
    "from 1": (labels() + 1, r"number 3 is 4, the least is 1, the greatest 4; they seem to begin at 1: subtract 1"),
    "one too large": (changed(labels(), 5, 4), r"must be 0 to 3 .*1 of 12 are not: number 5 is 4"),
    "-1": (changed(labels(), 2, -1), "number 2 is -1"),
    "-100": (changed(labels().astype(np.int64), 0, -100), "number 0 is -100"),
    "255": (changed(labels().astype(np.uint8), 11, 255), "number 11 is 255"),
    "2^64 - 1": (changed(labels().astype(np.uint64), 1, 2**64 - 1), "number 1 is 18446744073709551615"),
    "floats": (labels().astype(np.float32), "are float32; they must be integers"),
    "one-hot": (np.eye(CLASSES)[labels()], r"\[12, 4\]; they must be \[n\].*argmax"),
    "a column": (labels()[:, None], r"\[12, 1\]; they must be \[n\].*reshape"),
    "more than a column": (np.zeros((N, 3), int), "give one class number an example"),
    "a list": (list(range(N)), "targets that are a list, not a NumPy array"),
    "words": (np.array(["cat"] * N), "they must be integers"),
    "too few": (labels(N - 1), "has 12 images and 11 targets"),
    "none": (labels(0), "has no examples"),
}


@pytest.mark.parametrize("where", ["train", "evaluation"])
@pytest.mark.parametrize("case", WRONG_LABELS)
def test_labels(case, where):
    wrong, words = WRONG_LABELS[case]
    with pytest.raises(UsageError, match=words) as refused:
        checked(dataset(**{where: Split(images(), wrong)}))
    assert where in str(refused.value) and "'mine'" in str(refused.value)


WRONG_IMAGES = {
    "NaN": (changed(images(), (3, 1, 2, 0), np.nan), r"have nan at \[1, 2, 0\] of example 3"),
    "infinite": (changed(images(), (11, 7, 7, 0), -np.inf), r"have -inf at \[7, 7, 0\] of example 11"),
    "beyond float32": (
        changed(images(dtype=np.float64), (0, 0, 0, 0), 1e300),
        r"have 1e\+300 at \[0, 0, 0\] of example 0",
    ),
    "bfloat16": (changed(images(dtype=ml_dtypes.bfloat16), (4, 0, 0, 0), np.nan), "of example 4"),
    "words": (np.full((N, 8), "x"), "has images of type <U1; they must be numbers"),
    "objects": (np.full((N, 8), None), "has images of type object"),
    "complex": (np.ones((N, 8), complex), "has images of type complex128"),
    "a list": ([1.0] * N, "images that are a list"),
    "numbers": (np.ones(N), "each must have at least one dimension"),
    "empty": (np.ones((N, 8, 0)), "no empty one"),
}


@pytest.mark.parametrize("where", ["train", "evaluation"])
@pytest.mark.parametrize("case", WRONG_IMAGES)
def test_images(case, where):
    wrong, words = WRONG_IMAGES[case]
    with pytest.raises(UsageError, match=words) as refused:
        checked(dataset(**{where: Split(wrong, labels())}))
    assert where in str(refused.value) and "of the data set 'mine'" in str(refused.value)


def test_the_data_set_itself():
    with pytest.raises(UsageError, match=r"images \[9, 8, 1\], and train has \[8, 8, 1\]"):
        checked(dataset(evaluation=Split(images(shape=(9, 8, 1)), labels())))
    with pytest.raises(UsageError, match=r"'evaluation' .*is a NoneType, not a"):
        checked(dataclasses.replace(dataset(), evaluation=None))
    for values in ({"num_classes": 0}, {"num_classes": 4.0}, {"scale": 0.0}, {"scale": float("nan")}):
        with pytest.raises(UsageError, match=next(iter(values))):
            checked(dataset(**values))
    with pytest.raises(UsageError, match="neither inputs nor a function"):
        checked(dataset(Split(None, labels())))
    with pytest.raises(UsageError, match="cannot be read at example 0: ZeroDivisionError"):
        checked(dataset(Split(None, labels(), lambda row: 1 // 0)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64, bool, ml_dtypes.bfloat16])
def test_what_is_good_is_kept(dtype):
    given_images = images(dtype=dtype)
    found = checked(dataset(Split(given_images, labels().astype(np.uint8)), scale=255.0))
    assert found.train.inputs["image"] is given_images
    assert found.train.target.dtype == np.int32 and (found.train.target == labels()).all()
    lazily = checked(dataset(Split(None, labels(), lambda row: given_images[row]), scale=255.0))
    assert (lazily.train.take(np.arange(N))["image"] == given_images).all()


@given(data=st.data())
def test_either_refused_or_what_training_takes(data):
    """Any lengths, types and places of what is not finite: no other exception, nothing wrong that passes."""
    n, m = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
    kind = data.draw(st.sampled_from(["u1", "i4", "f2", "f4", "f8", "c8", "U3", "O", "M8[s]", "?"]))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    array = np.zeros((n, *shape), kind)
    if array.size and array.dtype.kind == "f" and data.draw(st.booleans()):
        array.flat[data.draw(st.integers(0, array.size - 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    these = np.array(data.draw(st.lists(st.integers(-2, CLASSES + 1), min_size=m, max_size=m)))
    these = these.astype(data.draw(st.sampled_from(["i1", "i4", "i8", "u2", "f4"])))
    bad = (
        n != m or not n or not shape or 0 in shape or array.dtype.kind not in "biuf" or these.dtype.kind == "f"
        or (array.dtype.kind == "f" and not np.isfinite(array).all())
        or (these.astype(np.int64) >= CLASSES).any() or (these.astype(np.int64) < 0).any()
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = Split(array, these)
        if bad:
            with pytest.raises(UsageError) as refused:
                checked(dataset(whole, whole, scale=255.0))
            assert str(refused.value).count("\n") == 0 and str(refused.value).endswith(".")
        else:
            found = checked(dataset(whole, whole, scale=255.0))
            assert found.train.target.dtype == np.int32 and len(found.train) == n
