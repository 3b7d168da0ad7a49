"""Threefry element by element: JAX's own bits, of which only those asked for are made."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxdist.ops.threefry import THREEFRY

SHAPES = ((), (0,), (7,), (3, 1, 5), (2, 3, 4, 5))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_random_bits_are_those_of_jax(x64, width):
    data = np.array([3, 2**32 - 5], np.uint32)

    def bits(data, implementation):
        key = jax.random.wrap_key_data(data, impl=implementation)
        return [jax.random.bits(key, shape, f"uint{width}") for shape in SHAPES]

    # The numbers are whole: how well XLA optimises the loops of JAX's own changes none, and takes most of the time.
    plainly = jax.jit(bits, static_argnums=1, compiler_options={"xla_backend_optimization_level": 0})
    own, plain = jax.jit(bits, static_argnums=1)(data, THREEFRY), plainly(data, "threefry2x32")
    for found, wanted in zip(own, plain, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_of_random_numbers_only_what_is_used_is_made():
    def some(data):
        key = jax.random.wrap_key_data(data, impl=THREEFRY)
        return jax.random.truncated_normal(key, -2.0, 2.0, (1000, 1000), np.float32)[:, 3:5]

    compiled = jax.jit(some).lower(np.zeros(2, np.uint32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100_000
