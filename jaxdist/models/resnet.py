"""Residual networks for small images.

Version 1: He et al. 2015, "Deep Residual Learning" (arXiv:1512.03385), section 4.2: depth 6n+2, three stages of n
basic blocks with 16, 32, 64 channels, parameter-free shortcuts (option A: every second pixel, channels padded with
zeros). Version 2: He et al. 2016, "Identity Mappings" (arXiv:1603.05027): depth 9n+2, pre-activation bottlenecks with
64, 128, 256 output channels; where the shape changes, the shortcut is a 1x1 convolution of the activated input.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdist import ops
from jaxdist.models.context import Context
from jaxdist.models.layers import BatchNorm, Classifier, conv


class Stem(nn.Module):
    """3x3 convolution, followed in version 1 by BatchNorm and ReLU."""

    features: int
    activate: bool

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = conv(self.features, 3, name="conv")(x)
        return BatchNorm(relu=True, name="norm")(x, context) if self.activate else x


class BasicBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x))))))."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        y = conv(self.features, 3, self.strides, name="conv1")(x)
        y = BatchNorm(relu=True, name="norm1")(y, context)
        y = conv(self.features, 3, name="conv2")(y)
        y = BatchNorm(name="norm2")(y, context)
        if x.shape != y.shape:
            missing = self.features - x.shape[-1]
            x = x[:, :: self.strides, :: self.strides, :]
            x = jnp.pad(x, [(0, 0)] * 3 + [(missing // 2, missing - missing // 2)])
        return ops.relu(x + y)


class BottleneckBlock(nn.Module):
    """x + conv1x1(act(conv3x3(act(conv1x1(act(x)))))), act = relu(norm(.))."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        active = BatchNorm(relu=True, name="norm1")(x, context)
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.features:
            shortcut = conv(self.features, 1, self.strides, name="shortcut")(active)
        y = conv(self.features // 4, 1, name="conv1")(active)
        y = BatchNorm(relu=True, name="norm2")(y, context)
        y = conv(self.features // 4, 3, self.strides, name="conv2")(y)
        y = BatchNorm(relu=True, name="norm3")(y, context)
        return shortcut + conv(self.features, 1, name="conv3")(y)


class ActivatedClassifier(nn.Module):
    """BatchNorm, ReLU, global average pooling, dense."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        x = BatchNorm(relu=True, name="norm")(x, context)
        return Classifier(self.num_classes, name="classifier")(x, context)


def build(num_classes: int, *, depth: int = 20, version: int = 1, width: int = 16) -> list[tuple[str, nn.Module]]:
    """Blocks of a CIFAR ResNet.

    Args:
      depth: 6n+2 (version 1: 20, 32, 44, 50, 56, 110) or 9n+2 (version 2: 20, 29, 47, 56, 110).
      version: 1 or 2.
      width: channels of the first stage (16 in the papers).

    Raises:
      ValueError: no network of that depth and version exists.
    """
    if version not in (1, 2):
        raise ValueError(f"model.version is 1 or 2 for a resnet; got {version}.")
    convs_per_block = {1: 6, 2: 9}[version]
    n, rest = divmod(depth - 2, convs_per_block)
    if rest or n < 1:
        good = [convs_per_block * k + 2 for k in range(1, 20)]
        near = sorted(sorted(good, key=lambda d: abs(d - depth))[:2])
        raise ValueError(
            f"A version {version} resnet has depth {convs_per_block}n+2; model.depth={depth} is none. Nearest: {near}."
        )
    block = {1: BasicBlock, 2: BottleneckBlock}[version]
    expansion = {1: 1, 2: 4}[version]
    blocks: list[tuple[str, nn.Module]] = [("stem", Stem(width, activate=version == 1))]
    for stage in range(3):
        for k in range(n):
            strides = 2 if stage > 0 and k == 0 else 1
            blocks.append((f"stage{stage + 1}_block{k + 1}", block(width * expansion * 2**stage, strides)))
    head = Classifier if version == 1 else ActivatedClassifier
    return [*blocks, ("head", head(num_classes))]


def partition_rules(*, version: int = 1, **_: Any) -> tuple[str, ...]:
    """How channels may be divided.

    Version 1: a block's inner channels stay apart and its output is summed. The classifier is whole: divided by inputs
    it would divide all that comes before it (an all-gather for each layer), by classes it takes seven small collectives
    for 640 numbers. Version 2: the channels between blocks stay
    apart; inside a block, the first convolution's output is summed and the second's is gathered.
    """
    if version == 1:
        return (
            r"block\d+/conv1/kernel = -,-,-,model",
            r"block\d+/norm1/ = model",
            r"block\d+/conv2/kernel = -,-,model,-",
        )
    return (
        r"^stem/conv/kernel = -,-,-,model",
        r"block\d+/norm1/ = model",
        r"block\d+/conv1/kernel = -,-,model,-",
        r"block\d+/conv2/kernel = -,-,-,model",
        r"block\d+/norm3/ = model",
        r"block\d+/(conv3|shortcut)/kernel = -,-,-,model",
        r"^head/norm/ = model",
        r"^head/classifier/dense/kernel = model,-",
    )
