"""The passes of batch normalisation by the native kernels; `jaxdist.ops.normalization` has the formulas.

float32 alone, of x [..., features] with at least `LEAST_FEATURES`; call `library.load` first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdist.ops.native.library import target

LEAST_FEATURES = 16  # the lanes of the widest vector


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, biased variance) of each feature, from one pass over x."""
    each = jax.ShapeDtypeStruct(x.shape[-1:], np.float32)
    mean, var = _call("moments", (each, each))(x)
    return mean, var


def normalize(x: jax.Array, u: jax.Array, v: jax.Array, *, relu: bool) -> jax.Array:
    """x * u + v, then max(., 0) with `relu`."""
    return _call("normalize", _like(x))(x, u, v, relu=relu)


def gradient_sums(
    x: jax.Array, dy: jax.Array, u: jax.Array, v: jax.Array, mean: jax.Array, *, relu: bool
) -> tuple[jax.Array, jax.Array]:
    """sum(g) and sum(g * (x - mean)) of each feature, g = dy, with `relu` where x * u + v > 0."""
    each = jax.ShapeDtypeStruct(x.shape[-1:], np.float32)
    s, t = _call("gradient_sums", (each, each))(x, dy, u, v, mean, relu=relu)
    return s, t


def gradient(
    x: jax.Array, dy: jax.Array, u: jax.Array, v: jax.Array, a: jax.Array, b: jax.Array, *, relu: bool
) -> jax.Array:
    """g * u + x * a + b."""
    return _call("normalize_gradient", _like(x))(x, dy, u, v, a, b, relu=relu)


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, np.float32)


def _call(operation: str, made: Any) -> Callable[..., Any]:
    return jax.ffi.ffi_call(target(operation), made, vmap_method="sequential")
