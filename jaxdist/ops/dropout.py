"""Dropout whose bits are a hash of counters: cheap, and computed again for the backward pass instead of stored.

Each element's 32 bits are `mix32(mix32(key + mix32(position)) + index * 0x9E3779B9)`: of the layer's key, its example's
position in the stream and its index in the example alone. They do not depend on how a batch is cut, and fuse into the
multiplication; Threefry costs five times as much on CPUs. A native kernel does the same, where there are any.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdist.ops.backend import native_takes
from jaxdist.ops.kinds import DROPOUT, kind
from jaxdist.ops.native import dropout as native
from jaxdist.ops.platforms import choose, materialize


def mix32(h: jax.Array) -> jax.Array:
    """A bijection of uint32 whose every output bit depends on every input bit (MurmurHash3's finaliser)."""
    # By `lax`, on operands of one shape: an operator of jax.numpy is a program to trace, and these are in each block.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = lax.mul(_xor_of_shifted(h, shift), lax.full_like(h, np.uint32(factor)))
    return _xor_of_shifted(h, 16)


def _xor_of_shifted(h: jax.Array, shift: int) -> jax.Array:
    return lax.bitwise_xor(h, lax.shift_right_logical(h, lax.full_like(h, np.uint32(shift))))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def dropout(x: jax.Array, key: jax.Array, positions: jax.Array, rate: float) -> jax.Array:
    """x [batch, ...] with a share `rate` of its elements set to 0 and the others divided by 1 - rate.

    Args:
      key: uint32 scalar, of the layer.
      positions: uint32 [batch], of the examples in the stream.
      rate: in [0, 1).
    """
    least, scale = min(round(rate * 2**32), 2**32 - 1), 1.0 / (1.0 - rate)
    plain = partial(_dropout, least=least, scale=scale)
    with kind(DROPOUT):
        key, positions = jnp.asarray(key, jnp.uint32), positions.astype(jnp.uint32)
        if native_takes(x):
            return choose(x, key, positions, cpu=partial(native.dropout, least=least, scale=scale), plain=plain)
        return plain(x, key, positions)


def _dropout(x: jax.Array, key: jax.Array, positions: jax.Array, *, least: int, scale: float) -> jax.Array:
    per_example = mix32(key + mix32(positions))
    elements = jnp.arange(np.prod(x.shape[1:], dtype=np.int64), dtype=jnp.uint32).reshape(x.shape[1:])
    shape = (-1,) + (1,) * (x.ndim - 1)
    bits = mix32(per_example.reshape(shape) + elements * np.uint32(0x9E3779B9))
    kept = bits >= np.uint32(least)
    wide = jnp.promote_types(x.dtype, jnp.float32)  # in bfloat16 the factor itself would be rounded
    scaled = (x.astype(wide) * np.asarray(scale, wide)).astype(x.dtype)
    return materialize(jnp.where(kept, scaled, jnp.zeros((), x.dtype)))


def _fwd(x, key, positions, rate):  # type: ignore[no-untyped-def]
    return dropout(x, key, positions, rate), (key, positions)


def _bwd(rate, saved, dy):  # type: ignore[no-untyped-def]
    # Linear, and its own transpose.
    return dropout(dy, *saved, rate), None, None


dropout.defvjp(_fwd, _bwd)
