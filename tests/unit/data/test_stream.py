"""The stream of training examples: whole epochs, however it is cut."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxdist import data


@given(n=st.integers(1, 50), cuts=st.lists(st.integers(0, 200), max_size=8), seed=st.integers(0, 5))
def test_the_stream_does_not_depend_on_how_it_is_cut(n, cuts, seed):
    stream = data.ExampleStream(n, seed)
    whole = stream.rows(np.arange(200))
    edges = [0, *sorted(cuts), 200]
    parts = [stream.rows(np.arange(a, b)) for a, b in itertools.pairwise(edges) if a < b]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for epoch in range(200 // n):
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == list(range(n))
