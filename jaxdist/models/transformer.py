"""A small causal transformer over tokens (Vaswani et al. 2017, arXiv:1706.03762), with its norms before the layers.

    tokens [b, length] -> embed -> layer1 -> layer2 -> ... -> head -> logits [b, length, vocabulary]

Each position sees those before it and itself. Token 0 is padding: nobody sees it. Every layer is given the tokens too,
for that.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdist import ops
from jaxdist.models.context import Context
from jaxdist.models.layers import Dropout

TOKENS = "tokens"  # the input
PADDING = 0


class Embed(nn.Module):
    """Learnt vectors of tokens and of their positions."""

    vocabulary: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"a transformer takes tokens, integers, and not {x.dtype}: give the input the scale None")
        small = nn.initializers.normal(0.02)
        table = self.param("embedding", small, (self.vocabulary, self.width), jnp.float32)
        position = self.param("position", small, (x.shape[1], self.width), jnp.float32)
        made = table[x] + position
        return made.astype(context.dtype) if context.dtype is not None else made


class Attention(nn.Module):
    """Causal self-attention of several heads; statistics of the softmax are float32 at least."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        dense = lambda name: nn.Dense(width, use_bias=False, dtype=x.dtype, name=name)  # noqa: E731
        query, key, value = (
            dense(name)(x).reshape(batch, length, self.heads, -1) for name in ("query", "key", "value")
        )
        wide = jnp.promote_types(x.dtype, jnp.float32)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(wide) / math.sqrt(width / self.heads)
        seen = jnp.tril(jnp.ones((length, length), bool)) & (tokens != PADDING)[:, None, None, :]
        shares = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(wide).min)).astype(x.dtype)
        return dense("out")(jnp.einsum("bhqk,bkhd->bqhd", shares, value).reshape(batch, length, width))


class Layer(nn.Module):
    """Attention, then two dense layers on each position, each added to what comes in."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: Any, context: Context) -> jax.Array:
        tokens = x[TOKENS]
        (x,) = (value for name, value in x.items() if name != TOKENS)
        norm = lambda name: nn.LayerNorm(dtype=x.dtype, name=name)  # noqa: E731
        y = Attention(self.heads, name="attention")(norm("norm1")(x), tokens)
        x = x + Dropout(self.dropout, name="dropout1")(y, context)
        y = nn.Dense(4 * x.shape[-1], dtype=x.dtype, name="dense1")(norm("norm2")(x))
        y = nn.Dense(x.shape[-1], dtype=x.dtype, name="dense2")(ops.relu(y))
        return x + Dropout(self.dropout, name="dropout2")(y, context)


class Head(nn.Module):
    """Logits of the next token at each position."""

    vocabulary: int

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        del context
        return nn.Dense(self.vocabulary, dtype=x.dtype, name="dense")(nn.LayerNorm(dtype=x.dtype, name="norm")(x))


def build(
    num_outputs: int, *, layers: int = 2, width: int = 32, heads: int = 2, dropout: float = 0.0
) -> list[tuple[str, nn.Module] | tuple[str, nn.Module, tuple[str, ...]]]:
    """Blocks of the model; the vocabulary is `num_outputs`.

    Raises:
      ValueError: the width has no equal parts for the heads, or there is no layer.
    """
    if layers < 1 or heads < 1 or width % heads:
        given = f"layers={layers}, width={width}, heads={heads}"
        raise ValueError(f"a transformer needs a layer or more and a width that its heads divide, not {given}")
    blocks: list[Any] = [("embed", Embed(num_outputs, width), (TOKENS,))]
    for k in range(1, layers + 1):
        blocks.append((f"layer{k}", Layer(heads, dropout), (blocks[-1][0], TOKENS)))
    return [*blocks, ("head", Head(num_outputs))]


def partition_rules(**_: Any) -> tuple[str, ...]:
    """Heads, and the wide part between two dense layers, apart; their outputs are summed."""
    return (
        r"^layer\d+/attention/(query|key|value)/kernel$ = -,model",
        r"^layer\d+/attention/out/kernel$ = model,-",
        r"^layer\d+/dense1/kernel$ = -,model",
        r"^layer\d+/dense1/bias$ = model",
        r"^layer\d+/dense2/kernel$ = model,-",
    )
