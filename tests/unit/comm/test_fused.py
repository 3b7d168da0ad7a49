"""Which arrays share a buffer, and that the sums are those of the arrays."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdist.comm.fused import fused_psum, plan_buffers

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


def test_the_sums_are_those_of_the_arrays_in_one_buffer_or_several(x64):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rng = np.random.default_rng(0)
    shapes = {"a": (2, 3), "b": (2,), "c": (2, 0, 4), "d": (2, 5, 1)}
    tree = {name: rng.normal(size=shape).astype("f4" if name == "d" else "f8") for name, shape in shapes.items()}

    def sums(megabytes):
        return jax.shard_map(
            lambda t: fused_psum(t, "data", megabytes), mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False
        )

    for found in jax.jit(lambda t: [sums(megabytes)(t) for megabytes in (0.0, 64.0)])(tree):
        for name, array in tree.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name][0], array.sum(0), rtol=1e-6, err_msg=name)
