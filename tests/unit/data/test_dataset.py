"""Splits in memory and splits that are read one by one: the same rows, the same mean, the same fingerprint."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.data import Dataset, Split, mean_of

IMAGES = np.random.default_rng(0).integers(0, 256, size=(23, 3, 2, 1), dtype=np.uint8)
LABELS = (np.arange(23) % 4).astype(np.int32)
SPLITS = Split(IMAGES, LABELS), Split(None, LABELS, lambda row: IMAGES[row])


@given(st.lists(st.integers(0, 22), min_size=2, max_size=2).map(sorted), st.lists(st.integers(0, 30), min_size=1))
def test_a_selection_has_the_rows_that_it_names(ends, asked):
    start, stop = ends[0], ends[1] + 1
    rows = np.array(asked) % (stop - start)
    for split in SPLITS:
        part = split.select(start, stop)
        assert len(part) == stop - start
        np.testing.assert_array_equal(part.take(rows)["image"], IMAGES[start:stop][rows])
        np.testing.assert_array_equal(part.target, LABELS[start:stop])


@given(st.integers(1, 30))
def test_the_mean_does_not_depend_on_the_chunks(chunk):
    for split in SPLITS:
        found = mean_of(split, chunk)["image"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, IMAGES.mean(axis=0), rtol=1e-6)


def test_the_fingerprint_is_that_of_the_data():
    one, other = (Dataset("of mine", split.select(0, 20), split.select(20, 23), 4) for split in SPLITS)
    assert one.fingerprint() == other.fingerprint() and one.example_shapes == {"image": (3, 2, 1)}
    relabelled = Split(IMAGES[:20], np.roll(LABELS[:20], 1))
    repainted = Split(np.concatenate([IMAGES[:7], IMAGES[7:8] ^ 1, IMAGES[8:20]]), LABELS[:20])
    shorter = one.train.select(0, 19)
    every = [one, *(dataclasses.replace(one, train=train) for train in (relabelled, repainted, shorter))]
    assert len({dataset.fingerprint() for dataset in every}) == 4
