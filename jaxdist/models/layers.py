"""Layers that the model families share, and that a user's own model should use.

`Dropout` and `BatchNorm` differ from Flax's on purpose: their results do not depend on how a strategy spreads the
batch over devices, processes or microbatches (dropout), and are spread over a mesh axis on request (BatchNorm).
"""

from __future__ import annotations

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdist import ops
from jaxdist.models.context import Context
from jaxdist.ops.kinds import BATCH_NORM_FORWARD, POOLING

# He et al. 2015 (arXiv:1502.01852), eq. 10: normal with variance 2 / fan_in, not truncated.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def conv(features: int, kernel: int, strides: int = 1, *, name: str) -> Conv:
    """A `kernel` x `kernel` convolution without bias (BatchNorm has one), 'same' padding as in the papers' code.

    The padding is written out because XLA's 'SAME' pads strided convolutions on one side only.
    """
    return Conv(features, (kernel, kernel), (strides, strides), padding=(kernel - 1) // 2, use_bias=False, name=name)


class Conv(nn.Module):
    """A 2-D convolution by `jaxdist.ops.conv`: parameters, bits and numbers of `flax.linen.Conv` of like arguments.

    Parameters: `kernel` [height, width, in, out], and `bias` [out] with `use_bias`. It computes in x's dtype, pads by
    `padding` on all sides and begins with He's normal distribution, where Flax promotes, pads to 'SAME' and has
    LeCun's.

    Raises:
      ValueError: the examples are no images.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: int = 0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = he_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.ndim != 4:
            raise ValueError(f"a convolution takes images [height, width, channels], not examples of {x.shape[1:]}")
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)  # the same bits whatever param_dtype
        around = ((self.padding, self.padding),) * 2
        y = ops.conv(x, kernel.astype(x.dtype), self.strides, around)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(x.dtype)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation over all dimensions but the last (Ioffe and Szegedy 2015, arXiv:1502.03167, alg. 1).

    Statistics are at least float32 whatever the input's dtype. Parameters: `scale`, `bias`; statistics: `mean`, `var`,
    each [features]. With `relu`, ReLU follows in the same pass over the elements.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    relu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        if not context.train:
            known = running_mean.value, running_var.value
            with ops.kind(BATCH_NORM_FORWARD):
                return ops.normalize(x, *known, scale, bias, self.epsilon, self.relu)
        y, mean, var = ops.batch_norm(x, scale, bias, self.epsilon, self.relu, context.batch_axis)
        if not self.is_initializing():
            keep = self.momentum
            with ops.kind(BATCH_NORM_FORWARD):
                running_mean.value = keep * running_mean.value + (1 - keep) * mean.astype(running_mean.value.dtype)
                running_var.value = keep * running_var.value + (1 - keep) * var.astype(running_var.value.dtype)
        return y


class Dropout(nn.Module):
    """Dropout whose bits are a function of (seed, block, layer, position in the stream, element) alone."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        if not context.train or self.rate == 0.0 or context.dropout_key is None or context.positions is None:
            return x
        layer = np.uint32(zlib.crc32("/".join(self.path).encode()))
        return ops.dropout(x, ops.mix32(context.dropout_key ^ layer), context.positions, self.rate)


class Classifier(nn.Module):
    """Global average pooling and a dense layer: [batch, height, width, channels] -> logits [batch, num_classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        del context
        with ops.kind(POOLING):
            x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=None, name="dense")(x)


class DenseRelu(nn.Module):
    """Flatten, dense, ReLU, dropout; several arrays are put side by side first, in the order of their names."""

    features: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array | dict[str, jax.Array], context: Context) -> jax.Array:
        flat = [one.reshape(one.shape[0], -1) for one in jax.tree.leaves(x)]
        joined = jnp.concatenate(flat, axis=-1) if len(flat) > 1 else flat[0]
        hidden = ops.relu(nn.Dense(self.features, dtype=joined.dtype, name="dense")(joined))
        return Dropout(self.dropout, name="dropout")(hidden, context)


class Outputs(nn.Module):
    """A dense layer: [batch, features] -> [batch, count]."""

    count: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        del context
        return nn.Dense(self.count, dtype=x.dtype, name="dense")(x)
