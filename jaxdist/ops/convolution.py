"""Two-dimensional convolution with derivatives in the shapes that XLA's CPU backend is quick at.

    y[n, h, w, o] = sum_{a, b, i} x[n, h*s + a - p, w*s + b - p, i] * k[a, b, i, o]

native    where there are native kernels (`backend.use`) they compute all three, but for the input gradient of 1x1.
1x1       a matrix product of [pixels, in] and [in, out], as are its derivatives.
forward   XLA's own. Up to 16 output channels leave half of a tile empty: two neighbouring output pixels are then taken
          as 2*out channels of a convolution of stride 2, with a kernel one column wider. The output has the same bytes:

              k      b0 b1 b2         pixel 2w      b0 b1 b2  0
                                      pixel 2w+1     0 b0 b1 b2      [kh, kw+1, in, 2*out]

dx        the convolution of dy with the kernel turned by 180 degrees (stride 1; else XLA's own).
dk        sum over pixels q of dy[q + t] * x[q], for each tap t: a convolution of one image by the other, in which
          channels of one are the batch, channels of the other the output channels, and the *examples* the channels.
          Summed over groups of a few examples, since the products are as long as a group has pixels and should stay
          in cache. The side with fewer channels is the batch, so that the output channels fill a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxdist.ops.backend import native_takes
from jaxdist.ops.kinds import CONVOLUTION_FORWARD, CONVOLUTION_INPUT_GRADIENT, CONVOLUTION_KERNEL_GRADIENT, kind
from jaxdist.ops.native import convolution as native
from jaxdist.ops.platforms import choose, materialize

Padding = tuple[tuple[int, int], tuple[int, int]]

_NARROW = 16  # output channels that leave half of a tile empty
_GROUP_PIXELS = 768  # of the kernel gradient's groups of examples


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """Convolution of x [batch, height, width, in] with kernel [kh, kw, in, out] of x's dtype: [batch, h', w', out].

    Args:
      strides: of height and width.
      padding: ((top, bottom), (left, right)), zeros.
    """
    with kind(CONVOLUTION_FORWARD):
        return choose(
            x, kernel, cpu=partial(_forward, strides=strides, padding=padding), plain=_plain(strides, padding)
        )


def _conv_fwd(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, strides, padding), (x, kernel)


def _conv_bwd(
    strides: tuple[int, int], padding: Padding, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return choose(
        *saved, dy,
        cpu=partial(_backward, strides=strides, padding=padding),
        plain=partial(_plain_backward, strides=strides, padding=padding),
    )  # fmt: skip


conv.defvjp(_conv_fwd, _conv_bwd)


def _plain(strides: tuple[int, int], padding: Padding):  # type: ignore[no-untyped-def]
    return partial(
        jax.lax.conv_general_dilated,
        window_strides=strides, padding=padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _plain_backward(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: tuple[int, int], padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """XLA's own: one operation for each of the two."""
    plain = _plain(strides, padding)
    with kind(CONVOLUTION_INPUT_GRADIENT):
        (dx,) = jax.vjp(lambda x: plain(x, kernel), x)[1](dy)
    with kind(CONVOLUTION_KERNEL_GRADIENT):
        (dkernel,) = jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](dy)
    return dx, dkernel


def _is_dot(kernel: jax.Array, padding: Padding) -> bool:
    return kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0))


def _forward(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    inputs, outputs = kernel.shape[2:]
    if native_takes(x, kernel):
        return native.forward(x, kernel, strides, padding)
    if _is_dot(kernel, padding):
        if strides != (1, 1):
            x = materialize(x[:, :: strides[0], :: strides[1]])
        return (x.reshape(-1, inputs) @ kernel[0, 0]).reshape(*x.shape[:3], outputs)
    width = x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1
    if strides != (1, 1) or outputs > _NARROW or width % 2:
        return _plain(strides, padding)(x, kernel)
    pair = jnp.stack([jnp.pad(kernel, ((0, 0), (j, 1 - j), (0, 0), (0, 0))) for j in (0, 1)], axis=3)
    pair = pair.reshape(kernel.shape[0], kernel.shape[1] + 1, inputs, 2 * outputs)
    y = _plain((1, 2), padding)(x, pair)
    return y.reshape(*y.shape[:2], width, outputs)


def _backward(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: tuple[int, int], padding: Padding
) -> tuple[jax.Array, jax.Array]:
    height, width, inputs, outputs = kernel.shape
    by_kernels = native_takes(x, kernel, dy)
    if by_kernels and not _is_dot(kernel, padding):
        with kind(CONVOLUTION_INPUT_GRADIENT):
            dx = native.input_gradient(dy, kernel, x.shape, strides, padding)
        with kind(CONVOLUTION_KERNEL_GRADIENT):
            return dx, native.kernel_gradient(x, dy, kernel.shape, strides, padding)
    if strides != (1, 1):
        return _strided_backward(x, kernel, dy, strides, padding)
    if _is_dot(kernel, padding):
        flat = dy.reshape(-1, outputs)
        with kind(CONVOLUTION_INPUT_GRADIENT):
            dx = (flat @ kernel[0, 0].T).reshape(x.shape)
        with kind(CONVOLUTION_KERNEL_GRADIENT):
            if by_kernels:
                return dx, native.kernel_gradient(x, dy, kernel.shape, strides, padding)
            return dx, (x.reshape(-1, inputs).T @ flat)[None, None]
    (top, bottom), (left, right) = padding
    around = ((height - 1 - top, height - 1 - bottom), (width - 1 - left, width - 1 - right))
    with kind(CONVOLUTION_INPUT_GRADIENT):
        turned = kernel.reshape(-1, inputs, outputs)[::-1].swapaxes(1, 2).reshape(height, width, outputs, inputs)
        dx = _forward(dy, turned, strides, around)
    with kind(CONVOLUTION_KERNEL_GRADIENT):
        return dx, kernel_gradient(x, dy, (height, width), padding)


def _strided_backward(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: tuple[int, int], padding: Padding
) -> tuple[jax.Array, jax.Array]:
    if not _is_dot(kernel, padding):
        return _plain_backward(x, kernel, dy, strides, padding)
    seen = materialize(x[:, :: strides[0], :: strides[1]])
    dseen, dkernel = _backward(seen, kernel, dy, (1, 1), padding)
    spread = [(0, 0, 0)]
    for size, step, whole in zip(seen.shape[1:3], strides, x.shape[1:3], strict=True):
        spread.append((0, whole - (size - 1) * step - 1, step - 1))
    with kind(CONVOLUTION_INPUT_GRADIENT):
        return jax.lax.pad(dseen, jnp.zeros((), x.dtype), [*spread, (0, 0, 0)]), dkernel


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Sequence[int], padding: Padding) -> jax.Array:
    """d loss / d kernel [kh, kw, in, out] of a convolution of stride 1; see the module's docstring."""
    examples, height, width = dy.shape[:3]
    swapped = x.shape[-1] >= dy.shape[-1]  # dy is the batch, and the taps come out in reverse order
    (top, bottom), (left, right) = padding
    high, wide = window[0] - 1, window[1] - 1
    near = (high - top, high - bottom), (wide - left, wide - right)

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        batch, columns = (dy, x) if swapped else (x, dy)
        count, rows, width, channels = batch.shape
        batch = batch.reshape(count, rows * width, channels).transpose(2, 1, 0).reshape(channels, rows, width, count)
        rows, width, channels = columns.shape[1:]
        columns = columns.reshape(count, rows * width, channels).swapaxes(0, 1).reshape(rows, width, count, channels)
        return _plain((1, 1), near if swapped else padding)(batch, columns)

    group = _group(examples, height * width, max(x.shape[-1], dy.shape[-1]))
    total = part(x, dy) if group >= examples else _sum_over_groups(part, x, dy, group)
    if swapped:
        return total[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    return total.transpose(1, 2, 0, 3)


def _sum_over_groups(
    part: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, dy: jax.Array, group: int
) -> jax.Array:
    """The sum of `part` over groups of examples. A last one that is smaller starts earlier, its first examples as 0."""
    examples = len(x)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        start = jnp.minimum(number * group, examples - group)
        sides = [jax.lax.dynamic_slice_in_dim(side, start, group) for side in (x, dy)]
        if examples % group:
            new = (jnp.arange(group) + start >= number * group).astype(dy.dtype)
            sides[1] *= new[:, None, None, None]
        return total + part(*sides).astype(total.dtype), None

    shape = jax.eval_shape(part, x[:group], dy[:group]).shape
    start = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))  # bfloat16 would round after each group
    return jax.lax.scan(add, start, jnp.arange(-(-examples // group)))[0].astype(x.dtype)


def _group(examples: int, pixels: int, columns: int) -> int:
    """How many examples of so many pixels one product takes, with so many output channels."""
    if columns <= _NARROW:
        return -(-examples // max(examples // 13, 1))
    group = 4
    while group * 2 * pixels <= _GROUP_PIXELS:
        group *= 2
    return group
