"""The passes of batch normalisation by the native kernels; `jaxdist.ops.normalization` has the formulas.

float32 alone, of x [..., features] with at least `LEAST_FEATURES`; call `library.load` first.
"""

from __future__ import annotations

import jax
import numpy as np

from jaxdist.ops.native.library import target

LEAST_FEATURES = 16  # the lanes of the widest vector


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, biased variance) of each feature, from one pass over x."""
    each = jax.ShapeDtypeStruct(x.shape[-1:], np.float32)
    mean, var = jax.ffi.ffi_call(target("moments"), (each, each))(x)
    return mean, var


def normalize(x: jax.Array, u: jax.Array, v: jax.Array, *, relu: bool) -> jax.Array:
    """x * u + v, then max(., 0) with `relu`."""
    return jax.ffi.ffi_call(target("normalize"), jax.ShapeDtypeStruct(x.shape, np.float32))(x, u, v, relu=relu)


def gradient_sums(
    x: jax.Array, dy: jax.Array, u: jax.Array, v: jax.Array, mean: jax.Array, *, relu: bool
) -> tuple[jax.Array, jax.Array]:
    """sum(g) and sum(g * (x - mean)) of each feature, g = dy, with `relu` where x * u + v > 0."""
    each = jax.ShapeDtypeStruct(x.shape[-1:], np.float32)
    s, t = jax.ffi.ffi_call(target("gradient_sums"), (each, each))(x, dy, u, v, mean, relu=relu)
    return s, t


def gradient(
    x: jax.Array, dy: jax.Array, u: jax.Array, v: jax.Array, a: jax.Array, b: jax.Array, *, relu: bool
) -> jax.Array:
    """g * u + x * a + b."""
    call = jax.ffi.ffi_call(target("normalize_gradient"), jax.ShapeDtypeStruct(x.shape, np.float32))
    return call(x, dy, u, v, a, b, relu=relu)
