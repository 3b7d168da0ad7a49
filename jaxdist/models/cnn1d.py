"""A convolutional network over spectra: one or several inputs [bins, channels] of equal length, side by side.

conv 11 /4 - conv 7 /3 - conv 5 /3 - conv 3 /2, each with BatchNorm and ReLU - dense, ReLU, dropout - dense
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdist.models.context import Context
from jaxdist.models.layers import BatchNorm, DenseRelu, Outputs, he_normal

KERNELS = ((11, 4), (7, 3), (5, 3), (3, 2))  # (width, stride)


class ConvNorm(nn.Module):
    """A 1-D convolution, BatchNorm and ReLU; several inputs are put side by side first."""

    features: int
    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array | dict[str, jax.Array], context: Context) -> jax.Array:
        if isinstance(x, dict):
            x = jnp.concatenate(list(x.values()), axis=-1)
        if x.ndim != 3:
            raise ValueError(f"cnn1d takes examples [bins, channels], not {list(x.shape[1:])}")
        width, stride = (self.kernel,), (self.stride,)
        convolve = nn.Conv(
            self.features, width, stride, use_bias=False, kernel_init=he_normal, dtype=x.dtype, name="conv"
        )
        return BatchNorm(relu=True, name="norm")(convolve(x), context)


def build(num_outputs: int, *, width: int = 16, dropout: float = 0.0) -> list[tuple[str, nn.Module]]:
    """Blocks of the network; `width`: channels of the first convolution, doubled by the next two."""
    features = (width, 2 * width, 4 * width, 4 * width)
    convolutions: list[tuple[str, nn.Module]] = [
        (f"conv{k}", ConvNorm(count, *shape)) for k, (count, shape) in enumerate(zip(features, KERNELS, strict=True), 1)
    ]
    return [*convolutions, ("dense", DenseRelu(8 * width, dropout)), ("head", Outputs(num_outputs))]


def partition_rules(**_: object) -> tuple[str, ...]:
    """The two dense layers' channels apart; the head's output is summed."""
    return (r"^dense/dense/kernel$ = -,model", r"^dense/dense/bias$ = model", r"^head/dense/kernel$ = model,-")
