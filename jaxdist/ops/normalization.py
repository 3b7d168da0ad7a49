"""Batch normalisation, and ReLU after it, as one multiply-add for each element forward and one backward.

Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1, over all dimensions but the last. With r = rsqrt(var + epsilon):

    forward    u = scale * r,  v = bias - mean * u,   y = x * u + v            (then max(y, 0))
    backward   g = dy (where y > 0),  n = elements per channel,  s = sum(g),  t = sum(g * x)
               dbias = s
               dscale = r * (t - mean * s)
               dx = u * (g - s / n - (x - mean) * r * dscale / n)
                  = g * u + x * a + b,   a = -u * r * dscale / n,  b = -u * s / n - a * mean

Native kernels (`backend.use`) take s and the sum of g * (x - mean) in one pass over x and dy, and dx in a second; mean
and variance of the forward pass in one.

With statistics over a mesh axis, s and t in dx are means over its members; dscale and dbias stay each member's own.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxdist.ops.backend import native_takes
from jaxdist.ops.kinds import BATCH_NORM_BACKWARD, BATCH_NORM_FORWARD, kind
from jaxdist.ops.native import normalization as native
from jaxdist.ops.platforms import choose, materialize


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, relu: bool, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(normalised x, mean, variance) of x [..., features]; mean and variance have no derivative.

    Args:
      scale, bias: [features].
      relu: whether max(., 0) follows.
      axis_name: mesh axis over which the statistics are taken too; then a collective call.

    Returns:
      x's shape and dtype; twice [features], at least float32.
    """
    return _batch_norm_fwd(x, scale, bias, epsilon, relu, axis_name)[0]


def normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, relu: bool
) -> jax.Array:
    """x with given statistics: one multiply-add for each element, at least in float32, rounded once."""
    u = scale * jax.lax.rsqrt(var + epsilon)
    v = bias - mean * u
    return _affine(_wide(x), u, v, relu=relu).astype(x.dtype)


def moments(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """(mean, biased variance) of each feature, at least float32.

    Two passes, and two small exchanges over `axis_name`: no cancellation, as E[x^2] - E[x]^2 has.
    """
    wide, axes = _wide(x), tuple(range(x.ndim - 1))
    mean = _pmean(jnp.mean(wide, axes), axis_name)
    return mean, _pmean(jnp.mean(jnp.square(wide - mean), axes), axis_name)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _pmean(value: jax.Array, axis_name: str | None) -> jax.Array:
    return value if axis_name is None else jax.lax.pmean(value, axis_name)


def _batch_norm_fwd(x, scale, bias, epsilon, relu, axis_name):  # type: ignore[no-untyped-def]
    with kind(BATCH_NORM_FORWARD):
        if native_takes(x, scale, bias, features=native.LEAST_FEATURES):
            return _native_forward(x, scale, bias, epsilon, relu, axis_name)
        mean, var = moments(x, axis_name)
        y = materialize(normalize(x, mean, var, scale, bias, epsilon, relu))
    return (y, mean, var), (x, mean, var, scale, bias, y if relu else None, None)


def _native_forward(x, scale, bias, epsilon, relu, axis_name):  # type: ignore[no-untyped-def]
    own_mean, own_var = choose(x, cpu=native.moments, plain=partial(moments, axis_name=None))
    mean, var = own_mean, own_var
    if axis_name is not None:  # the members have as many examples each
        mean = _pmean(own_mean, axis_name)
        var = _pmean(own_var + jnp.square(own_mean - mean), axis_name)
    u = scale * jax.lax.rsqrt(var + epsilon)
    v = bias - mean * u
    y = choose(x, u, v, cpu=partial(native.normalize, relu=relu), plain=partial(_affine, relu=relu))
    return (y, mean, var), (x, mean, var, scale, bias, None, (u, v))


def _affine(x: jax.Array, u: jax.Array, v: jax.Array, *, relu: bool) -> jax.Array:
    y = x * u + v
    return jnp.maximum(y, 0) if relu else y


def _batch_norm_bwd(epsilon, relu, axis_name, saved, cotangents):  # type: ignore[no-untyped-def]
    with kind(BATCH_NORM_BACKWARD):
        if saved[-1] is not None:
            return _native_gradients(epsilon, relu, axis_name, saved, cotangents[0])
        return _gradients(epsilon, axis_name, saved, cotangents[0])


def _native_gradients(epsilon, relu, axis_name, saved, dy):  # type: ignore[no-untyped-def]
    x, mean, var, _, _, _, (u, v) = saved
    s, off = choose(  # the second is t - mean * s, without its cancellation
        x, dy, u, v, mean,
        cpu=partial(native.gradient_sums, relu=relu), plain=partial(_gradient_sums, relu=relu),
    )  # fmt: skip
    r, count = jax.lax.rsqrt(var + epsilon), x.size // x.shape[-1]
    a, b = _coefficients(u, r, mean, _pmean(s, axis_name), _pmean(off, axis_name), count)
    dx = choose(x, dy, u, v, a, b, cpu=partial(native.gradient, relu=relu), plain=partial(_gradient, relu=relu))
    return dx, r * off, s


def _coefficients(u, r, mean, mean_s, mean_off, count):  # type: ignore[no-untyped-def]
    """a and b of dx; `mean_off`: of t - mean * s."""
    a = -u * r * r * mean_off / count
    return a, -u * mean_s / count - a * mean


def _masked(x, dy, u, v, relu):  # type: ignore[no-untyped-def]
    return jnp.where(x * u + v > 0, dy, 0) if relu else dy


def _gradient_sums(x, dy, u, v, mean, *, relu):  # type: ignore[no-untyped-def]
    g, axes = _masked(x, dy, u, v, relu), tuple(range(x.ndim - 1))
    return jnp.sum(g, axes), jnp.sum(g * (x - mean), axes)


def _gradient(x, dy, u, v, a, b, *, relu):  # type: ignore[no-untyped-def]
    return _masked(x, dy, u, v, relu) * u + x * a + b


def _gradients(epsilon, axis_name, saved, dy):  # type: ignore[no-untyped-def]
    x, mean, var, scale, bias, y, _ = saved
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    g = _wide(dy if y is None else jnp.where(y > 0, dy, jnp.zeros((), dy.dtype)))
    s, t = jnp.sum(g, axes), jnp.sum(g * _wide(x), axes)
    r = jax.lax.rsqrt(var + epsilon)
    dscale = r * (t - mean * s)
    mean_s, mean_t = _pmean(s, axis_name), _pmean(t, axis_name)
    u = scale * r
    a, b = _coefficients(u, r, mean, mean_s, mean_t - mean * mean_s, count)
    dx = materialize((g * u + _wide(x) * a + b).astype(x.dtype))
    return dx, dscale.astype(scale.dtype), s.astype(bias.dtype)


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)
