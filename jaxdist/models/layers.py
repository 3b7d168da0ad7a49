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

from jaxdist.models.context import Context

# He et al. 2015 (arXiv:1502.01852), eq. 10: normal with variance 2 / fan_in, not truncated.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def conv(features: int, kernel: int, strides: int = 1, *, name: str) -> nn.Conv:
    """A `kernel` x `kernel` convolution without bias (BatchNorm has one), 'same' padding as in the papers' code.

    The padding is written out because XLA's 'SAME' pads strided convolutions on one side only.
    """
    pad = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(strides, strides),
        padding=[(pad, pad), (pad, pad)],
        use_bias=False,
        kernel_init=he_normal,
        dtype=None,
        name=name,
    )


class BatchNorm(nn.Module):
    """Batch normalisation over all dimensions but the last (Ioffe and Szegedy 2015, arXiv:1502.03167, alg. 1).

    Statistics are at least float32 whatever the input's dtype. Parameters: `scale`, `bias`; statistics: `mean`, `var`,
    each [features]. The normalisation is folded into one multiply-add per element.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        if context.train:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(wide, axes)
            if context.batch_axis is None:
                var = jnp.mean(jnp.square(wide - mean), axes)
            else:
                # Two small exchanges and no cancellation, against one exchange of E[x] and E[x^2].
                mean = jax.lax.pmean(mean, context.batch_axis)
                var = jax.lax.pmean(jnp.mean(jnp.square(wide - mean), axes), context.batch_axis)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean.astype(running_mean.value.dtype)
                running_var.value = keep * running_var.value + (1 - keep) * var.astype(running_var.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value
        multiplier = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * multiplier
        return x * multiplier.astype(x.dtype) + offset.astype(x.dtype)


def mix32(h: jax.Array) -> jax.Array:
    """A bijection of uint32 whose every output bit depends on every input bit (MurmurHash3's finaliser)."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


class Dropout(nn.Module):
    """Dropout whose bits are a function of (seed, block, layer, position in the stream, element) alone.

    A counter-based hash instead of `jax.random`: the bits do not depend on how the batch is cut, and the hash fuses
    into the multiplication, which is several times cheaper on CPU than Threefry.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        if not context.train or self.rate == 0.0 or context.dropout_key is None or context.positions is None:
            return x
        layer = np.uint32(zlib.crc32("/".join(self.path).encode()))
        key = mix32(context.dropout_key ^ layer)
        per_example = mix32(key + mix32(context.positions.astype(jnp.uint32)))
        elements = jnp.arange(np.prod(x.shape[1:], dtype=np.int64), dtype=jnp.uint32).reshape(x.shape[1:])
        shape = (-1,) + (1,) * (x.ndim - 1)
        bits = mix32(per_example.reshape(shape) + elements * np.uint32(0x9E3779B9))
        kept = bits >= np.uint32(min(round(self.rate * 2**32), 2**32 - 1))
        return jnp.where(kept, x * np.asarray(1.0 / (1.0 - self.rate), x.dtype), jnp.zeros((), x.dtype))


class Classifier(nn.Module):
    """Global average pooling and a dense layer: [batch, height, width, channels] -> logits [batch, num_classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        del context
        return nn.Dense(self.num_classes, dtype=None, name="dense")(jnp.mean(x, axis=(1, 2)))
