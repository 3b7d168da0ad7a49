"""Whose time it is: exact small cases, and that nothing is lost or counted twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.profiling.attribution import self_times, wall_time


def level(*pairs):
    return tuple(np.array(pairs, float).reshape(-1, 2).T)


def test_two_at_once_have_half_each_and_a_gap_goes_to_the_next_level():
    operations = level((1, 5), (3, 7))
    waits = level((0, 10))
    found, rest = self_times([operations, waits], 0, 12)
    assert found[0].tolist() == [3, 3]  # 2 alone and half of 2
    assert found[1].tolist() == [4]  # 0..1 and 7..10
    assert rest == 2


intervals = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted), max_size=12)


@given(st.lists(intervals, min_size=1, max_size=4))
def test_all_rows_and_the_rest_add_up_to_the_window(levels):
    found, rest = self_times([level(*one) for one in levels], 0, 50)
    assert sum(times.sum() for times in found) + rest == pytest.approx(50)
    assert all((times >= 0).all() for times in found) and rest >= 0


@given(intervals)
def test_wall_time_is_the_length_of_the_union(pairs):
    covered = {k for start, end in pairs for k in range(start, end)}
    assert wall_time(*level(*pairs)) == pytest.approx(len(covered))
