"""DenseNet and DenseNet-BC for small images: Huang et al. 2017 (arXiv:1608.06993), sections 3 and 4.2.

Three dense blocks; every layer's output is concatenated to its input. Plain: depth 3n+4, one 3x3 convolution a layer.
BC: depth 6n+4, a 1x1 convolution to 4k channels before each 3x3 one, and transitions that keep `reduction` of the
channels. The first convolution has 16 channels (plain) or 2k (BC). Dropout follows each convolution but the first.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdist import ops
from jaxdist.models.context import Context
from jaxdist.models.layers import BatchNorm, Classifier, Dropout, conv


class Stem(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        del context
        return conv(self.features, 3, name="conv")(x)


class DenseLayer(nn.Module):
    """concat(x, conv3x3(act(conv1x1(act(x))))); without the inner pair when not `bottleneck`."""

    growth_rate: int
    bottleneck: bool
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        y = BatchNorm(relu=True, name="norm1")(x, context)
        if self.bottleneck:
            y = conv(4 * self.growth_rate, 1, name="conv1")(y)
            y = Dropout(self.dropout, name="dropout1")(y, context)
            y = BatchNorm(relu=True, name="norm2")(y, context)
        y = conv(self.growth_rate, 3, name="conv2")(y)
        y = Dropout(self.dropout, name="dropout2")(y, context)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """act, 1x1 convolution to `features` channels, 2x2 average pooling."""

    features: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = BatchNorm(relu=True, name="norm")(x, context)
        x = conv(self.features, 1, name="conv")(x)
        x = Dropout(self.dropout, name="dropout")(x, context)
        return ops.average_pool(x)


class Head(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = BatchNorm(relu=True, name="norm")(x, context)
        return Classifier(self.num_classes, name="classifier")(x, context)


def build(
    num_classes: int,
    *,
    depth: int = 40,
    growth_rate: int = 12,
    reduction: float = 0.5,
    dropout: float = 0.0,
    bottleneck: bool = True,
) -> list[tuple[str, nn.Module]]:
    """Blocks of a DenseNet (`bottleneck=False, reduction=1.0`) or a DenseNet-BC.

    Args:
      depth: 6n+4 with bottlenecks (10, 16, ..., 40, 100), 3n+4 without (7, 10, ..., 40, 100).
      growth_rate: channels each layer adds (k).
      reduction: share of the channels that a transition keeps (theta), in (0, 1].
      dropout: share of activations dropped after each convolution but the first, in [0, 1).

    Raises:
      ValueError: one of them is out of range.
    """
    step = 6 if bottleneck else 3
    layers, rest = divmod(depth - 4, step)
    if rest or layers < 1:
        good = [step * k + 4 for k in range(1, 60)]
        near = sorted(sorted(good, key=lambda d: abs(d - depth))[:2])
        kind = "with" if bottleneck else "without"
        raise ValueError(
            f"A densenet {kind} bottlenecks has depth {step}n+4; model.depth={depth} is none. Nearest: {near}."
        )
    if not 0.0 < reduction <= 1.0:
        raise ValueError(f"model.reduction must lie in (0, 1]; got {reduction}.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"model.dropout must lie in [0, 1); got {dropout}.")
    channels = 2 * growth_rate if bottleneck else 16
    blocks: list[tuple[str, nn.Module]] = [("stem", Stem(channels))]
    for number in (1, 2, 3):
        for k in range(layers):
            blocks.append((f"dense{number}_layer{k + 1}", DenseLayer(growth_rate, bottleneck, dropout)))
            channels += growth_rate
        if number < 3:
            channels = math.floor(channels * reduction)
            blocks.append((f"transition{number}", Transition(channels, dropout)))
    return [*blocks, ("head", Head(num_classes))]


def partition_rules(*, bottleneck: bool = True, **_: Any) -> tuple[str, ...]:
    """How channels may be divided: a bottleneck's inner ones stay apart, its output is summed.

    Transitions and the classifier are whole: divided by inputs, they would divide all activations before them too, and
    XLA gathers those for every layer. A plain DenseNet has no inner channels, and no rules.
    """
    if not bottleneck:
        return ()
    return (
        r"dense\d+_layer\d+/conv1/kernel = -,-,-,model",
        r"dense\d+_layer\d+/norm2/ = model",
        r"dense\d+_layer\d+/conv2/kernel = -,-,model,-",
    )
