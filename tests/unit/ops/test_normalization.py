"""BatchNorm's forward and backward pass against the plain formula, alone and over a mesh axis."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gradients import assert_close, numbers, reference, with_gradients
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdist import ops


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_batch_norm(dtype, relu):
    def plain(x, scale, bias):
        wide = x.astype(jnp.promote_types(dtype, jnp.float32))
        mean, var = jnp.mean(wide, (0, 1, 2)), jnp.var(wide, (0, 1, 2))
        y = (wide - mean) / jnp.sqrt(var + 1e-5) * scale + bias
        return (jnp.maximum(y, 0) if relu else y).astype(dtype)

    with jax.enable_x64(True):
        parameters = "float64" if dtype == "float64" else "float32"
        x = (3 + numbers(0, 3, 5, 7, 6)).astype(jnp.dtype(dtype))
        scale, bias = numbers(1, 6, dtype=parameters), numbers(2, 6, dtype=parameters)
        found = with_gradients(lambda *a: ops.batch_norm(*a, 1e-5, relu, None)[0])(x, scale, bias)
        assert_close(found, reference(plain)(x, scale, bias), dtype)


def test_normalize_uses_the_statistics_that_it_is_given():
    x, (mean, scale, bias) = numbers(0, 2, 3, 3, 4), (numbers(i, 4) for i in (1, 2, 3))
    var = np.abs(numbers(4, 4))
    with jax.enable_x64(True):
        wanted = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
        assert_close(ops.normalize(x, mean, var, scale, bias, 1e-5, False), wanted)
        assert_close(ops.normalize(x, mean, var, scale, bias, 1e-5, True), np.maximum(wanted, 0))


def test_batch_norm_over_a_mesh_axis_is_that_of_the_whole_batch():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def loss(x, scale, bias, axis):
        y, mean, var = ops.batch_norm(x, scale, bias, 1e-5, True, axis)
        return jnp.sum(jnp.sin(y) * jnp.arange(5.0)), (mean, var)

    def replica(x, scale, bias):
        grads, moments = jax.grad(partial(loss, axis="data"), (0, 1, 2), has_aux=True)(x, scale, bias)
        return grads[0], jax.lax.psum(grads[1:], "data"), moments

    with jax.enable_x64(True):
        x, scale, bias = numbers(0, 8, 3, 3, 5), numbers(1, 5), numbers(2, 5)
        spread = jax.shard_map(
            replica, mesh=mesh, in_specs=(P("data"), P(), P()), out_specs=(P("data"), P(), P()), check_vma=False
        )
        dx, dparams, moments = jax.jit(spread)(x, scale, bias)
        whole = jax.jit(jax.grad(partial(loss, axis=None), (0, 1, 2), has_aux=True))
        grads, wanted = whole(x, scale, bias)
        assert_close((dx, dparams, moments), (grads[0], grads[1:], wanted))
