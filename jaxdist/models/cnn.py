"""The small convolutional network of many MNIST tutorials (and of Keras's first example).

    conv 3x3x32 ReLU - conv 3x3x64 ReLU - max-pool 2 - dropout - dense 128 ReLU - dropout - dense

Convolutions are 'valid' and have biases; on 28x28x1 with ten classes it has 1,199,882 parameters.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from jaxdist import ops
from jaxdist.models.context import Context
from jaxdist.models.layers import Conv, DenseRelu, Dropout


class ConvRelu(nn.Module):
    """A 3x3 'valid' convolution and ReLU, then optional 2x2 max-pooling and dropout."""

    features: int
    pool: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = ops.relu(Conv(self.features, (3, 3), kernel_init=nn.linear.default_kernel_init, name="conv")(x))
        if self.pool:
            x = ops.max_pool(x)
        return Dropout(self.dropout, name="dropout")(x, context)


class Logits(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        del context
        return nn.Dense(self.num_classes, name="dense")(x)


def build(num_classes: int, *, width: int = 32) -> list[tuple[str, nn.Module]]:
    """Blocks of the network; `width` is the number of channels of the first convolution."""
    return [
        ("conv1", ConvRelu(width)),
        ("conv2", ConvRelu(2 * width, pool=True, dropout=0.25)),
        ("dense", DenseRelu(4 * width, dropout=0.5)),
        ("head", Logits(num_classes)),
    ]


def partition_rules(**_: Any) -> tuple[str, ...]:
    """How channels may be divided: those of every other layer stay apart, the next layer's output is summed."""
    return (
        r"conv1/conv/kernel = -,-,-,model",
        r"conv1/conv/bias = model",
        r"conv2/conv/kernel = -,-,model,-",
        r"^dense/dense/kernel = -,model",
        r"^dense/dense/bias = model",
        r"^head/dense/kernel = model,-",
    )
