"""Which arrays share a buffer, and what a step sends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.comm.fused import plan_buffers
from jaxdist.comm.reducer import Reducer
from jaxdist.cost.collectives import collectives

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


def test_a_step_with_gradients_and_one_without_say_the_same_of_metrics_and_stop():
    """With gradients everything is one all-reduce; without, metrics and the stop flag have one of their own."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    reducer = Reducer("data", 4, 64.0)

    def metrics_of(x):
        return {"loss_sum": x.sum(), "correct": x.sum() * 2, "count": jnp.float32(x.size)}

    def step(x, stop):
        return reducer.step({"a": x, "b": 3 * x}, {"mean": x + 1}, metrics_of(x), stop)

    def signals(x, stop):
        return reducer.signals(metrics_of(x), stop)

    x, stop = jnp.arange(8.0), jnp.array([0.0, 0.0, 1.0, 0.0])
    placed = [jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (x, stop)]
    found = []
    for replica in (step, signals):
        spread = jax.shard_map(replica, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
        program = jax.jit(spread).lower(*placed).compile()
        assert [one.kind for one in collectives(program.as_text(), 4)] == ["all-reduce"]
        found.append(program(*placed))
    (grads, stats, summed), alone = found
    mean = x.reshape(4, 2).mean(0)
    jax.tree.map(np.testing.assert_allclose, (grads, stats), ({"a": mean, "b": 3 * mean}, {"mean": mean + 1}))
    assert {k: float(v) for k, v in summed.items()} == {"loss_sum": 28, "correct": 56, "count": 8, "stop": 1}
    assert jax.tree.map(float, alone) == jax.tree.map(float, summed)
