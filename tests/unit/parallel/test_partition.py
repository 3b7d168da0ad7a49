"""The cutting of chains into stages, against brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.parallel.partition import partition, stage_costs

costs = st.lists(st.floats(0, 10), min_size=1, max_size=8)


@given(costs=costs, cuts=st.lists(st.floats(0, 3), min_size=7, max_size=7), num_stages=st.integers(1, 8))
def test_partition_is_the_best_of_all(costs, cuts, num_stages):
    n = len(costs)
    cuts = cuts[: n - 1]
    if num_stages > n:
        with pytest.raises(ValueError, match="cannot be cut"):
            partition(costs, num_stages, cuts)
        return
    found = partition(costs, num_stages, cuts)
    assert len(found) == num_stages and sum(found) == n and min(found) > 0

    def score(balance):
        ends = list(itertools.accumulate(balance))[:-1]
        return max(stage_costs(balance, costs, cuts)), sum(cuts[e - 1] for e in ends)

    every = [
        tuple(j - i for i, j in itertools.pairwise([0, *places, n]))
        for places in itertools.combinations(range(1, n), num_stages - 1)
    ]
    slowest = min(score(balance)[0] for balance in every)
    assert score(found)[0] == pytest.approx(slowest)
    cheapest = min(score(balance)[1] for balance in every if score(balance)[0] <= slowest * (1 + 1e-12))
    assert score(found)[1] <= cheapest + 1e-6


def test_partition_shuns_dear_cuts():
    assert partition([1, 1, 1, 1], 2) == (2, 2)
    assert partition([1, 1, 1, 1], 2, [0, 5, 0]) in ((1, 3), (3, 1))
