"""Which arrays share a buffer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jaxdist.comm.fused import plan_buffers

SIZES = st.lists(st.tuples(st.integers(0, 3_000_000), st.sampled_from(["f4", "f8"])), max_size=30)


@given(sizes=SIZES, megabytes=st.sampled_from([0.0, 0.5, 1.0, 64.0]))
def test_every_leaf_is_in_one_buffer_of_its_dtype_and_of_bounded_size(sizes, megabytes):
    groups = plan_buffers(sizes, megabytes)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        assert len({sizes[i][1] for i in group}) == 1
        assert len(group) == 1 or sum(sizes[i][0] for i in group) <= megabytes * 2**20


@given(sizes=st.lists(st.integers(1, 100), min_size=1))
def test_zero_megabytes_is_one_collective_per_leaf(sizes):
    assert plan_buffers([(s, "f4") for s in sizes], 0.0) == [[i] for i in range(len(sizes))]


@given(sizes=st.lists(st.integers(1, 100), min_size=1))
def test_a_large_limit_is_one_collective(sizes):
    assert len(plan_buffers([(s, "f4") for s in sizes], 64.0)) == 1
