"""Arrays that are made when they are asked for, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdist.state import LazyArray, part_shape


def test_nothing_is_made_before_it_is_asked_for():
    made = []
    leaf = LazyArray((2, 3), np.dtype(np.float32), lambda: made.append(1) or np.arange(6.0).reshape(2, 3))
    part = LazyArray.part(leaf, lambda a: a[:, 1:])
    assert (leaf.nbytes, part.nbytes, part.shape, part_shape(leaf, lambda a: a.T)) == (24, 16, (2, 2), (3, 2))
    assert made == []
    np.testing.assert_array_equal(np.asarray(part), [[1, 2], [4, 5]])
    assert np.asarray(leaf).dtype == np.float32 and np.asarray(leaf, np.float64).dtype == np.float64
    assert len(made) == 3


def test_an_empty_part_asks_for_nothing():
    leaf = LazyArray((8, 3), np.dtype(np.float32), lambda: pytest.fail("was asked for"))
    assert np.asarray(LazyArray.part(leaf, lambda a: a[8:])).shape == (0, 3)


def test_what_has_another_shape_than_was_said_is_refused():
    with pytest.raises(ValueError, match=r"A leaf of shape \(2,\) was made with shape \(3,\)"):
        np.asarray(LazyArray((2,), np.dtype(np.float32), lambda: np.zeros(3)))
