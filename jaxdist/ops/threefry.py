"""Threefry-2x32 of which XLA computes only what is used.

The bits are those of JAX's own implementation (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; in
JAX with jax_threefry_partitionable): element i of an array is a function of the key and of i. But JAX computes them on
CPU in a loop over whole arrays, so that a slice of random numbers costs the time and several times the memory of all.
Here the rounds are written out, element by element: they fuse with what makes numbers of them, and with the slice.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Unsigned integers of 8, 16, 32 or 64 bits, [*shape]; `key`: uint32 [2]."""
    if math.prod(shape) >= 2**32:  # an index of two words
        return threefry_prng_impl.random_bits(key, bit_width, shape)
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for dim in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, dim) * np.uint32(stride)
        stride *= shape[dim]
    high, low = _rounds(key[0], key[1], jnp.zeros(shape, jnp.uint32), index)
    if bit_width == 64:
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{bit_width}")


def _rounds(key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 += x1
            x1 = x0 ^ ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation)))
        x0, x1 = x0 + keys[(group + 1) % 3], x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    random_bits=_random_bits,
    fold_in=threefry_prng_impl.fold_in,
    name="threefry2x32_by_element",
    tag="fry_el",
)
