"""Convolution and its two gradients by the native kernels; `jaxdist.ops.convolution` has the same by XLA.

float32 alone, and for a program on one device; call `library.load` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdist.ops.native.library import target

Padding = tuple[tuple[int, int], tuple[int, int]]


def forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """Of x [batch, height, width, in] with kernel [kh, kw, in, out]: [batch, h', w', out]."""
    out = [
        (size + sum(around) - taps) // stride + 1
        for size, around, taps, stride in zip(x.shape[1:3], padding, kernel.shape, strides, strict=False)
    ]
    return _call("convolve", (x.shape[0], *out, kernel.shape[3]), x, kernel, strides, padding)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, shape: Sequence[int], strides: tuple[int, int], padding: Padding
) -> jax.Array:
    """d loss / d x, of that shape."""
    return _call("convolve_input_gradient", shape, dy, kernel, strides, padding)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, shape: Sequence[int], strides: tuple[int, int], padding: Padding
) -> jax.Array:
    """d loss / d kernel, of that shape."""
    return _call("convolve_kernel_gradient", shape, x, dy, strides, padding)


def _call(operation: str, shape: Sequence[int], one: Any, other: Any, strides: Any, padding: Any) -> jax.Array:
    made = jax.ShapeDtypeStruct(tuple(shape), np.float32)
    call = jax.ffi.ffi_call(target(operation), made, vmap_method="sequential")
    numbers = {"stride_height": strides[0], "stride_width": strides[1], "top": padding[0][0], "left": padding[1][0]}
    return call(one, other, **{name: np.int64(number) for name, number in numbers.items()})
