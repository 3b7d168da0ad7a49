"""Several inputs, a branch of convolutions for each, and dense layers where they meet.

input a --> a_conv1 --> a_conv2 --> a_dense --+
                                              +--> merge --> head
input b --> b_conv1 --> b_conv2 --> b_dense --+
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax

from jaxdist.models.context import Context
from jaxdist.models.layers import BatchNorm, DenseRelu, Outputs, conv


class ConvNorm(nn.Module):
    """A 3 x 3 convolution, BatchNorm and ReLU."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        return BatchNorm(relu=True, name="norm")(conv(self.features, 3, self.stride, name="conv")(x), context)


def build(
    num_outputs: int,
    *,
    inputs: Sequence[str],
    widths: Mapping[str, int] | int = 32,
    features: int = 64,
    stride: int = 1,
    dropout: float = 0.0,
) -> list[tuple[str, nn.Module, str | tuple[str, ...]]]:
    """Blocks of the network.

    Args:
      inputs: names of those that the data have, each of images [height, width, channels].
      widths: channels of a branch's first convolution, one number or {input: number}; doubled by the second.
      features: of each dense layer.
      stride: of each convolution: 2 for large images.

    Raises:
      ValueError: there are fewer than two inputs, or widths of others.
    """
    if len(inputs) < 2:
        raise ValueError(
            f"model.name='branches' has a branch for each of several inputs, and there is {inputs[0]!r} alone"
        )
    each = dict(widths) if isinstance(widths, Mapping) else dict.fromkeys(inputs, widths)
    if set(each) != set(inputs):
        raise ValueError(f"model.options.widths={each} must have each of the inputs {', '.join(inputs)}, and no other")
    blocks: list[tuple[str, nn.Module, str | tuple[str, ...]]] = []
    for name in inputs:
        blocks.append((f"{name}_conv1", ConvNorm(each[name], stride), name))
        blocks.append((f"{name}_conv2", ConvNorm(2 * each[name], stride), f"{name}_conv1"))
        blocks.append((f"{name}_dense", DenseRelu(features), f"{name}_conv2"))
    merged = tuple(f"{name}_dense" for name in inputs)
    return [*blocks, ("merge", DenseRelu(features, dropout), merged), ("head", Outputs(num_outputs), "merge")]


def partition_rules(**_: object) -> tuple[str, ...]:
    """Dense layers' channels apart where the branches meet; the head's output is summed."""
    return (r"^merge/dense/kernel$ = -,model", r"^merge/dense/bias$ = model", r"^head/dense/kernel$ = model,-")
