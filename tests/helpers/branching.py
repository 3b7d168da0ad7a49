"""A model of branches on the inputs of `two_inputs`, with an output that two blocks are given.

spectrum      -> first -> second --+
                   |               +--> merge -> deep --+--> head
noise, mask   -> other ------------+                    |
                   +------- first ----------------------+
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdist.models import BatchNorm, Dropout


class Conv(nn.Module):
    """Of an input, or of several side by side."""

    features: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, context):
        arrays = list(x.values()) if isinstance(x, dict) else [x]
        kind = next(one.dtype for one in arrays if jnp.issubdtype(one.dtype, jnp.floating))
        arrays = [one[..., None] if one.ndim == 2 else one for one in arrays]
        x = nn.Conv(self.features, (3,), name="conv")(jnp.concatenate([one.astype(kind) for one in arrays], axis=-1))
        return Dropout(self.dropout, name="dropout")(BatchNorm(relu=True, name="norm")(x, context), context)


class Dense(nn.Module):
    features: int
    relu: bool = True

    @nn.compact
    def __call__(self, x, context):
        del context
        arrays = jax.tree.leaves(x)
        flat = jnp.concatenate([one.reshape(one.shape[0], -1) for one in arrays], axis=-1)
        x = nn.Dense(self.features, name="dense")(flat)
        return nn.relu(x) if self.relu else x


def build(num_outputs: int, *, features: int = 3, dropout: float = 0.2):
    return [
        ("first", Conv(features), "spectrum"),
        ("second", Conv(features, dropout)),
        ("other", Conv(features), ("noise", "mask")),
        ("merge", Dense(6), ("second", "other")),
        ("deep", Dense(5)),
        ("head", Dense(num_outputs, relu=False), ("deep", "first")),
    ]


def chain(num_outputs: int, **_: object):
    """The same kind of blocks one after the other."""
    return [("all", Conv(3), ("spectrum", "noise", "mask")), ("deep", Dense(5)), ("head", Dense(num_outputs, False))]
