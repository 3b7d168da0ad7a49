"""The fast convolution against XLA's: values, gradients, dtypes, sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gradients import assert_close, numbers, plain_conv, reference, with_gradients
from helpers.processes import long
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdist import ops


@pytest.mark.parametrize(
    ("examples", "size", "kernel", "inputs", "outputs", "strides", "pad"),
    [
        (2, 8, 1, 5, 7, 1, 0),
        (2, 7, 1, 5, 7, 2, 0),  # odd size, strided product
        (2, 8, 3, 4, 12, 1, 1),  # pairs of pixels
        long(2, 7, 3, 4, 12, 1, 1),  # an odd width has none
        long(2, 9, 3, 2, 8, 1, 0),  # 'valid'
        (2, 8, 3, 3, 18, 1, 1),  # wide enough without pairs
        long(2, 9, 3, 4, 6, 2, 1),
        long(2, 9, 7, 3, 6, 1, 3),
        (2, 9, 7, 3, 6, 2, 3),
        (7, 8, 3, 20, 18, 1, 1),  # groups of examples of which the last overlaps
        (8, 16, 3, 18, 20, 1, 1),  # whole groups, x as the batch
        (27, 4, 3, 4, 4, 1, 1),  # narrow groups
    ],
)
def test_conv(examples, size, kernel, inputs, outputs, strides, pad):
    """In every dtype against float64."""
    arguments = (strides, strides), ((pad, pad), (pad, pad))
    fast = with_gradients(lambda x, k: ops.conv(x, k, *arguments))
    plain = reference(lambda x, k: plain_conv(x, k, *arguments))
    with jax.enable_x64(True):
        for dtype in ("float64", "float32", "bfloat16"):
            x = numbers(0, examples, size, size, inputs, dtype=dtype)
            k = numbers(1, kernel, kernel, inputs, outputs, dtype=dtype)
            wide = jax.tree.map(np.asarray, plain(x.astype(np.float64), k.astype(np.float64)))
            assert_close(fast(x, k), jax.tree.map(lambda leaf, d=x.dtype: leaf.astype(d), wide), dtype)


@settings(max_examples=6)
@given(
    st.integers(1, 9), st.tuples(st.integers(4, 9), st.integers(4, 9)), st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 20), st.integers(1, 20), st.tuples(st.integers(0, 4), st.integers(0, 4)),
)  # fmt: skip
def test_convolutions_of_any_size(examples, size, window, inputs, outputs, pad):
    with jax.enable_x64(True):
        x, k = numbers(0, examples, *size, inputs), numbers(1, *window, inputs, outputs)
        arguments = (1, 1), (pad, pad[::-1])
        found = with_gradients(lambda x, k: ops.conv(x, k, *arguments))(x, k)
        assert_close(found, reference(lambda x, k: plain_conv(x, k, *arguments))(x, k))


def test_many_groups_of_bfloat16_lose_nothing():
    x, dy = numbers(0, 128, 8, 8, 24, dtype="bfloat16"), numbers(1, 128, 8, 8, 24, dtype="bfloat16")
    k = np.zeros((3, 3, 24, 24))

    def gradient(conv, dtype):
        pad = ((1, 1), (1, 1))
        pull = jax.jit(lambda x, k, dy: jax.vjp(lambda k: conv(x, k, (1, 1), pad), k)[1](dy)[0])
        return np.asarray(pull(*(side.astype(jnp.dtype(dtype)) for side in (x, k, dy))), np.float32)

    wide = gradient(plain_conv, "float32")
    error = lambda found: float(np.mean(np.abs(found - wide)))  # noqa: E731
    assert error(gradient(ops.conv, "bfloat16")) < 1.2 * error(gradient(plain_conv, "bfloat16"))
