"""How tensors lie in one vector, and which part each server holds."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.servers import struct
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.parallel.flat_layout import Layout, pack, unpack


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["kernel", "bias", "scale"])), min_size=1, max_size=12),
    st.integers(1, 7),
)
def test_servers_hold_equal_shares_and_everything_once(tensors, count):
    params = {f"{i}/{group}": struct(n) for i, (n, group) in enumerate(tensors)}
    layout = Layout.of(params, {})
    shards = [layout.shard(i, count) for i in range(count)]
    sizes = [p.num_params for p in shards]
    assert sum(sizes) == layout.num_params and max(sizes) - min(sizes) <= 1
    assert all(sum(p.groups.values()) == p.num_params for p in shards)
    vector = np.arange(layout.num_params)
    named = unpack(layout.params, vector)
    np.testing.assert_array_equal(pack(layout.params, named), vector)
    groups = np.concatenate([[t.group] * t.size for t in layout.params if t.size] or [[]])
    for shard in shards:
        for group, part in shard.split(vector[shard.params]).items():
            assert set(groups[part]) == {group}


def test_a_tensor_larger_than_a_share_is_split():
    layout = Layout.of({"big/kernel": struct(1000), "small/bias": struct(2)}, {})
    assert [layout.shard(i, 3).num_params for i in range(3)] == [334, 334, 334]


def test_the_first_tensor_that_differs_is_named():
    mine, theirs = Layout.of({"a": struct(2), "b": struct(3)}, {}), Layout.of({"a": struct(2), "b": struct(4)}, {})
    assert mine.difference(mine) == ""
    assert "'b' float32[3]" in mine.difference(theirs) and "'b' float32[4]" in mine.difference(theirs)
    with pytest.raises(ValueError, match="must share one dtype, not float32, float64"):
        Layout.of({"a": struct(2)}, {"b": struct(2, dtype=np.float64)})
