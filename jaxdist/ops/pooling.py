"""Pooling over 2x2 windows that do not overlap, as reshapes: no search through windows when the gradient comes back."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdist.ops.kinds import POOLING, kind
from jaxdist.ops.platforms import materialize


def _windows(x: jax.Array) -> jax.Array:
    """[batch, h, w, c] as [batch, h // 2, 2, w // 2, 2, c]; an odd last row or column belongs to no window."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def average_pool(x: jax.Array) -> jax.Array:
    """Means of x [batch, h, w, c] over 2x2 windows: [batch, h // 2, w // 2, c]."""
    with kind(POOLING):
        return jnp.mean(_windows(x), axis=(2, 4))


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of x [batch, h, w, c] over 2x2 windows: [batch, h // 2, w // 2, c].

    The gradient goes to the first of equal maxima in row-major order, as with `flax.linen.max_pool`.
    """
    with kind(POOLING):
        pairs = _windows(x)
        rows = jnp.maximum(pairs[:, :, 0], pairs[:, :, 1])
        return materialize(jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1]))


def _max_pool_fwd(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = max_pool(x)
    return y, (x, y)


def _max_pool_bwd(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
    with kind(POOLING):
        return (_max_pool_gradient(*saved, dy),)


def _max_pool_gradient(x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
    windows = _windows(x)
    free = jnp.ones(y.shape, bool)  # no earlier element of the window was the maximum
    parts: list[list[jax.Array]] = [[], []]
    for row in (0, 1):
        for column in (0, 1):
            first = free & (windows[:, :, row, :, column] == y)
            free &= ~first
            parts[row].append(jnp.where(first, dy, jnp.zeros((), dy.dtype)))
    dx = jnp.stack([jnp.stack(columns, axis=3) for columns in parts], axis=2)
    batch, height, width, channels = x.shape
    dx = dx.reshape(batch, height // 2 * 2, width // 2 * 2, channels)
    return materialize(jnp.pad(dx, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))))


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
