"""Who gets the fast formulations, and what keeps XLA from computing a thing twice."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from helpers.gradients import assert_close, numbers
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist import ops
from jaxdist.ops import platforms


def test_materialize_keeps_xla_from_computing_twice():
    def f(x, wrap):
        y = wrap(jnp.maximum(x * 2, 1))
        return y.T @ y, y - x

    def kernels(wrap):
        text = jax.jit(partial(f, wrap=wrap)).lower(jnp.ones((64, 64))).compile().as_text()
        return text.count(" maximum(")

    assert kernels(jax.lax.optimization_barrier) == 2  # should this fail some day, `materialize` has become simple
    assert kernels(ops.materialize) == 1
    x = numbers(0, 4, 4, dtype="float32")

    def values(wrap):
        y, pull = jax.vjp(partial(f, wrap=wrap), x)
        return y, pull(jax.tree.map(jnp.sin, y))

    assert_close(
        jax.jit(values, static_argnums=0)(ops.materialize), jax.jit(values, static_argnums=0)(lambda y: y), "float32"
    )


def test_other_platforms_and_partitioned_programs_get_the_plain_operations():
    x, k = numbers(0, 16, 16, 16, 40, dtype="float32"), numbers(1, 3, 3, 40, 20, dtype="float32")

    def gradient(x, k):
        return jax.grad(lambda x, k: jnp.sum(ops.materialize(ops.conv(x, k, (1, 1), ((1, 1), (1, 1)))) ** 2), 1)(x, k)

    with platforms.for_all_platforms():
        traced = jax.jit(lambda x, k: gradient(x, k)).trace(x, k)
    on_gpu = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" not in on_gpu
    assert "stablehlo.while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    try:
        assert platforms.trace_for("cuda")
        alone = jax.jit(lambda x, k: gradient(x, k)).lower(x, k).as_text()
        assert "stablehlo.while" not in alone and "stablehlo.case" not in alone
    finally:
        assert platforms.trace_for("cpu") and not platforms.trace_for("cpu")
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(x, NamedSharding(mesh, P("data")))
    assert "all-gather" in jax.jit(gradient).lower(spread, k).compile().as_text()  # what is to be avoided
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = jax.jit(gradient).lower(spread, k).compile()
    assert "all-gather" not in compiled.as_text()
    assert_close(compiled(spread, k), jax.jit(gradient)(x, k), "float32")
    assert "stablehlo.while" in jax.jit(gradient).lower(x, k).as_text()
