"""Batch normalisation by the native kernels against the plain formulas in float64."""

from __future__ import annotations

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.native_kernels import load_or_skip
from hypothesis import strategies as st

from jaxdist.ops import backend
from jaxdist.ops.native import normalization as native
from jaxdist.ops.normalization import batch_norm

EPSILON = 1e-5


@pytest.fixture(scope="module", autouse=True)
def _kernels():
    load_or_skip()


def reference(x, scale, bias, dy, relu):
    """(y, mean, var, dx, dscale, dbias) by the definition; the derivative through an x of float64."""
    x, scale, bias, dy = (a.astype(np.float64) for a in (x, scale, bias, dy))
    axes = tuple(range(x.ndim - 1))
    n, mean, var = x.size // x.shape[-1], x.mean(axes), x.var(axes)
    r = 1 / np.sqrt(var + EPSILON)
    unit = (x - mean) * r
    y = unit * scale + bias
    g = np.where(y > 0, dy, 0) if relu else dy
    dscale, dbias = (g * unit).sum(axes), g.sum(axes)
    dx = scale * r * (g - dbias / n - unit * dscale / n)
    return np.maximum(y, 0) if relu else y, mean, var, dx, dscale, dbias


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    st.tuples(st.integers(1, 9), st.integers(1, 21), st.integers(1, 21), st.integers(16, 100)),
    st.booleans(),
    st.sampled_from([0.0, 100.0]),
    st.integers(0, 2**31),
)
def test_each_pass_is_what_the_formula_says(shape, relu, mean, seed):
    """Also where the mean is far from zero, which costs a sum of squares its digits."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) + mean).astype(np.float32)
    dy = rng.normal(size=shape).astype(np.float32)
    scale, bias = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))
    mean, var = reference(x, scale, bias, dy, relu)[1:3]
    found_mean, found_var = native.moments(x)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found_var, var, rtol=1e-5, atol=1e-9)
    r = 1 / np.sqrt(var + EPSILON)
    u, v = (a.astype(np.float32) for a in (scale * r, bias - mean * scale * r))
    exact = x.astype(np.float64) * u + v
    found = native.normalize(x, u, v, relu=relu)
    np.testing.assert_allclose(found, np.maximum(exact, 0) if relu else exact, rtol=1e-6, atol=1e-5 * abs(v).max())
    g = np.where(exact > 0, dy, 0) if relu else dy
    s, t = native.gradient_sums(x, dy, u, v, mean.astype(np.float32), relu=relu)
    size = np.abs(g).sum((0, 1, 2)).max() + 1e-6
    np.testing.assert_allclose(s, g.sum((0, 1, 2), np.float64), rtol=0, atol=1e-6 * size)
    middle = mean.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(t, (g * (x - middle)).sum((0, 1, 2)), rtol=0, atol=1e-5 * size)
    a, b = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))
    wanted = g * u + x.astype(np.float64) * a + b
    np.testing.assert_allclose(
        native.gradient(x, dy, u, v, a, b, relu=relu), wanted, rtol=1e-5, atol=1e-6 * np.abs(x).max()
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("axis", [None, "data"])
def test_batch_norm_and_its_gradients_by_both(relu, axis):
    rng = np.random.default_rng(3)
    x, dy = (jnp.asarray(rng.normal(size=(16, 5, 5, 20)) + 3, jnp.float32) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=20), jnp.float32) for _ in range(2))

    def of_part(x, dy, scale, bias):
        (y, mean, var), vjp = jax.vjp(lambda *a: batch_norm(*a, EPSILON, relu, axis), x, scale, bias)
        dx, dscale, dbias = vjp((dy, jnp.zeros_like(mean), jnp.zeros_like(var)))
        if axis is not None:
            dscale, dbias = (jax.lax.psum(d, axis) for d in (dscale, dbias))
        return y, mean, var, dx, dscale, dbias

    def run():
        if axis is None:
            return jax.jit(of_part)(x, dy, scale, bias)
        P = jax.sharding.PartitionSpec
        mesh = jax.make_mesh((4,), (axis,), axis_types=(jax.sharding.AxisType.Auto,))
        split, whole = P(axis), P()
        spread = jax.shard_map(
            of_part, mesh=mesh, in_specs=(split, split, whole, whole),
            out_specs=(split, whole, whole, split, whole, whole), check_vma=False,
        )  # fmt: skip
        return jax.jit(spread)(x, dy, scale, bias)

    wanted = reference(*(np.asarray(a) for a in (x, scale, bias, dy)), relu)
    assert backend.use("native").startswith("native")
    for found, exact in zip(run(), wanted, strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def test_few_features_are_left_to_xla():
    backend.use("native")
    before = backend.traced()
    x = jnp.ones((2, 3, 3, 15))
    batch_norm(x, jnp.ones(15), jnp.ones(15), EPSILON, True, None)
    assert backend.traced()["xla"] == before["xla"] + 1
    with pytest.raises(jax.errors.JaxRuntimeError, match="no float32 images"):
        jax.block_until_ready(native.moments(x))


def test_what_is_no_number_stays_none():
    x = np.full((4, 4, 4, 16), 1.0, np.float32)
    x[1, 2, 3, 5] = np.nan
    one = np.ones(16, np.float32)
    assert np.isnan(native.normalize(x, one, one, relu=True)).sum() == 1
    mean, var = native.moments(x)
    assert np.isnan(mean)[5] and np.isnan(var)[5] and np.isnan(mean).sum() == 1
