"""The fast formulations of jaxdist.ops against the plain operations: values, gradients, dtypes, sizes, platforms."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist import ops
from jaxdist.ops.threefry import THREEFRY

TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "bfloat16": 3e-2}


def numbers(seed: int, *shape: int, dtype: str = "float64") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def assert_close(found, wanted, dtype="float64"):
    """Relative to the largest element: a rounding error is one of the sums that an element is the difference of."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * max(np.abs(b).max(), 1e-3))


def with_gradients(f, *args):
    """f's values, and the gradients of a fixed weighted sum of them."""
    y, pull = jax.vjp(f, *args)
    seeds = [numbers(100 + i, *leaf.shape).astype(leaf.dtype) for i, leaf in enumerate(jax.tree.leaves(y))]
    return y, pull(jax.tree.unflatten(jax.tree.structure(y), seeds))


def plain_conv(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(
    ("examples", "size", "kernel", "inputs", "outputs", "strides", "pad"),
    [
        (2, 8, 1, 5, 7, 1, 0),
        (2, 7, 1, 5, 7, 2, 0),  # odd size, strided product
        (2, 8, 3, 4, 12, 1, 1),  # pairs of pixels
        (2, 7, 3, 4, 12, 1, 1),  # an odd width has none
        (2, 9, 3, 2, 8, 1, 0),  # 'valid'
        (2, 8, 3, 3, 18, 1, 1),  # wide enough without pairs
        (2, 9, 3, 4, 6, 2, 1),
        (2, 9, 7, 3, 6, 1, 3),
        (2, 9, 7, 3, 6, 2, 3),
        (7, 8, 3, 20, 18, 1, 1),  # groups of examples of which the last overlaps
        (8, 16, 3, 18, 20, 1, 1),  # whole groups, x as the batch
        (27, 4, 3, 4, 4, 1, 1),  # narrow groups
    ],
)
def test_conv(dtype, examples, size, kernel, inputs, outputs, strides, pad):
    with jax.enable_x64(True):
        x = numbers(0, examples, size, size, inputs, dtype=dtype)
        k = numbers(1, kernel, kernel, inputs, outputs, dtype=dtype)
        arguments = (strides, strides), ((pad, pad), (pad, pad))
        fast = with_gradients(jax.jit(lambda x, k: ops.conv(x, k, *arguments)), x, k)
        wide = with_gradients(lambda x, k: plain_conv(x, k, *arguments), x.astype("float64"), k.astype("float64"))
        assert_close(fast, jax.tree.map(lambda leaf: leaf.astype(dtype), wide), dtype)


@settings(max_examples=6)
@given(
    st.integers(1, 9), st.tuples(st.integers(4, 9), st.integers(4, 9)), st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 20), st.integers(1, 20), st.tuples(st.integers(0, 4), st.integers(0, 4)),
)  # fmt: skip
def test_convolutions_of_any_size(examples, size, window, inputs, outputs, pad):
    with jax.enable_x64(True):
        x, k = numbers(0, examples, *size, inputs), numbers(1, *window, inputs, outputs)
        arguments = (1, 1), (pad, pad[::-1])
        found = with_gradients(lambda x, k: ops.conv(x, k, *arguments), x, k)
        assert_close(found, with_gradients(lambda x, k: plain_conv(x, k, *arguments), x, k))


def test_many_groups_of_bfloat16_lose_nothing():
    x, dy = numbers(0, 128, 8, 8, 24, dtype="bfloat16"), numbers(1, 128, 8, 8, 24, dtype="bfloat16")
    k = jnp.zeros((3, 3, 24, 24))

    def gradient(conv, dtype):
        pad = ((1, 1), (1, 1))
        return jax.vjp(lambda k: conv(x.astype(dtype), k, (1, 1), pad), k.astype(dtype))[1](dy.astype(dtype))[0]

    wide = gradient(plain_conv, "float32")
    error = lambda found: float(jnp.mean(jnp.abs(found.astype("float32") - wide)))  # noqa: E731
    assert error(gradient(ops.conv, "bfloat16")) < 1.2 * error(gradient(plain_conv, "bfloat16"))


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
        x = 3 + numbers(0, 3, 5, 7, 6, dtype=dtype)
        scale, bias = numbers(1, 6, dtype=parameters), numbers(2, 6, dtype=parameters)
        found = with_gradients(jax.jit(lambda *a: ops.batch_norm(*a, 1e-5, relu, None)[0]), x, scale, bias)
        assert_close(found, with_gradients(plain, x, scale, bias), dtype)


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
        grads, whole = jax.grad(partial(loss, axis=None), (0, 1, 2), has_aux=True)(x, scale, bias)
        assert_close((dx, dparams, moments), (grads[0], grads[1:], whole))


@pytest.mark.parametrize("size", [6, 7])
def test_pools(size):
    with jax.enable_x64(True):
        x = jnp.round(numbers(0, 2, size, size, 3))  # with ties
        for fast, plain in ((ops.max_pool, nn.max_pool), (ops.average_pool, nn.avg_pool)):
            wanted = with_gradients(partial(plain, window_shape=(2, 2), strides=(2, 2)), x)
            assert_close(with_gradients(fast, x), wanted)


def test_dropout_is_linear_and_drops_its_share():
    key, positions = jnp.uint32(7), jnp.arange(50, dtype=jnp.uint32)
    x = jnp.ones((50, 20, 20, 3))
    y, pull = jax.vjp(lambda x: ops.dropout(x, key, positions, 0.3), x)
    kept = np.asarray(y) > 0
    assert abs(kept.mean() - 0.7) < 0.01
    np.testing.assert_allclose(np.asarray(y)[kept], 1 / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(pull(x)[0], y)
    # Whatever else is in the batch.
    some = np.array([4, 9, 30])
    np.testing.assert_array_equal(ops.dropout(x[:3], key, positions[some], 0.3), y[some])


def test_materialize_keeps_xla_from_computing_twice():
    def f(x, wrap):
        y = wrap(jnp.maximum(x * 2, 1))
        return y.T @ y, y - x

    def kernels(wrap):
        text = jax.jit(partial(f, wrap=wrap)).lower(jnp.ones((64, 64))).compile().as_text()
        return text.count(" maximum(")

    assert kernels(jax.lax.optimization_barrier) == 2  # should this fail some day, `materialize` has become simple
    assert kernels(ops.materialize) == 1
    x = jnp.linspace(0, 1, 16).reshape(4, 4)
    found, wanted = (jax.vjp(partial(f, wrap=w), x) for w in (ops.materialize, lambda y: y))
    assert_close(found[0], wanted[0], "float32")
    assert_close(found[1](wanted[0]), wanted[1](wanted[0]), "float32")


def test_other_platforms_and_partitioned_programs_get_the_plain_operations():
    x, k = numbers(0, 16, 16, 16, 40, dtype="float32"), numbers(1, 3, 3, 40, 20, dtype="float32")

    def gradient(x, k):
        return jax.grad(lambda x, k: jnp.sum(ops.materialize(ops.conv(x, k, (1, 1), ((1, 1), (1, 1)))) ** 2), 1)(x, k)

    on_gpu = jax.jit(gradient).trace(x, k).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" not in on_gpu
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(x, NamedSharding(mesh, P("data")))
    assert "all-gather" in jax.jit(gradient).lower(spread, k).compile().as_text()  # what is to be avoided
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = jax.jit(gradient).lower(spread, k).compile()
    assert "all-gather" not in compiled.as_text()
    assert_close(compiled(spread, k), jax.jit(gradient)(x, k), "float32")
    assert "stablehlo.while" in jax.jit(gradient).lower(x, k).as_text()


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 1, 5), (2, 3, 4, 5)])
def test_random_bits_are_those_of_jax(x64, width, shape):
    data = np.array([3, 2**32 - 5], np.uint32)
    dtype = f"uint{width}"
    own = jax.random.bits(jax.random.wrap_key_data(data, impl=THREEFRY), shape, dtype)
    plain = jax.random.bits(jax.random.wrap_key_data(data, impl="threefry2x32"), shape, dtype)
    assert own.dtype == plain.dtype
    np.testing.assert_array_equal(own, plain)


def test_of_random_numbers_only_what_is_used_is_made():
    def some(data):
        key = jax.random.wrap_key_data(data, impl=THREEFRY)
        return jax.random.truncated_normal(key, -2.0, 2.0, (1000, 1000), np.float32)[:, 3:5]

    compiled = jax.jit(some).lower(np.zeros(2, np.uint32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100_000
