"""Dropout by the native kernel; `jaxdist.ops.dropout` has the formula. float32 alone; call `library.load` first."""

from __future__ import annotations

import jax
import numpy as np

from jaxdist.ops.native.library import target


def dropout(x: jax.Array, key: jax.Array, positions: jax.Array, *, least: int, scale: float) -> jax.Array:
    """x [batch, ...] times `scale` where an element's hash is at least `least`, else 0.

    Args:
      key: uint32 scalar.
      positions: uint32 [batch].
    """
    made = jax.ShapeDtypeStruct(x.shape, np.float32)
    call = jax.ffi.ffi_call(target("dropout"), made, vmap_method="sequential")
    return call(x, key, positions, least=np.int64(least), scale=np.float32(scale))
