"""What replicas exchange in a step: one all-reduce, and each device's share of a sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.comm.reducer import Reducer
from jaxdist.cost.collectives import collectives


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


def test_each_device_gets_its_share_of_the_sum():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    reducer = Reducer("data", 4)
    vectors = np.arange(32.0, dtype=np.float32).reshape(4, 8) ** 2  # one a device

    def shares(vector):
        return reducer.shares_of_sum({"a": vector[0]})["a"], reducer.own_share(vector[0])

    spread = jax.shard_map(shares, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    summed, own = jax.jit(spread)(vectors)
    np.testing.assert_array_equal(summed, vectors.sum(0))
    np.testing.assert_array_equal(own, [vectors[i // 2, i] for i in range(8)])
